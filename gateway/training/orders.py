"""What the configuration says of training beside requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.training.trial import Terms


@dataclass(frozen=True)
class TrainingOrders:
    """Args:
    is_automatic: kinds of requests that have enough pairs are learned without being asked.
    min_pairs: from which on it is worth a training.
    own_pairs: of one kind, from which on it gets an adapter of its own; the others of a policy share one.
    scrubs: addresses and numbers of people are taken out before.
    usd_per_hour: what an hour of training costs; `pays_back_days`: within which it has to be saved again.
    terms: of the shadow and the canary.
    settings: of the training, see `Settings`.
    """

    is_automatic: bool = True
    min_pairs: int = 100
    own_pairs: int = 300
    scrubs: bool = False
    usd_per_hour: float = 0.05
    pays_back_days: float = 30.0
    terms: Terms = Terms()
    settings: Mapping[str, Any] = field(default_factory=dict)
    barred: frozenset[str] = frozenset()
