"""The gate: what an adapter has to show before it comes near a request. Pure but for the asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.quality.bounds import binomial_tail
from gateway.training.kinds import Kind, Record

SIGNIFICANT = 0.05  # chance that one which is no better passes
NONE = Record()
FEWEST_LOSSES = 2  # of controls, to count: one may be chance
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A request with the answer that is wanted, as a message."""

    request: Json
    wanted: Json


@dataclass(frozen=True)
class Trying:
    """What is asked for one kind. `controls`: requests of other kinds that would come to the adapter all the same."""

    kind: Kind
    held_out: Sequence[Case]
    controls: Sequence[Case] = ()


@dataclass
class Report:
    """`passed`: the kinds that it may stand in for; `refused`: why not, by the others' ids."""

    passed: list[Kind] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    tried: dict[str, Record] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """Why it is refused for all."""
        return "; ".join(dict.fromkeys(self.refused.values())) or "there was nothing to try it on"

    def as_json(self) -> Json:
        return {
            "held_out": {id: vars(record) for id, record in self.tried.items()},
            "passed": [kind.id for kind in self.passed],
            "refused": self.refused,
        }


BothRight = Callable[[Case], Awaitable[tuple[bool, bool]]]


async def try_out(tryings: Sequence[Trying], both: Callable[[Kind], BothRight]) -> Report:
    """Each kind by itself: what helps one may harm another.

    Args: `both`: for a kind, what asks a case of the adapter and of what answers it now, and says who is right.
    """
    report, controls = Report(), dict[str, Record]()
    for trying in tryings:
        ask = both(trying.kind)
        report.tried[trying.kind.id] = Record.of([await ask(case) for case in trying.held_out])
        controls[trying.kind.id] = Record.of([await ask(case) for case in trying.controls])
    whole = Record.summed(report.tried.values())
    for trying in tryings:
        record = report.tried[trying.kind.id]
        if why := why_not(record, controls[trying.kind.id], whole):
            report.refused[trying.kind.id] = why
        else:
            report.passed.append(trying.kind.with_record(record))
    return report


def why_not(record: Record, controls: Record = NONE, whole: Record = NONE) -> str:
    """Nothing where it passes: better on what was held out than what answers now, and no worse on the controls. An
    exact sign test says so, of the kind or, where a kind has few requests, of all kinds together.

    Args: `whole`: of all kinds that were learned together."""
    told = f"{record.right} of {record.count} right, {record.before} without it"
    if record.wins <= record.losses or not (is_better(record) or is_better(whole)):
        return f"not better on held-out requests: {told}"
    if controls.losses >= FEWEST_LOSSES and controls.losses > controls.wins:
        return f"worse on requests of other kinds: {controls.right} of {controls.count} right, {controls.before} before"
    return ""


def is_better(record: Record) -> bool:
    """Surely, and not by chance."""
    contested = record.wins + record.losses
    return record.wins > record.losses and binomial_tail(record.losses, contested, 0.5) <= SIGNIFICANT
