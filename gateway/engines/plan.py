"""What to load and what to drop, as things are at this moment: a pure decision, which the pool carries out.

Those that wait for room are served in the order they came. The first that has to wait for busy models keeps the room
that becomes free for itself, so that none waits for ever behind smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gateway.engines.evictions import Loaded, choose_evictions
from gateway.engines.footprint import NOTHING, Footprint
from gateway.engines.resident import GIB, Phase, Resident

IN_MEMORY = (Phase.LOADING, Phase.LOADED, Phase.DRAINING, Phase.ASLEEP)


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds, but for shares.

    Args:
        dwell_s: a model that was loaded stays for so long, and for as long as its load took, for requests to share it.
        tool_gap_s: after a request with tools it is kept so long, for the agent to come back.
        longest_wait_s: one that has waited so long for room takes it in a tool gap too.
        patience_s: a request that others can answer waits so long for a load.
        horizon_s: a model that is expected to be asked for again within it is worth a load that throws others out.
        least_gain: one that is loaded ahead of need throws nobody out who is worth more than this part of it.
        prefetch_worth_s: of expected waiting, for which a model is loaded ahead.
        first_pause_s, longest_pause_s: after starts that failed.
    """

    dwell_s: float = 2.0
    tool_gap_s: float = 10.0
    longest_wait_s: float = 60.0
    patience_s: float = 2.0
    horizon_s: float = 120.0
    least_gain: float = 0.8
    prefetch_worth_s: float = 0.1
    first_pause_s: float = 2.0
    longest_pause_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Departure:
    """`wholly`: it does not sleep, though it may be able to. `is_for_room`: else it was idle."""

    resident: Resident
    why: str
    wholly: bool = False
    is_for_room: bool = True


@dataclass(slots=True)
class Plan:
    """`leave`: idle, or for room; `drain`: to get no new requests; `refuse`: will never fit; `forget`: needed by
    nobody any more; `again_at`: when time alone may change the plan."""

    load: list[Resident] = field(default_factory=list)
    leave: list[Departure] = field(default_factory=list)
    drain: list[Resident] = field(default_factory=list)
    refuse: list[tuple[Resident, str]] = field(default_factory=list)
    forget: list[Resident] = field(default_factory=list)
    again_at: float = math.inf


def choose(
    residents: Collection[Resident],
    queue: Sequence[Resident],
    going: Collection[Footprint],
    budget: Footprint,
    rules: Rules,
    now: float,
) -> Plan:
    """`queue`: those that wait for room; `going`: what servers still take that are being stopped."""
    return _Planner(residents, going, budget, rules, now).plan(queue)


