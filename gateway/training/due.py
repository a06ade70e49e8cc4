"""What is worth training: which kinds of requests, together or each by itself, and whether that pays. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.shards.lessons import Lesson
from gateway.tokens import estimate
from gateway.training.curate import Curated
from gateway.training.gate import Case, Trying
from gateway.training.kinds import Kind
from gateway.training.orders import TrainingOrders
from gateway.training.pairs import Pair
from gateway.training.settings import Settings

FEWEST_OF_KIND = 12  # pairs: with fewer, the gate sees nothing
HELD_OUT, FEWEST_HELD_OUT, MOST_HELD_OUT = 0.25, 6, 150  # of a kind: the newest, for the gate
MOST_CONTROLS = 20
GROWTH = 1.5  # a group is trained again when it has so many times the pairs
GROWTH_IN_VAIN = 3.0  # a kind that training did not help is tried again when it has so many times the pairs
HELPED, ENOUGH = 0.1, 20  # share of held-out requests that are right, at least; pairs that would have shown it
NOTHING: Mapping[str, int] = {}
KEPT_HERE = 0.5  # share of a kind's requests that an adapter is expected to answer, before any is known
SPEED = 100.0  # tokens a second, before any is known
DAY_S = 86_400.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Kinds of requests that are learned together. `name`: the same at the next time."""

    name: str
    tenant: str
    members: tuple[Curated, ...]

    @property
    def pairs(self) -> int:
        return sum(len(one.pairs) for one in self.members)


def groups(
    curated: Sequence[Curated], policy: str, orders: TrainingOrders, in_vain: Mapping[str, int] = NOTHING
) -> list[Group]:
    """Of one policy: by tenant, those kinds that have enough of their own, and the others together.

    Args: `in_vain`: pairs of kinds that a training did not help, by their ids."""
    found = []
    usable = [
        one
        for one in curated
        if one.cluster.policy == policy
        and len(one.pairs) >= max(FEWEST_OF_KIND, GROWTH_IN_VAIN * in_vain.get(one.cluster.id, 0))
    ]
    for tenant in dict.fromkeys(one.cluster.tenant for one in usable):
        own = [one for one in usable if one.cluster.tenant == tenant]
        alone = [one for one in own if len(one.pairs) >= orders.own_pairs]
        found += [Group(f"{policy}/{one.cluster.id}", tenant, (one,)) for one in alone]
        rest = tuple(one for one in own if one not in alone)
        if sum(len(one.pairs) for one in rest) >= orders.min_pairs:
            found.append(Group(f"{policy}/{tenant}", tenant, rest))
    return sorted(found, key=lambda one: -one.pairs)


def is_due(group: Group, trained_before: int) -> bool:
    """Args: `trained_before`: pairs that the group had when it was last trained; 0: it never was."""
    return group.pairs >= GROWTH * trained_before


def pays(
    group: Group,
    orders: TrainingOrders,
    settings: Settings,
    usd_of: Callable[[Lesson], float | None],
    now: float,
    tokens_per_s: float = SPEED,
) -> tuple[bool, Json]:
    """Does what the larger models would cost exceed what training does? What has no known price is worth it.

    Args: `usd_of`: what a lesson's answer has cost.
    """
    lessons = [lesson for one in group.members for lesson in one.lessons]
    known = [usd for lesson in lessons if (usd := usd_of(lesson)) is not None]
    tokens = sum(tokens_of(pair) for one in group.members for pair in one.pairs)
    seconds = tokens * settings.epochs / tokens_per_s
    costs = seconds / 3600 * orders.usd_per_hour
    told: Json = {"training_s": round(seconds), "training_usd": round(costs, 6)}
    if not known:
        return True, told
    days = max(1.0, (now - min(lesson.created for lesson in lessons)) / DAY_S)
    a_day = len(lessons) / days * sum(known) / len(known) * KEPT_HERE
    saves = a_day * orders.pays_back_days
    return saves > costs, {**told, "saved_usd": round(saves, 6)}


def tokens_of(pair: Pair) -> int:
    """Estimated."""
    return sum(estimate(str(message.get("content") or "")) for message in pair.messages)


def split(group: Group, others: Sequence[Curated]) -> tuple[list[Pair], list[Trying]]:
    """(what is trained on, what the gate tries): of each kind the newest are held out.

    Args: `others`: all kinds there are, for the controls.
    """
    pairs: list[Pair] = []
    tryings = []
    for one in group.members:
        count = min(MOST_HELD_OUT, max(FEWEST_HELD_OUT, round(len(one.pairs) * HELD_OUT)))
        pairs += one.pairs[:-count]
        kind = Kind.of(one.cluster, len(one.pairs) - count)
        controls = [case for other in others if other is not one for case in strays(kind, other)]
        held_out = [_case(lesson) for lesson in one.lessons[-count:]]
        tryings.append(Trying(kind, held_out, controls[-MOST_CONTROLS:]))
    return pairs, tryings


def strays(kind: Kind, other: Curated) -> list[Case]:
    """Requests of another kind that would be taken for this one's."""
    cluster = other.cluster
    told = {lesson.id: vector for lesson, vector in zip(cluster.lessons, cluster.vectors, strict=True)}
    key = (cluster.tenant, cluster.policy, cluster.form)
    return [_case(one) for one in other.lessons if kind.likeness(*key, told[one.id]) is not None]


def _case(lesson: Lesson) -> Case:
    """With its user: what answers now may know what that user has said before."""
    user = {"user": lesson.user} if lesson.user else {}
    return Case({**lesson.request, **user}, lesson.answer)


def in_vain(entries: Collection[Mapping[str, Any]]) -> dict[str, int]:
    """Pairs of the kinds whose held-out requests training made no better, by their ids.

    Args: `entries`: all trained adapters as JSON, the oldest first."""
    found: dict[str, int] = {}
    for entry in entries:
        pairs = entry.get("data", {}).get("kinds", {})
        for id, tried in entry.get("gate", {}).get("held_out", {}).items():
            if tried["right"] < HELPED * tried["count"] and pairs.get(id, 0) >= ENOUGH:
                found[id] = int(pairs[id])
            else:
                found.pop(id, None)
    return found


def trained_before(group: Group, entries: Collection[Mapping[str, Any]]) -> int:
    """Args: `entries`: `data` of all trained adapters."""
    return max((int(data.get("pairs", 0)) for data in entries if data.get("group") == group.name), default=0)
