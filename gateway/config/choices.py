"""A `choose` node, from YAML to what decides: what is known of its models, and what quality is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gateway.capability.budget import DEFAULT_LAMBDA, Budget, Unit
from gateway.capability.cards import Card
from gateway.capability.choosing import Rate
from gateway.config.files import ModelEntry
from gateway.config.model_specs import AttachSpec, LocalSpec, ScriptedSpec
from gateway.config.readers import parameters_of
from gateway.config.spec import ChooseSpec, NodeSpec
from gateway.costs.meter import Used
from gateway.gateway import Model
from gateway.responders.choose import Candidate, Terms
from gateway.responders.hold import Tier
from gateway.trace import Price

WITHOUT_BILLS = (AttachSpec, LocalSpec, ScriptedSpec)
LATENCY_WEIGHT_USD_PER_S = 0.001  # 3.60 dollars an hour: somebody waits
FREE = Price(0.0, 0.0)
NOTHING_USED = Used()


def items_of(spec: ChooseSpec) -> list[NodeSpec]:
    return [NodeSpec(model=item) if isinstance(item, str) else item for item in spec.among]


def terms_of(spec: ChooseSpec, learned: float | None) -> Terms:
    """Args: `learned` is the lambda that `gateway learn` has fitted for this node, None where it has not."""
    unit, most = _limit(spec)
    weight = spec.latency_weight_usd_per_s
    budget = Budget(unit, most, LATENCY_WEIGHT_USD_PER_S if weight is None else weight)
    if learned is not None:
        rate = Rate(learned)
    elif spec.quality is not None:
        rate = Rate(None, spec.quality)
    else:
        rate = Rate(DEFAULT_LAMBDA[unit])
    return Terms(rate, budget, spec.explore)


def _limit(spec: ChooseSpec) -> tuple[Unit, float | None]:
    said = spec.budget
    if said is None or said.usd_per_request is not None:
        return "usd", said.usd_per_request if said is not None else None
    return ("seconds", said.seconds) if said.seconds is not None else ("joules", said.joules)


def candidate_of(
    tier: Tier, key: str, models: Sequence[tuple[ModelEntry, Model]], home: Path, load_s: Callable[[], float]
) -> Candidate:
    """Args: `models` are those that the tier may ask, the one asked first at the front."""
    cards = [card_of(entry, model, home) for entry, model in models]
    first = cards[0]
    if len(cards) > 1:  # at its best as good as the largest of them
        largest = max(cards, key=lambda card: float("inf") if card.parameters is None else card.parameters)
        good_at = tuple(dict.fromkeys(topic for card in cards for topic in card.good_at))
        accepts = frozenset().union(*(card.accepts for card in cards))
        first = replace(largest, good_at=good_at, accepts=accepts)
    return Candidate(replace(tier, name=key), first, load_s)


def card_of(entry: ModelEntry, model: Model, home: Path) -> Card:
    shown = model.card
    said, used = shown.get("price"), getattr(model.responder, "used", NOTHING_USED)
    price = None
    if said is not None:
        names = ("input_usd_per_mtok", "output_usd_per_mtok", "cached_input_usd_per_mtok", "usd_per_hour")
        price = replace(FREE, **{name: said[name] for name in names if said.get(name) is not None})
    elif isinstance(entry.spec, WITHOUT_BILLS):
        price = FREE
    return Card(
        parameters_of(entry, home),
        tuple(shown.get("good_at", ())),
        tuple(shown.get("languages", ())),
        frozenset(shown.get("accepts", ("text",))),
        price,
        used.joules_per_token,
        used.watts,
    )