class _Planner:
    def __init__(
        self,
        residents: Collection[Resident],
        going: Collection[Footprint],
        budget: Footprint,
        rules: Rules,
        now: float,
    ) -> None:
        self._budget, self._rules, self._now = budget, rules, now
        self._loaded = [r for r in residents if r.phase in IN_MEMORY or (r.phase is Phase.WANTED and r.is_asleep)]
        self._room = budget - sum(going, NOTHING) - sum((r.taken for r in residents), NOTHING)
        dozing = (r.frees for r in residents if r.phase is Phase.DOZING)
        self._coming = sum((*going, *dozing), NOTHING)  # free soon
        self._plan = Plan()

    def plan(self, queue: Sequence[Resident]) -> Plan:
        self._retire_idle()
        for resident in queue:
            is_left = resident.is_demanded and resident.is_on_demand and not resident.places.waiting
            if is_left:
                self._plan.forget.append(resident)
            elif resident.is_asleep and resident not in self._loaded:
                continue  # it has just been chosen to go, and will come back to the end of the queue
            elif resident.estimate is not None and not self._place(resident, resident.estimate - resident.taken):
                break
        return self._plan

    def _retire_idle(self) -> None:
        for resident in self._loaded[:]:
            is_to_stay = resident.phase in (Phase.LOADING, Phase.WANTED) or not resident.is_on_demand
            if is_to_stay or resident.is_in_use:
                continue
            due = max(resident.used_at, resident.loaded_at, resident.slept_at) + resident.engine.idle_ttl_s
            if due <= self._now:
                why = f"idle for {resident.engine.idle_ttl_s:g} s"
                self._leave(Departure(resident, why, is_for_room=False))
            else:
                self._plan.again_at = min(self._plan.again_at, due)

    def _leave(self, departure: Departure) -> None:
        resident = departure.resident
        self._plan.leave.append(departure)
        self._loaded.remove(resident)
        self._coming += resident.taken if departure.wholly else resident.frees

    def _place(self, want: Resident, need: Footprint) -> bool:
        """False where those behind it have to wait too."""
        if need.fits(self._room):
            self._plan.load.append(want)
        elif not need.fits(self._room + self._coming):  # else it is being made already
            victims, wholly = self._victims(want, need, wholly=False), False
            if victims is None:
                victims, wholly = self._victims(want, need, wholly=True), True
            if victims is None:
                return self._wait(want, need)
            for victim in victims:
                self._leave(Departure(victim, f"makes room for '{want.engine.name}'", wholly))
        self._room -= need
        return True

    def _victims(self, want: Resident, need: Footprint, *, wholly: bool) -> list[Resident] | None:
        limit = math.inf
        if not want.is_demanded:
            size_gib = max(need.ram_bytes + need.gpu_bytes, 1) / GIB
            limit = self._rules.least_gain * want.gain(self._now) / size_gib
        loaded = [
            self._as_loaded(r, want, wholly=wholly, is_held=r.is_in_use or r.worth(self._now) > limit)
            for r in self._loaded
        ]
        return self._named(choose_evictions(need, loaded, self._room + self._coming))

    def _wait(self, want: Resident, need: Footprint) -> bool:
        """It waits for busy models, or will never fit."""
        if not want.is_demanded:
            self._plan.forget.append(want)
            return True
        fixed = [r for r in self._loaded if not r.is_on_demand]
        if not need.fits(self._budget - sum((r.taken for r in fixed), NOTHING)):
            self._plan.refuse.append((want, misfit(need, self._budget, fixed)))
            return True
        busy = [self._as_loaded(r, want, wholly=True, is_held=False) for r in self._loaded]
        chosen = self._named(choose_evictions(need, busy, self._room + self._coming))
        self._plan.drain = [r for r in chosen or () if r.phase in (Phase.LOADED, Phase.DRAINING)]
        return False

    def _as_loaded(self, resident: Resident, want: Resident, *, wholly: bool, is_held: bool) -> Loaded:
        is_held = is_held or not resident.is_on_demand or resident.phase is Phase.LOADING
        if resident.phase is Phase.WANTED:  # it sleeps, and is to be woken
            is_held = is_held or not wholly or resident is want
        elif resident.phase is not Phase.ASLEEP:
            is_held = is_held or self._is_too_soon(resident, want)
        return resident.as_loaded(self._now, wholly=wholly, is_held=is_held)

    def _is_too_soon(self, resident: Resident, want: Resident) -> bool:
        until = resident.held_until
        give_up_at = want.wanted_at + self._rules.longest_wait_s
        if resident.gap_until > until and self._now < give_up_at:
            until = min(resident.gap_until, give_up_at)
        if until > self._now:
            self._plan.again_at = min(self._plan.again_at, until)
        return until > self._now

    def _named(self, names: Sequence[str] | None) -> list[Resident] | None:
        """Two engines may have one name for a while: names are those of `as_loaded`."""
        return None if names is None else [r for r in self._loaded if r.key in names]


def misfit(need: Footprint, budget: Footprint, fixed: Sequence[Resident]) -> str:
    """Why it does not fit even alone, and what would have to go."""
    taken = sum((r.taken for r in fixed), NOTHING)
    lacking = [
        (f"{needs / GIB:.2f} GiB of {kind}, and the budget is {has / GIB:.2f} GiB", key)
        for kind, key, needs, has, fixed_bytes in (
            ("memory", "memory_budget", need.ram_bytes, budget.ram_bytes, taken.ram_bytes),
            ("GPU memory", "gpu_memory_budget", need.gpu_bytes, budget.gpu_bytes, taken.gpu_bytes),
        )
        if needs > has - fixed_bytes
    ]
    sizes = [(r.engine.name, r.taken.ram_bytes + r.taken.gpu_bytes) for r in fixed if r.taken != NOTHING]
    others = ", ".join(f"'{name}' ({size / GIB:.2f} GiB)" for name, size in sizes)
    always = f", of which the always-on {others} take their part" if others else ""
    what, keys = " and ".join(text for text, _ in lacking), " and ".join(key for _, key in lacking)
    return f"it needs {what}{always}: raise {keys}, let it have less context or slots, or less be always on"
