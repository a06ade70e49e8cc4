"""One model of the pool: where it is in its life, its server, the places at it, what it takes of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from gateway.engines import Engine, Residency, Site, State, Supervisor
from gateway.engines.demand import Demand
from gateway.engines.evictions import Loaded
from gateway.engines.footprint import NOTHING, Footprint
from gateway.engines.places import Places
from gateway.engines.slots import SlotTable, Slotted
from gateway.errors import BackendUnavailable
from gateway.probe import FoundServer

GIB = 2**30


class Stage(StrEnum):
    """As people see it."""

    ABSENT = "absent"  # its files are not on this machine
    DOWNLOADING = "downloading"
    DORMANT = "dormant"  # known, not loaded
    LOADING = "loading"  # also: waiting for room, or to be started again after a crash
    WARM = "warm"
    BUSY = "busy"
    SLEEPING = "sleeping"  # its server is there, and has given most of its memory back
    UNLOADING = "unloading"  # or being sent to sleep
    FAILED = "failed"  # its last start failed; it is tried again, with pauses


class Phase(Enum):
    """As the pool sees it. Memory is taken from LOADING to ASLEEP, and by a WANTED one that sleeps meanwhile."""

    DORMANT = auto()
    WANTED = auto()  # in the queue for room
    LOADING = auto()
    LOADED = auto()
    DRAINING = auto()  # it has to go: what runs is finished, nothing new begins
    LEAVING = auto()
    DOZING = auto()  # being sent to sleep
    ASLEEP = auto()


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model as operators see it. `why`: the last that was decided about it; `last_error` is kept after it has
    recovered; `loaded_s`: its last good start; `footprint`: measured where it is loaded, else estimated, NOTHING where
    nobody knows."""

    stage: Stage
    pid: int | None
    restarts: int
    last_error: str | None
    loaded_s: float | None
    slots: int
    busy: int
    waiting: int
    footprint: Footprint = NOTHING
    idle_s: float | None = None
    why: str = ""

    @property
    def is_ready(self) -> bool:
        return self.stage in (Stage.WARM, Stage.BUSY)


