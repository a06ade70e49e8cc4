"""What a model would make of a request, before it is asked: chance, cost and time, from what is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway.capability.cards import NOTHING, About, Card, prior
from gateway.capability.table import Table
from gateway.trace import Usage

CLUSTER_WEIGHT = 12.0  # outcomes that what is known of a model counts for, against those of a cluster
CARD_WEIGHT = 20.0  # outcomes that its card counts for, against all of its own
CALLS_WEIGHT = 3.0  # calls that a first guess at time and length counts for
ANSWER_TOKENS = 200.0
LATENCY_S = 2.0
TOLD_BY_CHECKS = 0.6  # of what tells right answers from wrong ones, as a correlation
TRUE_PASSES, FALSE_PASSES = 0.95, 0.4  # share of right and of wrong answers that pass a tier's checks
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one model for one request.

    Args:
        p: chance of a good answer, in [0, 1].
        sigma: how far from `p` its worth will be found once its checks have seen the answer; 0 without checks.
        error: how far off `p` may be itself.
        n: outcomes near this request that it rests on.
        cost_usd: None where its price is not known.
        latency_s: also what loading it takes, where it is not loaded.
    """

    p: float
    sigma: float
    error: float
    n: float
    cost_usd: float | None
    latency_s: float
    joules: float

    def as_json(self) -> Json:
        cost = None if self.cost_usd is None else round(self.cost_usd, 8)
        return {
            "p": round(self.p, 4),
            "sigma": round(self.sigma, 4),
            "error": round(self.error, 4),
            "n": round(self.n, 2),
            "cost_usd": cost,
            "latency_s": round(self.latency_s, 3),
            "joules": round(self.joules, 2),
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request its cost depends on. `most_tokens`: of the answer, where the client has set a limit."""

    input_tokens: int = 0
    most_tokens: float | None = None


class Measurable(Protocol):
    """One of those to choose from. `key`: what its outcomes are noted under."""

    @property
    def key(self) -> str: ...
    @property
    def card(self) -> Card: ...
    @property
    def has_checks(self) -> bool: ...


def estimate(
    table: Table,
    places: Sequence[tuple[int, float]],
    model: Measurable,
    asked: Asked,
    about: About = NOTHING,
    load_s: float = 0.0,
) -> Estimate:
    """Args: `places` are the request's clusters with their weights; none where nobody knows."""
    near, whole = table.near(places, model.key), table.of_model(model.key)
    p_model = (whole.s + CARD_WEIGHT * _first_guess(model, about)) / (whole.n + CARD_WEIGHT)
    n = near.n + CLUSTER_WEIGHT
    p = (near.s + CLUSTER_WEIGHT * p_model) / n
    times = near if near.calls >= 1 else whole
    latency_s = (times.latency_s + CALLS_WEIGHT * LATENCY_S) / (times.calls + CALLS_WEIGHT)
    lengths = near if near.counted >= 1 else whole
    tokens = (lengths.output_tokens + CALLS_WEIGHT * ANSWER_TOKENS) / (lengths.counted + CALLS_WEIGHT)
    if asked.most_tokens is not None:
        tokens = min(tokens, asked.most_tokens)
    price, cost_usd = model.card.price, None
    if price is not None:
        cost_usd = price.cost_usd(Usage(asked.input_tokens, round(tokens)), latency_s)
    elif whole.priced > 0:
        known = near if near.priced >= 1 else whole
        cost_usd = known.cost_usd / known.priced
    joules = model.card.joules(tokens, latency_s)
    spread = math.sqrt(p * (1 - p))
    sigma, error = TOLD_BY_CHECKS * spread if model.has_checks else 0.0, spread / math.sqrt(n + 1)
    return Estimate(p, sigma, error, near.n, cost_usd, latency_s + load_s, joules)


def _first_guess(model: Measurable, about: About) -> float:
    """A learned router's, where it knows the model; else its card's."""
    told = (about.p_right or {}).get(model.key)
    return prior(model.card, about) if told is None else told


def after_passing(p: float) -> float:
    """Chance that an answer is good which has passed its checks, by Bayes' rule."""
    passes = p * TRUE_PASSES
    return passes / (passes + (1 - p) * FALSE_PASSES) if passes else 0.0


def drawn(estimates: Mapping[str, Estimate], draw: Any) -> dict[str, Estimate]:
    """Thompson sampling: each chance is drawn from what it may be, with `draw(a, b)` of a beta distribution."""
    found = {}
    for key, one in estimates.items():
        n = one.n + CLUSTER_WEIGHT
        p = min(1.0, max(0.0, draw(max(1e-3, one.p * n), max(1e-3, (1 - one.p) * n))))
        found[key] = replace(one, p=p)
    return found
