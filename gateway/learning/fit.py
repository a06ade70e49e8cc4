"""`gateway learn`: each fitter learns from the older requests, and is tried on the newer ones before it is believed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gateway.learned_files import Learned, LearnedFile
from gateway.learning.evidence import Evidence
from gateway.learning.paired import Interval
from gateway.learning.recorded import Recording

OLDER = 0.8  # of the requests, to learn from
LEAST_HELD_OUT = 20  # requests, below which nothing can be said of a change
REPORT = "report"
Json = dict[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """How it does on the newer requests. `before`: with what is in use, or with nothing learned; `gain`: how much
    better the new one is, request by request; above 0 is better."""

    measure: str
    count: int
    before: float
    after: float
    gain: Interval

    def as_json(self) -> Json:
        numbers = {"count": self.count, "before": self.before, "after": self.after}
        return {"measure": self.measure, **numbers, "gain": self.gain.as_json()}


@dataclass(frozen=True)
class Fitted:
    """What a fitter has to say of one file.

    Args:
        rows: requests, or drafts, that it was learned from.
        held_out: None where there is nothing to hold it against.
        is_sorted: the order of the document's keys says nothing.
        refused: why it is not to be used, beside what the held-out requests say.
        needs: what they have to say of it: that it is no worse, or that it is better.
    """

    name: str
    document: Json
    rows: int
    held_out: HeldOut | None = None
    refused: str = ""
    needs: Literal["no worse", "better"] = "no worse"
    is_sorted: bool = True

    @property
    def why_not(self) -> str:
        """Empty where it may be used."""
        if self.refused or self.held_out is None:
            return self.refused or ("nothing to try it on" if self.needs == "better" else "")
        gain = self.held_out.gain
        if self.held_out.count < LEAST_HELD_OUT:
            return f"only {self.held_out.count} newer requests to try it on, of {LEAST_HELD_OUT}"
        if self.needs == "better" and not gain.is_above_zero:
            return "not surely better on the newer requests"
        return "worse on the newer requests" if gain.is_below_zero else ""


@dataclass(frozen=True)
class Context:
    """What fitters know beside the evidence.

    Args:
        in_use: documents of `learned/`, by name.
        now: unix seconds.
        places: clusters of requests whose words are kept, by trace.
        workload: recorded requests that were given to learn from, in their order, each with its vector.
        settings: what the configuration says, by fitter.
    """

    in_use: Mapping[str, Json]
    now: float
    places: Mapping[str, int] = field(default_factory=dict)
    workload: Sequence[tuple[Recording, bytes]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


class Fitter(Protocol):
    """Pure. Returns nothing where there is nothing to learn from."""

    def __call__(self, older: Evidence, newer: Evidence, context: Context) -> Fitted | Sequence[Fitted] | None: ...


def split(evidence: Evidence) -> tuple[Evidence, Evidence]:
    """The older four fifths of the requests, and the newer ones."""
    moments = sorted([one.row.created for one in evidence.rows] + [draft.created for draft in evidence.drafts])
    if not moments:
        return evidence, evidence
    moment = moments[min(len(moments) - 1, int(OLDER * len(moments)))]
    return evidence.until(moment), evidence.since(moment)


def fit_all(evidence: Evidence, fitters: Sequence[Fitter], context: Context) -> list[Fitted]:
    older, newer = split(evidence)
    found: list[Fitted] = []
    for fitter in fitters:
        fitted = fitter(older, newer, context)
        found += [fitted] if isinstance(fitted, Fitted) else fitted or ()
    return found


def files_of(fitted: Sequence[Fitted], learned: Learned, evidence: Evidence, now: float) -> list[LearnedFile]:
    """What is to be written: what may be used, and the report on all."""
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    written = [
        LearnedFile(one.name, one.document, _said(one, stamp), one.is_sorted) for one in fitted if not one.why_not
    ]
    before = (learned.read(REPORT) or {}).get("files") or {}
    told = {one.name: _told(one, now) for one in fitted}
    report = {"version": 1, "at": now, "requests": len(evidence.rows), "files": {**before, **told}}
    return [*written, LearnedFile(REPORT, report, [f"What `gateway learn` found on {stamp}."])] if fitted else []


def _told(one: Fitted, now: float) -> Json:
    held_out = {"held_out": one.held_out.as_json()} if one.held_out is not None else {}
    return {"at": now, "rows": one.rows, "used": not one.why_not, "why": one.why_not, **held_out}


def _said(one: Fitted, stamp: str) -> list[str]:
    said = [f"Written by `gateway learn` on {stamp}, from {one.rows} rows. `gateway learn revert` takes it back."]
    if one.held_out is not None:
        held, gain = one.held_out, one.held_out.gain
        said.append(f"{held.measure}, on {held.count} newer rows: {held.before:.6g} before, {held.after:.6g} now;")
        said.append(f"better by {gain.value:.6g} (95 %: {gain.low:.6g} to {gain.high:.6g}).")
    return said