class Resident:
    """Kept by the pool, which alone changes it."""

    def __init__(self, engine: Engine, now: Callable[[], float]) -> None:
        self.engine = engine
        self.now = now
        self.phase = Phase.DORMANT
        self.places = Places(engine.name, engine.slots, now)
        self.child: Supervisor | None = None
        self.table: SlotTable | None = None  # of a server that lets its slots be chosen, once it is loaded
        self.demand = Demand()
        self.estimate: Footprint | None = None  # of the next load
        self.taken = NOTHING  # of the budget, now
        self.is_downloading = False
        self.is_asleep = False  # also while it is wanted again
        self.is_demanded = False  # somebody waits for it; else it is loaded ahead
        self.wanted_at = math.inf
        self.loaded_at = self.used_at = self.slept_at = self.warmed_at = -math.inf
        self.held_until = -math.inf  # too soon to evict
        self.gap_until = -math.inf  # its agent may come back with what its tools said
        self.age = 0.0  # of GreedyDual: worth of the last evicted, when this was last used
        self.failures = 0  # starts in a row
        self.retry_at = -math.inf
        self.restarts = 0  # of servers that are gone
        self.why = ""  # it is as it is
        self.found: FoundServer | None = None  # of an earlier run
        self.last_error: str | None = None
        self.places.refuse(self.unavailable)

    @property
    def key(self) -> str:
        """Two engines may have one name for a while: a changed entry, and the one before."""
        return f"{self.engine.name}#{id(self)}"

    @property
    def is_on_demand(self) -> bool:
        return self.engine.residency is Residency.ON_DEMAND

    @property
    def is_in_use(self) -> bool:
        return self.places.busy > 0 or (self.phase is Phase.LOADED and self.places.waiting > 0)

    @property
    def is_in_pause(self) -> bool:
        """Its last start failed a moment ago."""
        return self.phase in (Phase.DORMANT, Phase.LEAVING) and self.retry_at > self.now()

    @property
    def is_on_its_way(self) -> bool:
        """It is to be there, and has not failed yet."""
        has_failed = self.child is not None and self.child.last_error is not None
        return self.phase in (Phase.WANTED, Phase.LOADING) and not self.is_on_demand and not has_failed

    def supervise(self, site: Site, on_change: Callable[[], None]) -> Supervisor:
        child = self.child = self.engine.supervise(site, on_change)
        if self.found is not None:
            child.remember(self.found)
        return child

    def lay_table(self) -> None:
        """Its server is there, and its slots are empty."""
        if isinstance(self.engine, Slotted):
            self.table = SlotTable(self.places.slots, self.engine.slot_folder())

    def retire(self) -> None:
        """Its server is gone."""
        if self.child is not None:
            self.restarts += self.child.restarts
            self.last_error = self.child.last_error or self.last_error
            self.found = self.child.found or self.found
        self.child = None
        self.taken = NOTHING
        self.is_asleep = False

    @property
    def frees(self) -> Footprint:
        """What is won when it goes: where it can sleep, that comes first."""
        asleep = None if self.phase is Phase.ASLEEP else self.engine.asleep(self.taken)
        return self.taken if asleep is None else self.taken - asleep

    @property
    def expected_load_s(self) -> float:
        if self.is_asleep and self.demand.wake_s is not None:
            return self.demand.wake_s
        size = self.estimate or NOTHING
        return self.demand.expected_load_s(size.ram_bytes + size.gpu_bytes)

    def worth(self, now: float) -> float:
        size_gib = max(self.taken.ram_bytes + self.taken.gpu_bytes, 1) / GIB
        return self.age + self.gain(now) / size_gib

    def gain(self, now: float) -> float:
        """Seconds of waiting, per second, that its being loaded spares."""
        size = self.taken if self.taken != NOTHING else self.estimate or NOTHING
        return self.demand.rate(now) * self.demand.expected_load_s(size.ram_bytes + size.gpu_bytes)

    def as_loaded(self, now: float, *, wholly: bool, is_held: bool) -> Loaded:
        """`wholly`: it does not sleep, it goes."""
        worth = -1.0 if self.phase is Phase.DRAINING else self.worth(now)  # once chosen, it stays so
        return Loaded(self.key, self.taken if wholly else self.frees, worth, is_held)

    def unavailable(self) -> BackendUnavailable:
        name, child = self.engine.name, self.child
        if child is not None and child.state is State.STOPPED:
            child = None
        if child is None and not self.failures:
            return BackendUnavailable(f"model '{name}' is not running")
        why = self.last_error if child is None else child.last_error
        resumes_at = max(self.retry_at, (child.resumes_at if child is not None else None) or 0.0)
        load_s = (child.loaded_s if child is not None else None) or 0.0
        retry_s = max(1, round(max(0.0, resumes_at - self.now()) + load_s))
        return BackendUnavailable(f"model '{name}' is not running: {why}", headers={"retry-after": str(retry_s)})

    @property
    def stage(self) -> Stage:
        child = self.child
        if self.phase is Phase.ASLEEP:
            return Stage.SLEEPING
        if self.phase is Phase.WANTED and self.is_asleep:
            return Stage.LOADING
        if self.phase is Phase.DOZING:
            return Stage.UNLOADING
        if self.phase is Phase.LEAVING:
            return Stage.FAILED if self.failures else Stage.UNLOADING
        if child is not None and child.state is State.FAILED:
            return Stage.FAILED
        if child is not None and child.state is State.READY and not self.is_asleep:
            return Stage.BUSY if self.places.busy else Stage.WARM
        if self.phase in (Phase.WANTED, Phase.LOADING):
            return Stage.LOADING
        if self.failures:
            return Stage.FAILED
        if self.is_downloading:
            return Stage.DOWNLOADING
        return Stage.DORMANT if self.engine.is_present else Stage.ABSENT

    @property
    def state(self) -> ModelState:
        child, places = self.child, self.places
        is_here = self.phase in (Phase.LOADED, Phase.DRAINING)
        return ModelState(
            stage=self.stage,
            pid=child.pid if child is not None else None,
            restarts=self.restarts + (child.restarts if child is not None else 0),
            last_error=(child.last_error if child is not None else None) or self.last_error,
            loaded_s=(child.loaded_s if child is not None else None) or self.demand.load_s,
            slots=places.slots,
            busy=places.busy,
            waiting=places.waiting,
            footprint=self.taken if self.taken != NOTHING else self.estimate or NOTHING,
            why=self.why,
            idle_s=None if places.busy or not is_here else self.now() - max(self.used_at, self.loaded_at),
        )
