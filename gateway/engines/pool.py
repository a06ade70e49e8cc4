"""The pool: runs the local servers and gives out the right to use them.

A caller asks for a lease and waits for whatever that needs; it never reads a state and acts on it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.engines import Engine, Lease, Site, State
from gateway.engines.places import Places
from gateway.errors import BackendUnavailable
from gateway.probe import FoundServer


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model as operators see it. `last_error` is kept after it has recovered; `loaded_s`: its last good start."""

    state: State
    pid: int | None
    restarts: int
    last_error: str | None
    loaded_s: float | None
    slots: int
    busy: int
    waiting: int


class _Resident:
    """A model that is wanted: its engine, who sees to its server, the places at it."""

    def __init__(self, engine: Engine, site: Site) -> None:
        self.engine = engine
        self.places = Places(engine.name, engine.slots)
        self.child = engine.supervise(site, self._follow)
        self._follow()

    def _follow(self) -> None:
        if self.child.found is not None and self.child.found.slots is not None:
            self.places.slots = self.child.found.slots
        if self.child.lease is not None and self.child.state is State.READY:
            self.places.open(self.child.lease)
        elif self.child.state is State.STARTING:
            self.places.hold()
        else:
            self.places.refuse(self._unavailable)

    async def take(self, deadline: float | None) -> Lease:
        resumes_at = self.child.resumes_at
        if deadline is not None and resumes_at is not None and resumes_at > deadline:
            raise self._unavailable()
        return await self.places.take(deadline)

    def _unavailable(self) -> BackendUnavailable:
        name = self.engine.name
        if self.child.state is State.STOPPED:
            return BackendUnavailable(f"model '{name}' is not running")
        pause_s = max(0.0, (self.child.resumes_at or 0.0) - time.monotonic())
        retry_s = max(1, round(pause_s + (self.child.loaded_s or 0.0)))
        return BackendUnavailable(
            f"model '{name}' is not running: {self.child.last_error}", headers={"retry-after": str(retry_s)}
        )

    @property
    def state(self) -> ModelState:
        child, places = self.child, self.places
        return ModelState(
            state=child.state,
            pid=child.pid,
            restarts=child.restarts,
            last_error=child.last_error,
            loaded_s=child.loaded_s,
            slots=places.slots,
            busy=places.busy,
            waiting=places.waiting,
        )


class Pool:
    """Local models by engine: what is wanted (`keep`) runs until nobody wants it any more (`drop`).

    A changed entry of models.yaml is another engine, so both run while requests that began with the old one go on.

    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._residents: dict[Engine, _Resident] = {}
        self._wanted: Counter[Engine] = Counter()
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_running = False
        self.current: Collection[Engine] = ()
        """Those that new requests may be sent to: what `is_ready` and `states` speak of."""

    def keep(self, engines: Collection[Engine]) -> None:
        """Make them known, and start them if the pool has been started. To be undone by `drop`."""
        for engine in engines:
            self._wanted[engine] += 1
            if engine not in self._residents:
                resident = self._residents[engine] = _Resident(engine, self._site)
                if self._is_running:
                    resident.child.start()

    def drop(self, engines: Collection[Engine]) -> None:
        """Stop those that nobody else keeps. Does not wait; `close` does."""
        for engine in engines:
            self._wanted[engine] -= 1
            if self._wanted[engine] > 0:
                continue
            del self._wanted[engine]
            leaving = asyncio.create_task(self._residents.pop(engine).child.stop(), name=f"stop {engine.name}")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def start(self) -> None:
        """Begin to start all of them side by side. Does not wait: leases do."""
        self._is_running = True
        for resident in self._residents.values():
            resident.child.start()

    async def settled(self, engines: Collection[Engine], patience_s: float) -> None:
        """Returns when each of them is ready, has failed to start or is not kept any more; after `patience_s` in
        any case."""
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at:
            states = [self._residents[engine].state for engine in engines if engine in self._residents]
            if all(state.state is not State.STARTING or state.last_error for state in states):
                return
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Refuse those who wait, and return when every child is gone."""
        self._is_running = False
        await asyncio.gather(*self._leaving, *(resident.child.stop() for resident in self._residents.values()))

    @asynccontextmanager
    async def lease(self, engine: Engine, deadline: float | None = None) -> AsyncIterator[Lease]:
        """The right to send one request to this model, until the block is left.

        Waits while the model is being started, also after a crash, and for a free place. If it crashes during the
        lease, the holder sees that as an error of its own request.

        Args:
            deadline: `time.monotonic()` until which to wait; None: as long as it takes.
        Raises: BackendUnavailable (it does not start, or not before the deadline), BackendTimeout, Overloaded;
            KeyError for an engine that nobody keeps.
        """
        resident = self._residents[engine]
        lease = await resident.take(deadline)
        taken = time.monotonic()
        try:
            yield lease
        except BackendUnavailable:
            resident.child.doubt()
            raise
        finally:
            resident.places.give_back(time.monotonic() - taken)

    def address(self, engine: Engine) -> Lease | None:
        """Where it is now, for questions that need no place at it; None while it is not there."""
        resident = self._residents.get(engine)
        return resident.child.lease if resident is not None else None

    def found(self, engine: Engine) -> FoundServer | None:
        """What a server that others run tells of itself, and of this one of its models; None while it is not there."""
        resident = self._residents.get(engine)
        return resident.child.found if resident is not None else None

    @property
    def is_ready(self) -> bool:
        """Does every model that is to be always there answer? Also true where there is none."""
        return all(self._residents[engine].child.state is State.READY for engine in self.current if engine.is_always)

    def state_of(self, engine: Engine) -> ModelState:
        return self._residents[engine].state

    def states(self) -> dict[str, ModelState]:
        return {engine.name: self._residents[engine].state for engine in self.current}
