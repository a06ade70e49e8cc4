"""The pool: runs the local servers within a budget of memory, and gives out the right to use them.

A caller asks for a lease and waits for whatever that needs; it never reads a state and acts on it. A model that is on
demand is loaded when it is asked for. Where there is no room, idle models go, the least worth first; where all are
busy, those that have had their time are given no new requests until they are idle: `plan.py` decides, `lifecycle.py`
acts.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from gateway.engines import Engine, Lease, Residency, Site
from gateway.engines.footprint import Footprint
from gateway.engines.lifecycle import InThread, Lifecycle
from gateway.engines.plan import Rules
from gateway.engines.prefixes import Prefixes, seated
from gateway.engines.resident import ModelState, Phase
from gateway.engines.wishes import Event, Wish
from gateway.errors import BackendUnavailable
from gateway.probe import FoundServer

RULES = Rules()


class Pool:
    """Local models by engine: what is wanted (`keep`) can be leased until nobody wants it any more (`drop`).

    A changed entry of models.yaml is another engine, so both are there while requests that began with the old one go
    on.

    Args:
        now: the clock of deadlines; the event loop's timers go by the same seconds.
        in_thread: runs what reads files.
        on_event: told of each decision and of what came of it; must not block.
        prefixes: stores what servers have read of conversations, before they go; None: it is lost with them.
    """

    def __init__(
        self,
        site: Site,
        *,
        rules: Rules = RULES,
        now: Callable[[], float] = time.monotonic,
        in_thread: InThread = asyncio.to_thread,
        on_event: Callable[[Event], None] = lambda event: None,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.current: Collection[Engine] = ()
        """Those that new requests may be sent to: what `is_ready` and `states` speak of."""
        self._life = Lifecycle(site, rules, now, in_thread, on_event, prefixes)
        self._residents = self._life.residents
        self._now, self._prefixes = now, prefixes
        self._wanted: Counter[Engine] = Counter()

    # What there is

    def keep(self, engines: Collection[Engine]) -> None:
        """Make them known, and start those that are to be there if the pool has been started. To be undone by
        `drop`."""
        for engine in engines:
            self._wanted[engine] += 1
            if engine not in self._residents:
                self._life.add(engine)

    def drop(self, engines: Collection[Engine]) -> None:
        """Stop those that nobody else keeps. Does not wait; `close` does."""
        for engine in engines:
            self._wanted[engine] -= 1
            if self._wanted[engine] > 0:
                continue
            del self._wanted[engine]
            self._life.remove(engine)

    async def start(self) -> None:
        """Begin to start those that are to be there, side by side. Does not wait: leases do."""
        self._life.is_running = True
        for resident in self._residents.values():
            self._life.begin(resident)

    async def settled(self, engines: Collection[Engine], patience_s: float) -> None:
        """Returns when each of them is ready, dormant, has failed to start or is not kept any more; after `patience_s`
        in any case."""
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at:
            found = [self._residents[engine] for engine in engines if engine in self._residents]
            if not any(resident.is_on_its_way for resident in found):
                return
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Refuse those who wait, and return when every child is gone."""
        await self._life.close()

    # What callers ask

    @asynccontextmanager
    async def lease(
        self, engine: Engine, deadline: float | None = None, wish: Wish | None = None
    ) -> AsyncIterator[Lease]:
        """The right to send one request to this model, until the block is left.

        Waits while the model is being loaded, also after a crash, and for a free place. If it crashes during the
        lease, the holder sees that as an error of its own request. Who leaves while waiting cancels nothing: others
        wait for the same load.

        Args:
            deadline: `time.monotonic()` until which to wait; None: as long as it takes.
        Raises: BackendUnavailable (it does not start, or not before the deadline), BackendTimeout, Overloaded;
            ModelLoading where the wish says that others can answer; KeyError for an engine that nobody keeps.
        """
        resident, wish = self._residents[engine], wish or Wish()
        now = self._now()
        resident.demand.note_request(now)
        if resident.phase is not Phase.LOADED:
            self._life.wake(resident, wish, deadline, now)
        lease = await resident.places.take(deadline)
        taken = self._now()
        wish.waited_s = taken - now
        resident.age, table = self._life.age, resident.table
        try:
            if table is None:
                yield lease
            else:
                async with seated(table, lease, wish, self._prefixes) as seat:
                    yield seat
        except BackendUnavailable:
            if resident.child is not None:
                resident.child.doubt()
            raise
        finally:
            resident.used_at = ended = self._now()
            if wish.offers_tools:
                resident.gap_until = ended + self._life.rules.tool_gap_s
            resident.places.give_back(ended - taken)
            if resident.is_on_demand and not resident.places.busy:
                self._life.plan_soon()

    def prefetch(self, engine: Engine, chance: float) -> None:
        """A request may need it soon, with this chance: load it ahead, where that is worth it and nobody has to go who
        is worth more."""
        resident = self._residents.get(engine)
        if resident is None or resident.phase not in (Phase.DORMANT, Phase.ASLEEP) or resident.is_in_pause:
            return
        load_s = resident.expected_load_s
        if chance * load_s >= self._life.rules.prefetch_worth_s:
            self._life.want(resident, f"ahead of need: chance {chance:.0%}, {load_s:.1f} s to load", is_demanded=False)

    def note_download(self, engine: Engine, *, is_coming: bool, why: str | None = None) -> None:
        """Its files are being fetched; or they have come, or why they have not."""
        resident = self._residents.get(engine)
        if resident is not None:
            self._life.note_download(resident, is_coming=is_coming, why=why)

    def load_s(self, engine: Engine) -> float:
        """Seconds that loading it is expected to take; 0 while it is loaded, or nobody keeps it."""
        resident = self._residents.get(engine)
        return 0.0 if resident is None or resident.phase is Phase.LOADED else resident.expected_load_s

    def address(self, engine: Engine) -> Lease | None:
        """Where it is now, for questions that need no place at it; None while it is not there."""
        resident = self._residents.get(engine)
        return resident.child.lease if resident is not None and resident.child is not None else None

    def found(self, engine: Engine) -> FoundServer | None:
        """What a server tells of itself, and of this one of its models; None while it is not there."""
        resident = self._residents.get(engine)
        return resident.child.found if resident is not None and resident.child is not None else None

    @property
    def is_ready(self) -> bool:
        """Does every model that is to be always there answer? Also true where there is none."""
        return all(self.state_of(engine).is_ready for engine in self.current if engine.residency is Residency.ALWAYS)

    def state_of(self, engine: Engine) -> ModelState:
        return self._residents[engine].state

    def is_loaded(self, engine: Engine) -> bool:
        """Could a request begin there at once? Also of engines that nobody keeps."""
        resident = self._residents.get(engine)
        return resident is not None and resident.phase is Phase.LOADED and resident.child is not None

    def states(self) -> dict[str, ModelState]:
        return {engine.name: self._residents[engine].state for engine in self.current}

    @property
    def budget(self) -> Footprint:
        """What all of them may take together."""
        return self._life.budget

    @budget.setter
    def budget(self, budget: Footprint) -> None:
        self._life.budget = budget

    @property
    def taken(self) -> Footprint:
        """Of the budget, by all that is loaded, being loaded or on its way out."""
        return self._life.taken

    @property
    def on_event(self) -> Callable[[Event], None]:
        """Told of each decision and of what came of it; must not block."""
        return self._life.on_event

    @on_event.setter
    def on_event(self, on_event: Callable[[Event], None]) -> None:
        self._life.on_event = on_event
