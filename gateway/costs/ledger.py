"""What finished requests have spent, summed: by hour, key, policy, route, model, layer and purpose; and what single
models would have cost in place of each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite

from gateway.trace import ANSWER, CHECK, RequestTrace, Spend, Trace

HOUR_S = 3600
MOST_TOKENS = 2**40  # of a call: upstreams say how many they used, and may say anything
DRAFT = "draft"
"""Purpose of a call whose words were not the answer; CHECK: of one that a check made."""


Where = tuple[int, str, str, str, str, str, str]
WHERE = ("hour", "key", "policy", "route", "model", "layer", "purpose")
"""Empty where there is none: no key, no policy, nobody who answered."""
Side = tuple[int, str, str, str, bool]
SIDE = ("hour", "key", "policy", "model", "largest")
"""The empty model is the policy as it is."""


@dataclass(slots=True)
class UsageSums:
    """The columns of the table `usage` behind its key, in their order."""

    requests: int = 0
    errors: int = 0
    calls: int = 0
    estimated: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    unknown_cost: int = 0
    busy_s: float = 0.0
    measured_j: float = 0.0
    modelled_j: float = 0.0
    unknown_energy: int = 0

    def add(self, spend: Spend) -> None:
        usage = spend.usage
        self.calls += 1
        self.estimated += usage.estimated
        self.input_tokens += min(usage.input_tokens, MOST_TOKENS)
        self.output_tokens += min(usage.output_tokens, MOST_TOKENS)
        self.cached_tokens += min(usage.cached_tokens, MOST_TOKENS)
        self.busy_s += spend.busy_s
        if spend.cost_usd is None or not isfinite(spend.cost_usd):
            self.unknown_cost += 1
        else:
            self.cost_usd += spend.cost_usd
        if spend.joules is None:
            self.unknown_energy += 1
        elif spend.is_measured:
            self.measured_j += spend.joules
        else:
            self.modelled_j += spend.joules


@dataclass(slots=True)
class RivalSums:
    """The columns of the table `rivals` behind its key, in their order."""

    requests: int = 0
    compared: int = 0
    exact: int = 0
    instead_usd: float = 0.0
    spent_usd: float = 0.0
    unable: int = 0
    judged: int = 0
    passed: int = 0


@dataclass
class Ledger:
    """Sums of some requests. `note` takes each once, when nobody changes it any more: it is done for every request, so
    it goes straight at what it needs."""

    usage: dict[Where, UsageSums] = field(default_factory=dict)
    rivals: dict[Side, RivalSums] = field(default_factory=dict)

    def note(self, trace: RequestTrace) -> None:
        totals, own, usage = trace.totals(), trace.purpose, self.usage
        hour, key, policy = int(trace.created) // HOUR_S * HOUR_S, trace.key or "", trace.policy or ""
        route, answering = trace.route or "", answering_hop(trace, totals.asked)
        given = answering.spend if answering is not None else None
        where = (hour, key, policy, route, trace.answered_by or "", given.layer if given is not None else "", own)
        answered = usage.get(where) or usage.setdefault(where, UsageSums())
        answered.requests += 1
        answered.errors += trace.status >= 400 or trace.error is not None
        for hop in totals.asked:
            spend = hop.spend
            if spend is None:
                continue
            if hop is answering:
                answered.add(spend)
            else:
                where = (hour, key, policy, route, spend.model, spend.layer, DRAFT if own == ANSWER else own)
                usage.setdefault(where, UsageSums()).add(spend)
        for hop in totals.consulted:
            if (spend := hop.spend) is not None:
                where = (hour, key, policy, route, spend.model, spend.layer, CHECK if own == ANSWER else own)
                usage.setdefault(where, UsageSums()).add(spend)
        if trace.rivals and answering is not None and (instead := instead_of(trace)):
            self._compare((hour, key, policy), trace, totals.cost_usd, answering, instead)

    def add(self, other: Ledger) -> None:
        for where, usage in other.usage.items():
            add_sums(self.usage.setdefault(where, UsageSums()), usage)
        for side, rival in other.rivals.items():
            add_sums(self.rivals.setdefault(side, RivalSums()), rival)

    def _compare(
        self,
        where: tuple[int, str, str],
        trace: RequestTrace,
        cost_usd: float | None,
        answering: Trace,
        instead: Mapping[str, float | None],
    ) -> None:
        as_it_is = self._rival((*where, "", False))
        as_it_is.requests += 1
        as_it_is.judged += 1
        as_it_is.passed += answering.left is None
        if cost_usd is not None:
            as_it_is.compared += 1
            as_it_is.spent_usd += cost_usd
        verdicts = judged_in(trace)
        for rival in trace.rivals:
            name = rival.name
            sums = self._rival((*where, name, rival.is_largest))
            sums.requests += 1
            if name in verdicts:
                sums.judged += 1
                sums.passed += verdicts[name]
            if name not in instead:
                sums.unable += 1
            elif (alone_usd := instead[name]) is not None and cost_usd is not None:
                sums.compared += 1
                sums.exact += name == answering.name
                sums.instead_usd += alone_usd
                sums.spent_usd += cost_usd

    def _rival(self, side: Side) -> RivalSums:
        return self.rivals.get(side) or self.rivals.setdefault(side, RivalSums())


def instead_of(trace: RequestTrace) -> Mapping[str, float | None]:
    """What the answer would have cost, had one of its policy's models been asked alone, by each that could have been:
    as many tokens at its price, and what it did cost where it gave the answer. None where nobody knows. Empty where
    there is nothing to compare. As it was when it was first asked for."""
    if trace.instead is None:
        answering = answering_hop(trace, trace.totals().asked) if trace.purpose == ANSWER else None
        given = answering.spend if answering is not None else None
        trace.instead = {} if given is None else _instead(trace, given)
    return trace.instead


def _instead(trace: RequestTrace, given: Spend) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for rival in trace.rivals:
        if rival.name == given.model:
            found[rival.name] = given.cost_usd
        elif rival.can_answer(given.usage, trace.media):
            found[rival.name] = rival.cost_usd(given.usage)
    return found


def answering_hop(trace: RequestTrace, asked: Sequence[Trace]) -> Trace | None:
    """The call whose words were the answer: the last of who answered that was not left, of only left ones the last."""
    found = None
    for hop in asked:
        if hop.name == trace.answered_by and (found is None or hop.left is None or found.left is not None):
            found = hop
    return found


def judged_in(trace: Trace) -> dict[str, bool]:
    """Of each tier whose answer checks have judged: has it passed?"""
    found, waiting = {}, list(trace.children)
    while waiting:
        hop = waiting.pop()
        if hop.kind == "tier" and hop.facts and hop.facts.get("judged"):
            found[hop.name] = hop.left is None
        if hop.children and hop.kind not in (CHECK, "model"):
            waiting += hop.children
    return found


def add_sums(sums: UsageSums | RivalSums, others: UsageSums | RivalSums) -> None:
    for one in fields(sums):
        setattr(sums, one.name, getattr(sums, one.name) + getattr(others, one.name))
