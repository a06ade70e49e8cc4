"""What a policy has saved against one model alone: the largest, and the best single one.

The best single model is the cheapest of the policy that could have answered every request and is as good as the policy
is, as far as that was measured: its answers pass at least as often as the policy's. The largest counts as good by
definition, for quality is measured against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gateway.costs.ledger import RivalSums, UsageSums, add_sums
from gateway.trace import AUDIT, TRIAL

MIN_JUDGED = 20  # answers, before a pass rate says anything
LARGEST, BEST_SINGLE = "largest", "best_single"
OVERHEAD = (AUDIT, TRIAL)  # purposes of what is spent for the sake of a policy, beside its answers


@dataclass(frozen=True, slots=True)
class Rate:
    """Of `count` answers that were judged, so many have passed."""

    passed: int = 0
    count: int = 0

    @property
    def value(self) -> float | None:
        return self.passed / self.count if self.count >= MIN_JUDGED else None


@dataclass(frozen=True)
class PolicySums:
    """What is known of one policy.

    Args:
        as_it_is: of its answers.
        alone: of each of its models, in place of all of them; by name, and whether it was the largest then.
        overhead: what the gateway asked for by itself, for the sake of the policy: audits and trials.
        audits: by model, of drafts that were audited by chance, how many say what the largest does; under the empty
            name what came of them in the policy.
        ratings: by model, of its answers that somebody rated, how many were good; under the empty name of all answers.
    """

    as_it_is: RivalSums = field(default_factory=RivalSums)
    alone: Mapping[tuple[str, bool], RivalSums] = field(default_factory=dict)
    overhead: UsageSums = field(default_factory=UsageSums)
    audits: Mapping[str, Rate] = field(default_factory=dict)
    ratings: Mapping[str, Rate] = field(default_factory=dict)


@dataclass(frozen=True)
class Against:
    """One baseline. Money is of the `compared` requests, of which both costs are known.

    Args:
        models: what it was; the largest may have changed.
        estimated: of the compared, those that another model answered: its tokens are priced.
        unable: requests that it does not take, which are not compared.
        pass_rate: None where nobody knows.
        saved_usd: instead_usd - spent_usd - overhead_usd; negative where the policy was dearer.
    """

    models: tuple[str, ...]
    requests: int
    compared: int
    estimated: int
    unable: int
    pass_rate: float | None
    instead_usd: float
    spent_usd: float
    overhead_usd: float

    @property
    def saved_usd(self) -> float | None:
        return self.instead_usd - self.spent_usd - self.overhead_usd if self.compared else None

    @property
    def saved_share(self) -> float | None:
        """Of what it would have cost instead."""
        return None if self.saved_usd is None or not self.instead_usd else self.saved_usd / self.instead_usd

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "saved_usd": self.saved_usd, "saved_share": self.saved_share}


@dataclass(frozen=True)
class Savings:
    """Of one policy. `evidence`: what pass rates are of: `audits`, `ratings`, `checks`, or None where too little was
    judged."""

    policy: str
    requests: int
    unknown_cost: int
    spent_usd: float
    overhead_usd: float
    unknown_overhead: int
    pass_rate: float | None
    evidence: str | None
    largest: Against | None
    best_single: Against | None

    def as_json(self) -> dict[str, Any]:
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in (LARGEST, BEST_SINGLE):
            own[name] = own[name].as_json() if own[name] is not None else None
        return own


def savings_of(policy: str, sums: PolicySums) -> Savings:
    as_it_is, overhead_usd = sums.as_it_is, sums.overhead.cost_usd
    rates, evidence = _rates(sums)
    mix = rates[""].value
    largest = {name: one for (name, is_largest), one in sums.alone.items() if is_largest}
    alone: dict[str, RivalSums] = {}
    for (name, _), one in sums.alone.items():
        alone[name] = one if name not in alone else _sum(alone[name], one)
    equals = [name for name, one in alone.items() if _could(one) and (name in largest or _is_as_good(name, rates))]
    best = min(equals, key=lambda name: alone[name].instead_usd / alone[name].compared, default=None)

    def against(names: tuple[str, ...], one: RivalSums) -> Against:
        rate = rates.get(names[0]) if len(names) == 1 else None
        money = (one.instead_usd, one.spent_usd, overhead_usd)
        estimated = one.compared - one.exact
        value = rate.value if rate is not None else None
        return Against(names, one.requests, one.compared, estimated, one.unable, value, *money)

    return Savings(
        policy,
        as_it_is.requests,
        as_it_is.requests - as_it_is.compared,
        as_it_is.spent_usd,
        overhead_usd,
        sums.overhead.unknown_cost,
        mix,
        evidence if mix is not None else None,
        against(tuple(sorted(largest)), _sum(*largest.values())) if largest else None,
        against((best,), alone[best]) if best is not None else None,
    )


def _rates(sums: PolicySums) -> tuple[Mapping[str, Rate], str]:
    """Audits compare with what the largest says, ratings are people's; without enough of either, what the checks have
    said must do."""
    for rates, evidence in ((sums.audits, "audits"), (sums.ratings, "ratings")):
        if rates.get("", Rate()).value is not None:
            return rates, evidence
    found: dict[str, Rate] = {"": Rate(sums.as_it_is.passed, sums.as_it_is.judged)}
    for (name, _), one in sums.alone.items():
        before = found.get(name, Rate())
        found[name] = Rate(before.passed + one.passed, before.count + one.judged)
    return found, "checks"


def _could(one: RivalSums) -> bool:
    return one.compared > 0 and not one.unable


def _is_as_good(name: str, rates: Mapping[str, Rate]) -> bool:
    own, mix = rates.get(name, Rate()).value, rates[""].value
    return own is not None and mix is not None and own >= mix


def _sum(*several: RivalSums) -> RivalSums:
    total = RivalSums()
    for one in several:
        add_sums(total, one)
    return total


def total_of(found: Sequence[Savings]) -> dict[str, float | None]:
    """Saved US dollars of all policies together, by baseline; None where no policy has that."""
    total: dict[str, float | None] = {}
    for name in (LARGEST, BEST_SINGLE):
        sides: list[Against | None] = [getattr(one, name) for one in found]
        saved = [side.saved_usd for side in sides if side is not None and side.saved_usd is not None]
        total[name] = sum(saved) if saved else None
    return total
