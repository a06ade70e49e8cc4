"""The life of the pool's models: wanted, loaded, measured, sent to sleep, dropped.

What is to happen is decided in `plan.py`; here it is done, and what comes of it is noted. A request never waits for
this directly: it waits for a place (`places.py`), which is opened, held back or refused from here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from gateway.engines import Engine, Residency, Site, State, Supervisor
from gateway.engines.footprint import NOTHING, UNLIMITED, Footprint
from gateway.engines.plan import Departure, Plan, Rules, choose
from gateway.engines.prefixes import Prefixes
from gateway.engines.resident import Phase, Resident
from gateway.engines.slots import SlotTable
from gateway.engines.wishes import Event, Reason, Wish
from gateway.errors import BackendUnavailable, EngineError, ModelLoading

log = logging.getLogger(__name__)

MEASURE_EVERY_S = 15.0
WARM_EVERY_S = 60.0
AWAKE = (Phase.LOADED, Phase.DRAINING)
InThread = Callable[..., Coroutine[Any, Any, Any]]


class Lifecycle:
    """Of all models of one pool. `age`: GreedyDual's, the worth of the last that went for room."""

    def __init__(
        self,
        site: Site,
        rules: Rules,
        now: Callable[[], float],
        in_thread: InThread,
        on_event: Callable[[Event], None],
        prefixes: Prefixes | None,
    ) -> None:
        self.residents: dict[Engine, Resident] = {}
        self.is_running = False
        self.age = 0.0
        self.on_event = on_event
        self.rules = rules
        self._site, self._now, self._in_thread, self._prefixes = site, now, in_thread, prefixes
        self._budget = UNLIMITED
        self._queue: list[Resident] = []  # those that wait for room, first come, first served
        self._going: dict[asyncio.Task[None], Footprint] = {}  # servers that are being stopped
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_planned = False

    @property
    def budget(self) -> Footprint:
        return self._budget

    @budget.setter
    def budget(self, budget: Footprint) -> None:
        """Those that are always on and did not fit are tried again."""
        self._budget = budget
        for resident in self.residents.values():
            is_missing = resident.engine.residency is Residency.ALWAYS and resident.phase is Phase.DORMANT
            if self.is_running and is_missing:
                self.begin(resident)
        self.plan_soon()

    @property
    def taken(self) -> Footprint:
        """Of the budget, by all that is loaded, being loaded or on its way out."""
        loaded = (resident.taken for resident in self.residents.values())
        return sum((*loaded, *self._going.values()), NOTHING)

    @property
    def _room(self) -> Footprint:
        return self.budget - self.taken

    def add(self, engine: Engine) -> None:
        resident = self.residents[engine] = Resident(engine, self._now)
        if self.is_running:
            self.begin(resident)

    def remove(self, engine: Engine) -> None:
        resident = self.residents.pop(engine)
        if resident.phase is Phase.WANTED and resident.child is None:
            self._queue.remove(resident)
        if resident.child is None:
            resident.phase = Phase.DORMANT
            resident.places.refuse(resident.unavailable)
        elif resident.phase is not Phase.LEAVING:
            self.stop(resident, "not in models.yaml any more", Reason.STOP)

    async def close(self) -> None:
        """Refuse those who wait, and return when every child is gone."""
        self.is_running = False
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        if self._prefixes is not None:
            self._prefixes.hurry()
        for task in tuple(self._tasks):
            task.cancel()
        for resident in self.residents.values():
            if resident.child is not None and resident.phase is not Phase.LEAVING:
                self.stop(resident, "the gateway stops", Reason.STOP)
            elif resident.phase is Phase.WANTED:
                resident.phase = Phase.DORMANT
            resident.places.refuse(resident.unavailable)
        await asyncio.gather(*self._going, *self._tasks, return_exceptions=True)

    # From a wish to a load

    def begin(self, resident: Resident) -> None:
        resident.places.hold()
        engine = resident.engine
        if engine.residency is Residency.ELSEWHERE:
            self._load(resident, NOTHING)
        elif engine.residency is Residency.ALWAYS:
            self.want(resident, "always on", is_demanded=True)
        elif engine.preload:
            self.want(resident, "preload", is_demanded=False)
        else:
            self._spawn(self._estimate(resident))  # so that the first request need not wait for it

    def wake(self, resident: Resident, wish: Wish, deadline: float | None, now: float) -> None:
        """Raises: BackendUnavailable, ModelLoading."""
        resumes_at = resident.child.resumes_at if resident.child is not None else None
        if resident.is_in_pause or (resumes_at is not None and resumes_at > (deadline or math.inf)):
            raise resident.unavailable()
        if not resident.is_on_demand or not self.is_running:
            return
        wish.woke = True
        if resident.is_downloading:
            raise ModelLoading(f"model '{resident.engine.name}' is being downloaded", headers={"retry-after": "30"})
        if wish.can_move_on and (why := self._better_elsewhere(resident, now)):
            raise ModelLoading(f"model '{resident.engine.name}' {why}", headers={"retry-after": "1"})
        if resident.phase in (Phase.DORMANT, Phase.ASLEEP):
            self.want(resident, "asked for", is_demanded=True)
        elif resident.phase is Phase.WANTED:
            resident.is_demanded = True
            self.plan_soon()

    def _better_elsewhere(self, resident: Resident, now: float) -> str:
        """Why a request that can be answered by the next layer should be; empty where waiting is quick enough.

        One that is asked for once throws nobody out: it is loaded for the next request, where it is asked for often
        enough or there is room anyway.
        """
        size, load_s = (resident.estimate or NOTHING) - resident.taken, resident.expected_load_s
        if resident.phase in (Phase.DORMANT, Phase.ASLEEP):
            is_popular = resident.demand.rate(now) * self.rules.horizon_s >= 1
            if not (is_popular or size.fits(self._room)):
                self._warm(resident)
                return "is not loaded, and others are asked for more often"
            self.want(resident, "asked for often" if is_popular else "asked for", is_demanded=False)
            is_quick = size.fits(self._room) and load_s <= self.rules.patience_s
        else:
            left_s = load_s - (now - resident.wanted_at)
            is_quick = resident.phase is Phase.LOADING and left_s <= self.rules.patience_s
        return "" if is_quick else "is being loaded"

    def note_download(self, resident: Resident, *, is_coming: bool, why: str | None) -> None:
        resident.is_downloading, resident.last_error = is_coming, why or resident.last_error
        self._tell(resident, "its files are being fetched" if is_coming else why or "its files are here", Reason.FILES)
        if not is_coming and why is None:
            resident.estimate = None
            self._spawn(self._estimate(resident))

    def _warm(self, resident: Resident) -> None:
        """It cannot be loaded now, and may be soon: its files, at least, can be in the page cache by then."""
        now = self._now()
        if resident.engine.files and now >= resident.warmed_at + WARM_EVERY_S:
            resident.warmed_at = now
            self._spawn(self._in_thread(self._site.warm, resident.engine.files))

    def want(self, resident: Resident, why: str, *, is_demanded: bool) -> None:
        resident.phase, resident.is_demanded, resident.wanted_at = Phase.WANTED, is_demanded, self._now()
        if resident.engine.residency is Residency.ALWAYS:
            self._queue.insert(0, resident)
        else:
            self._queue.append(resident)
        self._tell(resident, why, Reason.WANTED)
        if resident.estimate is None or resident.estimate == NOTHING:  # perhaps its files have come
            resident.estimate = None
            self._spawn(self._estimate(resident))
        self.plan_soon()

    async def _estimate(self, resident: Resident) -> None:
        if resident.estimate is None:
            try:
                resident.estimate = await self._in_thread(resident.engine.footprint)
            except EngineError:
                resident.estimate = NOTHING  # its start will tell what is wrong
        self.plan_soon()

    # Plans

    def plan_soon(self) -> None:
        """Once those who have just come are waiting, and for all that happens in one turn of the loop at once."""
        if self.is_running and not self._is_planned:
            self._is_planned = True
            asyncio.get_running_loop().call_soon(self._carry_out)

    def _carry_out(self) -> None:
        self._is_planned = False
        if not self.is_running:
            return
        going, now = self._going.values(), self._now()
        plan = choose(self.residents.values(), self._queue, going, self.budget, self.rules, now)
        for departure in plan.leave:
            if departure.is_for_room:
                self.age = max(self.age, departure.resident.worth(now))
            self._dismiss(departure)
        for resident in (*plan.load, *(resident for resident, _ in plan.refuse), *plan.forget):
            self._queue.remove(resident)
        for resident in plan.load:
            self._load(resident, resident.estimate or NOTHING)
        for resident, why in plan.refuse:
            self._refuse(resident, why)
        for resident in plan.forget:
            resident.phase = Phase.ASLEEP if resident.is_asleep else Phase.DORMANT
            why = "nobody waits for it any more" if resident.is_demanded else "there is no room for it"
            self._tell(resident, why, Reason.FORGOTTEN)
            if not resident.is_demanded:
                self._warm(resident)
            if resident.is_asleep:
                self.plan_soon()  # its time to sleep goes on
        self._drain(plan)
        self._set_timer(plan.again_at)

    def _drain(self, plan: Plan) -> None:
        for resident in self.residents.values():
            if resident.phase is Phase.LOADED and resident in plan.drain:
                resident.phase = Phase.DRAINING
                resident.places.hold()
                self._tell(resident, "has to make room: no new requests", Reason.DRAIN)
            elif resident.phase is Phase.DRAINING and resident not in plan.drain:
                resident.phase = Phase.LOADED
                if resident.child is not None and resident.child.lease is not None:
                    resident.places.open(resident.child.lease)
                self._tell(resident, "may stay", Reason.STAY)

    def _refuse(self, resident: Resident, why: str) -> None:
        """It does not fit, whatever goes."""
        resident.phase, resident.last_error = Phase.ASLEEP if resident.is_asleep else Phase.DORMANT, why
        self._tell(resident, why, Reason.REFUSED)
        error = partial(BackendUnavailable, f"model '{resident.engine.name}' cannot be loaded: {why}")
        resident.places.refuse(error)
        if resident.is_on_demand:
            resident.places.hold()  # the next one may find other models there
        else:
            resident.failures = 1

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when < math.inf:
            delay_s = max(0.001, when - self._now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.plan_soon)

    # Loads and what comes of them

    def _load(self, resident: Resident, footprint: Footprint) -> None:
        is_asleep, resident.phase, resident.taken = resident.is_asleep, Phase.LOADING, footprint
        if resident.engine.residency is not Residency.ELSEWHERE:
            self._tell(resident, "loading", Reason.LOAD)
        if is_asleep:
            self._spawn(self._wake_up(resident))
        else:
            resident.supervise(self._site, partial(self._follow, resident)).start()

    def _follow(self, resident: Resident) -> None:
        """Its server has changed."""
        child = resident.child
        is_sleeper = resident.is_asleep or resident.phase is Phase.DOZING
        if is_sleeper and child is not None and child.state is not State.READY:
            self._lose_sleeper(resident, child.last_error or "it ended")
            return
        if child is None or is_sleeper or resident.phase in (Phase.DORMANT, Phase.WANTED, Phase.LEAVING):
            return
        if child.found is not None and child.found.slots is not None:
            resident.places.slots = child.found.slots
        if child.lease is not None and child.state is State.READY:
            if resident.phase is Phase.LOADING:
                resident.demand.note_load(child.loaded_s or 0.0)
                self._arrive(resident, child.loaded_s or 0.0)
            if resident.phase is Phase.LOADED:
                resident.places.open(child.lease)
        elif child.state is State.STARTING:
            if resident.phase is not Phase.LOADING:
                resident.phase = Phase.LOADING
                self._tell(resident, f"starts again: {child.last_error}", Reason.CRASH)
            resident.places.hold()
            if resident.is_on_demand and child.last_error and not resident.places.waiting:
                self.stop(resident, f"{child.last_error}, and nobody waits for it", Reason.CRASH)
        elif not resident.is_on_demand:
            resident.places.refuse(resident.unavailable)
            if child.state is State.FAILED:
                self._tell(resident, child.last_error or "it does not start", Reason.FAILED)
        elif child.state is State.FAILED:
            self._fail(resident, child.last_error or "it does not start")

    def _arrive(self, resident: Resident, loaded_s: float, how: str = "loaded") -> None:
        now = self._now()
        resident.phase, resident.loaded_at, resident.failures = Phase.LOADED, now, 0
        resident.held_until = now + max(self.rules.dwell_s, loaded_s)
        resident.lay_table()
        if resident.engine.residency is not Residency.ELSEWHERE:
            self._tell(resident, how, Reason.LOADED, loaded_s)
            self._spawn(self._measure(resident))
        self.plan_soon()

    def _fail(self, resident: Resident, why: str) -> None:
        """A start on demand has failed. The supervisor tries once more while somebody waits; then there is a pause, in
        which it is not asked for."""
        resident.failures += 1
        if resident.failures == 1 and resident.places.waiting:
            return
        rules = self.rules
        pause_s = min(rules.first_pause_s * 2.0 ** (resident.failures - 1), rules.longest_pause_s)
        resident.retry_at, resident.last_error = self._now() + pause_s, why
        resident.places.refuse(resident.unavailable)
        self.stop(resident, f"{why}; not tried again for {pause_s:g} s", Reason.FAILED)

    def _dismiss(self, departure: Departure) -> None:
        """Send it to sleep, or away."""
        resident, reason = departure.resident, Reason.ROOM if departure.is_for_room else Reason.IDLE
        asleep = None if departure.wholly or resident.is_asleep else resident.engine.asleep(resident.taken)
        if asleep is None:
            self.stop(resident, departure.why, reason)
            return
        resident.phase = Phase.DOZING
        resident.places.hold()
        self._tell(resident, f"{departure.why}: sent to sleep", reason)
        self._spawn(self._send_to_sleep(resident, asleep))

    async def _send_to_sleep(self, resident: Resident, asleep: Footprint) -> None:
        child = resident.child
        assert child is not None
        try:
            await child.sleep()
        except EngineError as exc:
            if resident.child is child and resident.phase is Phase.DOZING:
                self.stop(resident, f"it did not go to sleep: {exc.message}", Reason.FAILED)
            return
        if resident.child is not child or resident.phase is not Phase.DOZING:
            return
        resident.phase, resident.is_asleep, resident.taken = Phase.ASLEEP, True, asleep
        resident.slept_at = self._now()
        self._tell(resident, "sleeps", Reason.ASLEEP)
        if child.state is not State.READY:
            self._lose_sleeper(resident, child.last_error or "it ended")
        elif resident.places.waiting:
            self.want(resident, "asked for meanwhile", is_demanded=True)
        self.plan_soon()

    async def _wake_up(self, resident: Resident) -> None:
        child, began = resident.child, self._now()
        assert child is not None
        try:
            await child.wake()
        except EngineError as exc:
            if resident.child is child and resident.is_asleep:
                self.stop(resident, f"it did not wake: {exc.message}", Reason.FAILED)
            return
        if resident.child is not child or not resident.is_asleep or child.lease is None:
            return
        resident.is_asleep = False
        resident.demand.note_waking(self._now() - began)
        self._arrive(resident, self._now() - began, "woken")
        resident.places.open(child.lease)

    def _lose_sleeper(self, resident: Resident, why: str) -> None:
        """Its server has ended in its sleep."""
        if resident.phase is not Phase.LEAVING:
            self.stop(resident, why, Reason.CRASH)

    def stop(self, resident: Resident, why: str, reason: Reason) -> None:
        child = resident.child
        assert child is not None
        if resident in self._queue:  # it slept, and was to be woken
            self._queue.remove(resident)
        table = resident.table if resident.phase in (Phase.LOADED, Phase.DRAINING) else None
        resident.phase = Phase.LEAVING
        resident.places.hold()
        self._tell(resident, why, reason)
        ending = child.stop() if table is None else self._store_and_stop(child, table)
        task = asyncio.create_task(ending, name=f"stop {resident.engine.name}")
        self._going[task] = resident.taken
        resident.taken = NOTHING  # the task holds it now
        task.add_done_callback(partial(self._gone, resident))

    async def _store_and_stop(self, child: Supervisor, table: SlotTable) -> None:
        try:
            if self._prefixes is not None and child.lease is not None:
                await self._prefixes.store_all(table, child.lease)
        finally:
            await child.stop()

    def _gone(self, resident: Resident, task: asyncio.Task[None]) -> None:
        del self._going[task]
        resident.retire()
        resident.phase = Phase.DORMANT
        for other in self.residents.values():
            if other.phase in AWAKE and not set(resident.engine.files).isdisjoint(other.engine.files):
                other.taken = other.estimate or other.taken  # its pages were shared, until it is measured again
        if resident.engine.residency is not Residency.ELSEWHERE:
            self._tell(resident, "unloaded", Reason.GONE)
        if not self.is_running or self.residents.get(resident.engine) is not resident:
            resident.places.refuse(resident.unavailable)
        elif resident.places.waiting:
            self.want(resident, "asked for meanwhile", is_demanded=True)
        self.plan_soon()

    async def _measure(self, resident: Resident) -> None:
        """Now and then while it is loaded: what it really takes stands in for the estimate."""
        child = resident.child
        while child is not None and child is resident.child and child.pid is not None:
            measured = await self._in_thread(self._site.measure, child.pid)
            if child is not resident.child or resident.phase not in AWAKE:
                return
            if measured is None:
                return
            known = resident.estimate or NOTHING  # with pages that others do not share
            gpu_bytes = measured.gpu_bytes or known.gpu_bytes  # a container may not see whose processes are on a GPU
            resident.taken = taken = Footprint(measured.ram_bytes, gpu_bytes) + resident.engine.growth
            resident.estimate = Footprint(max(taken.ram_bytes, known.ram_bytes), max(taken.gpu_bytes, known.gpu_bytes))
            self.plan_soon()
            await asyncio.sleep(MEASURE_EVERY_S)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, resident: Resident, why: str, reason: Reason, seconds: float | None = None) -> None:
        resident.why = why
        stage, footprint = resident.stage, resident.state.footprint
        log.info("model %s: %s: %s", resident.engine.name, stage, why)
        if resident.engine.residency is not Residency.ELSEWHERE:
            self.on_event(Event(time.time(), resident.engine.name, stage, reason, why, footprint, seconds))
