"""What quality is worth at each `choose` node that has a budget: lambda, from the decisions of the past."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from gateway.capability.budget import Budget, Outcome, Row, fit_lambda, fit_lambda_for_quality, replay
from gateway.capability.estimates import Estimate
from gateway.config.choices import items_of, terms_of
from gateway.config.spec import NodeSpec
from gateway.learned_file import VERSION
from gateway.learning.evidence import Evidence
from gateway.learning.evidence import Row as JournalRow
from gateway.learning.fit import Context, Fitted, HeldOut
from gateway.learning.paired import nearer

NAME = "budgets"
LEAST = 50  # decisions
MEASURE = "distance from the budget, as a share of it, or from the quality"
Json = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A `choose` node of a policy. `at`: as `learned/budgets.yaml` names it. `default`: lambda where nothing was
    fitted."""

    at: str
    policy: str
    route: str
    keys: frozenset[str]
    budget: Budget
    quality: float | None
    default: float


def fit_budgets(older: Evidence, newer: Evidence, context: Context) -> Fitted | None:
    places: Sequence[Place] = context.settings.get(NAME, ())
    before = dict((context.in_use.get(NAME) or {}).get("budgets") or {})
    found: dict[str, Json] = {}
    tried: list[HeldOut] = []
    total = 0
    for place in places:
        rows = [row for _, row in rows_of(older, place)]
        if len(rows) < LEAST:
            continue
        lambda_ = _fit(rows, place)
        outcome = replay(rows, lambda_)
        found[place.at] = {"lambda": lambda_, "cost": outcome.cost, "quality": outcome.quality, "rows": len(rows)}
        total += len(rows)
        held = _held_out([row for _, row in rows_of(newer, place)], place, before.get(place.at), lambda_)
        if held is not None:
            tried.append(held)
    if not found:
        return None
    held_out = max(tried, key=lambda one: one.count, default=None)
    return Fitted(NAME, {"version": VERSION, "budgets": {**before, **found}}, total, held_out)


def _fit(rows: Sequence[Row], place: Place) -> float:
    if place.budget.most is not None:
        return fit_lambda(rows, place.budget.most)
    assert place.quality is not None  # else there is nothing to be fitted to, and it is no place
    return fit_lambda_for_quality(rows, place.quality)


def _held_out(rows: Sequence[Row], place: Place, former: Any, lambda_: float) -> HeldOut | None:
    """How far the new one and the one in use are from what is wanted."""
    if not rows:
        return None
    was = float(former["lambda"]) if isinstance(former, Mapping) else place.default
    then, now = ([_value(replay([row], one), place) for row in rows] for one in (was, lambda_))
    target = place.quality if place.budget.most is None else place.budget.most
    assert target is not None
    scale = 1.0 if place.budget.most is None else 1 / place.budget.most
    gain = nearer([one * scale for one in then], [one * scale for one in now], target * scale)
    misses = [abs(sum(values) / len(values) - target) * scale for values in (then, now)]
    return HeldOut(MEASURE, len(rows), misses[0], misses[1], gain)


def _value(outcome: Outcome, place: Place) -> float:
    return outcome.quality if place.budget.most is None else outcome.cost


def rows_of(evidence: Evidence, place: Place) -> Iterator[tuple[JournalRow, Row]]:
    """Decisions of this node. A candidate that was not asked is taken for as good as it was expected to be."""
    for one in evidence.rows:
        if one.row.policy == place.policy and one.row.route == place.route:
            for hop in _chooses(one.tree):
                row = _row(hop, place)
                if row is not None:
                    yield one, row


def _chooses(tree: Json) -> Iterator[Json]:
    if tree.get("kind") == "choose":
        yield tree
    for child in tree.get("children") or ():
        yield from _chooses(child)


def _row(hop: Json, place: Place) -> Row | None:
    facts = hop.get("facts") or {}
    candidates = facts.get("candidates") or ()
    if {str(one.get("model")) for one in candidates} != place.keys:
        return None
    estimates = {str(one["model"]): _estimate(one) for one in candidates}
    worth, costs = {}, {}
    for tier in hop.get("children") or ():
        key, told = str(tier.get("name")), (tier.get("facts") or {}).get("passed")
        if key in estimates and tier.get("kind") == "tier":
            if told is None and (tier.get("facts") or {}).get("judged"):
                told = 0.0 if tier.get("left") else 1.0
            if told is None and not tier.get("left"):
                told = estimates[key].p  # nothing judged it
            if told is not None:
                worth[key] = float(told)
                costs[key] = place.budget.cost(_as_it_was(tier, estimates[key]))
    if not worth:
        return None
    expected = {key: one.p for key, one in estimates.items()}
    return Row(tuple(place.budget.options(estimates)), {**expected, **worth}, costs)


def _estimate(told: Json) -> Estimate:
    """As the journal has it; rows of an older gateway may lack the newest of its numbers."""
    known = {one.name for one in fields(Estimate)}
    return Estimate(**{name: 0.0 for name in known} | {name: told[name] for name in known & told.keys()})


def _as_it_was(tier: Json, expected: Estimate) -> Estimate:
    """What it took, in place of what it was expected to take."""
    spends = list(_spends(tier))
    cost_usd, joules = _sum_of("cost_usd", spends), _sum_of("joules", spends)
    cost_usd = expected.cost_usd if cost_usd is None else cost_usd
    joules = expected.joules if joules is None else joules
    latency_s = tier["ms"] / 1e3 if "ms" in tier else expected.latency_s
    return replace(expected, cost_usd=cost_usd, latency_s=latency_s, joules=joules)


def _sum_of(name: str, spends: Sequence[Json]) -> float | None:
    """None once one of them is not known, and where there are none."""
    found = [spend.get(name) for spend in spends]
    known = [one for one in found if one is not None]
    return sum(known) if found and len(known) == len(found) else None


def _spends(tree: Json) -> Iterator[Json]:
    if tree.get("spend"):
        yield tree["spend"]
    for child in tree.get("children") or ():
        yield from _spends(child)


def places_in(
    policy: str, route: str, node: NodeSpec, at: Sequence[str | int], inactive: frozenset[str]
) -> Iterator[Place]:
    """The `choose` nodes within a node that have a budget or a quality to be fitted to."""
    for i, inner in enumerate(node.cascade or ()):
        yield from places_in(policy, route, inner, (*at, "cascade", i), inactive)
    if node.choose is not None:
        items = items_of(node.choose)
        terms = terms_of(node.choose, None)
        if terms.budget.most is not None or node.choose.quality is not None:
            keys = frozenset(filter(None, (_key(item, inactive) for item in items)))
            place = f"{policy}/{'/'.join(str(part) for part in at)}"
            default = terms.rate.lambda_ if terms.rate.lambda_ is not None else 1.0
            yield Place(place, policy, route, keys, terms.budget, node.choose.quality, default)
        for i, item in enumerate(items):
            yield from places_in(policy, route, item, (*at, "choose", "among", i), inactive)


def _key(node: NodeSpec, inactive: frozenset[str]) -> str:
    return ">".join(name for name in _models(node) if name not in inactive)


def _models(node: NodeSpec) -> Iterator[str]:
    inner = items_of(node.choose) if node.choose is not None else node.cascade
    if inner is None:
        yield node.model or ""
    for item in inner or ():
        yield from _models(item)
