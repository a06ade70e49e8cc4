"""What was in memory when: spans of each model's life, from the steps that were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.engines.resident import Stage
from gateway.engines.wishes import Reason
from gateway.store.residency import GATEWAY, STARTED, ResidencyRow

Sizes = tuple[int, int]  # bytes of main memory, of GPUs


class Kind(StrEnum):
    """Of a span; between spans a model sleeps."""

    WAITING = "waiting for room"
    LOADING = "loading"
    LOADED = "loaded"
    DRAINING = "draining"  # what runs is finished, nothing new begins
    SLEEPING = "sleeping"
    UNLOADING = "unloading"
    FAILED = "failed"


MARKS: dict[str, str] = {Reason.ROOM: "evicted", Reason.CRASH: "crashed", Reason.REFUSED: "refused"}
SPANS: dict[str, Kind] = {
    Reason.WANTED: Kind.WAITING,
    Reason.LOAD: Kind.LOADING,
    Reason.LOADED: Kind.LOADED,
    Reason.STAY: Kind.LOADED,
    Reason.DRAIN: Kind.DRAINING,
    Reason.ASLEEP: Kind.SLEEPING,
    Reason.IDLE: Kind.UNLOADING,
    Reason.ROOM: Kind.UNLOADING,
    Reason.STOP: Kind.UNLOADING,
}
STAGES: dict[str, Kind] = {  # where the step leaves it open
    Stage.LOADING: Kind.LOADING,
    Stage.SLEEPING: Kind.SLEEPING,
    Stage.UNLOADING: Kind.UNLOADING,
    Stage.FAILED: Kind.FAILED,
}
OUTSIDE = (Reason.WANTED, Reason.FORGOTTEN, Reason.REFUSED)  # steps of what takes no memory, if it does not sleep


@dataclass(frozen=True, slots=True)
class Span:
    """Unix seconds, and why it began."""

    begin: float
    end: float
    kind: Kind
    why: str


@dataclass(frozen=True, slots=True)
class Mark:
    at: float
    what: str
    why: str


@dataclass(slots=True)
class Life:
    """One model. `load_s`: of the loads that went well."""

    name: str
    spans: list[Span] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)

    @property
    def mean_load_s(self) -> float | None:
        return sum(self.load_s) / len(self.load_s) if self.load_s else None

    def count(self, what: str) -> int:
        return sum(mark.what == what for mark in self.marks)

    def loaded_s(self) -> float:
        return sum(span.end - span.begin for span in self.spans if span.kind in (Kind.LOADED, Kind.DRAINING))


@dataclass(frozen=True, slots=True)
class Timeline:
    """`memory`: from when on how much was taken; `budget`: what there was in the end, None without a limit."""

    since: float
    until: float
    lives: tuple[Life, ...]
    memory: tuple[tuple[float, Sizes], ...]
    budget: tuple[int | None, int | None]

    def loaded_share(self, life: Life) -> float:
        """Of the time, in [0, 1]."""
        return life.loaded_s() / (self.until - self.since) if self.until > self.since else 0.0

    def as_json(self) -> dict[str, Any]:
        models = [
            {
                "model": life.name,
                "loads": len(life.load_s),
                "mean_load_s": life.mean_load_s,
                "evictions": life.count("evicted"),
                "crashes": life.count("crashed"),
                "refusals": life.count("refused"),
                "loaded_share": self.loaded_share(life),
                "spans": [{"begin": s.begin, "end": s.end, "kind": s.kind, "why": s.why} for s in life.spans],
                "marks": [{"at": mark.at, "what": mark.what, "why": mark.why} for mark in life.marks],
            }
            for life in self.lives
        ]
        memory = [{"at": at, "ram_bytes": ram, "gpu_bytes": gpu} for at, (ram, gpu) in self.memory]
        budget = {"ram_bytes": self.budget[0], "gpu_bytes": self.budget[1]}
        return {"since": self.since, "until": self.until, "models": models, "memory": memory, "budget": budget}


def timeline(rows: Sequence[ResidencyRow], since: float, until: float) -> Timeline | None:
    """None where nothing was recorded.

    Args:
        rows: in the order they came; those from before `since` say how things stood then.
    """
    rows = [row for row in rows if row.at <= until]
    if not rows:
        return None
    since = max(since, min(row.at for row in rows))
    told = _Told(since)
    for row in rows:
        told.take(row, max(row.at, since))
    return told.end(until)


class _Told:
    def __init__(self, since: float) -> None:
        self._since = self._at = since
        self._lives: dict[str, _Life] = {}
        self._memory: list[tuple[float, Sizes]] = [(since, (0, 0))]
        self._budget: tuple[int | None, int | None] = (None, None)

    def take(self, row: ResidencyRow, at: float) -> None:
        self._at = at = max(at, self._at)  # a clock may be set back
        if row.model == GATEWAY:
            self._budget = (row.ram_bytes, row.gpu_bytes)
            for life in self._lives.values() if row.reason == STARTED else ():
                life.wipe(at)  # what was there before is gone, however it ended
        else:
            life = self._lives.setdefault(row.model, _Life(Life(row.model)))
            life.take(row, at, is_counted=row.at >= self._since)
        self._note_memory(at)

    def _note_memory(self, at: float) -> None:
        held = [sizes for life in self._lives.values() for sizes in life.held]
        total = sum(ram for ram, _ in held), sum(gpu for _, gpu in held)
        if self._memory[-1][0] == at:
            self._memory.pop()
        if not self._memory or self._memory[-1][1] != total:
            self._memory.append((at, total))

    def end(self, until: float) -> Timeline:
        for life in self._lives.values():
            life.turn(until, None, "")
        lives = tuple(self._lives[name].life for name in sorted(self._lives))
        return Timeline(self._since, until, lives, tuple(self._memory), self._budget)


class _Life:
    """Two entries of one name are there for a while when the configuration changes: the row shows the one that is
    loaded, and `held` is what each of them takes."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.held: list[Sizes] = []
        self._is_asleep = False
        self._begin, self._why = 0.0, ""
        self._kind: Kind | None = None

    def take(self, row: ResidencyRow, at: float, *, is_counted: bool) -> None:
        sizes, was_asleep = (row.ram_bytes or 0, row.gpu_bytes or 0), self._is_asleep
        takes_memory = row.reason != Reason.GONE and (row.reason not in OUTSIDE or was_asleep)
        if is_counted:
            self._count(row, at)
        if row.reason == Reason.GONE:
            del self.held[:1]
        elif row.reason == Reason.LOAD and not was_asleep:
            self.held.append(sizes)
        elif row.reason not in OUTSIDE and len(self.held) <= 1:
            self.held = [sizes]
        if row.reason in (Reason.ASLEEP, Reason.LOAD, Reason.GONE):
            self._is_asleep = row.reason == Reason.ASLEEP
        others, kind = len(self.held) - takes_memory, _kind_of(row)
        if others <= 0 or kind is Kind.LOADED:
            self.turn(at, kind, row.why)

    def _count(self, row: ResidencyRow, at: float) -> None:
        if row.load_s is not None:
            self.life.load_s.append(row.load_s)
        is_end = row.reason == Reason.CRASH and row.stage != Stage.LOADING and not self._is_asleep
        if row.reason in MARKS and not is_end:  # of what crashed before
            self.life.marks.append(Mark(at, MARKS[row.reason], row.why))

    def wipe(self, at: float) -> None:
        """Whatever was there is gone."""
        self.turn(at, None, "")
        self.held, self._is_asleep = [], False

    def turn(self, at: float, kind: Kind | None, why: str) -> None:
        if kind is self._kind and kind is not None:
            return
        if self._kind is not None and at > self._begin:
            self.life.spans.append(Span(self._begin, at, self._kind, self._why))
        self._begin, self._kind, self._why = at, kind, why


def _kind_of(row: ResidencyRow) -> Kind | None:
    return SPANS.get(row.reason) or STAGES.get(row.stage)
