"""A clock that only moves when nobody has anything left to do, and engines that play in it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.engines import Lease, Residency, Site, State
from gateway.engines.footprint import NOTHING, Footprint
from gateway.errors import EngineError
from gateway.probe import FoundServer


class _Patient(selectors.DefaultSelector):
    """Does not wait: time moves on at once to when the next timer is due."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self.clock += timeout
        if not ready and timeout is None:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._patient = _Patient()
        super().__init__(self._patient)

    def time(self) -> float:
        return self._patient.clock


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main(loop))
    finally:
        loop.close()


@dataclass
class World:
    """What really is in memory, as the engines of one run have it."""

    budget: Footprint
    taken: dict[str, Footprint] = field(default_factory=dict)
    running: dict[tuple[str, int], int] = field(default_factory=dict)  # requests, by model and run of its server
    run: dict[str, int] = field(default_factory=dict)
    most: Footprint = field(default_factory=Footprint)
    faults: list[str] = field(default_factory=list)

    def load(self, name: str, footprint: Footprint) -> None:
        if name in self.taken:
            self.faults.append(f"{name} is loaded twice")
        self.taken[name] = footprint
        total = sum(self.taken.values(), Footprint())
        if not total.fits(self.budget):
            self.faults.append(f"over budget: {total} with {sorted(self.taken)}")

    def unload(self, name: str) -> None:
        if name in self.taken and self.running.get((name, self.run.get(name, 0))):
            self.faults.append(f"{name} is dropped while it answers")
        self.taken.pop(name, None)

    def crash(self, name: str) -> None:
        """What it was answering is lost."""
        self.run[name] = self.run.get(name, 0) + 1
        self.taken.pop(name, None)


@dataclass(eq=False)
class Played:
    """An engine in a `World`. `fails`: of its next starts, so many; `crashes_after_s`: of being ready, once."""

    name: str
    world: World
    size: Footprint
    load_s: float = 1.0
    unload_s: float = 0.1
    slots: int = 1
    residency: Residency = Residency.ON_DEMAND
    idle_ttl_s: float = 300.0
    preload: bool = False
    fails: int = 0
    crashes_after_s: float | None = None
    loads: int = 0
    is_present: bool = True
    sleeps_in: Footprint | None = None
    naps_fail: bool = False
    woken: int = 0

    files: tuple[Path, ...] = ()
    growth: Footprint = NOTHING

    def asleep(self, loaded: Footprint) -> Footprint | None:
        return self.sleeps_in

    def footprint(self) -> Footprint:
        return self.size

    def supervise(self, site: Site, on_change: Callable[[], None]) -> PlayedServer:
        return PlayedServer(self, on_change)


class PlayedServer:
    def __init__(self, engine: Played, on_change: Callable[[], None]) -> None:
        self.state = State.STOPPED
        self.lease: Lease | None = None
        self.pid: int | None = None
        self.restarts = 0
        self.last_error: str | None = None
        self.loaded_s: float | None = None
        self.resumes_at: float | None = None
        self.found: FoundServer | None = None
        self._engine, self._on_change = engine, on_change
        self._task: asyncio.Task[None] | None = None

    def doubt(self) -> None:
        pass

    def remember(self, found: FoundServer) -> None:
        pass

    def start(self) -> None:
        self._become(State.STARTING)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self.lease = None
        await asyncio.sleep(self._engine.unload_s)
        self._engine.world.unload(self._engine.name)
        self._become(State.STOPPED)

    async def sleep(self) -> None:
        engine = self._engine
        await asyncio.sleep(0.2)
        if engine.naps_fail:
            raise EngineError("no")
        assert engine.sleeps_in is not None
        if engine.name in engine.world.taken:
            engine.world.unload(engine.name)
            engine.world.load(engine.name, engine.sleeps_in)

    async def wake(self) -> None:
        engine = self._engine
        if engine.name not in engine.world.taken:
            raise EngineError("it is gone")
        engine.world.unload(engine.name)
        engine.world.load(engine.name, engine.size)
        await asyncio.sleep(0.2)
        if engine.naps_fail:
            raise EngineError("no")
        engine.woken += 1

    async def _run(self) -> None:
        engine, loop = self._engine, asyncio.get_running_loop()
        while True:
            engine.world.load(engine.name, engine.size)
            engine.loads += 1
            await asyncio.sleep(engine.load_s)
            if engine.fails > 0:
                engine.fails -= 1
                engine.world.taken.pop(engine.name, None)
                self.last_error, self.resumes_at = "it broke", loop.time() + 0.5
                self._become(State.FAILED)
            else:
                self.lease, self.loaded_s = Lease(f"http://{engine.name}", None, engine.name), engine.load_s
                self._become(State.READY)
                if engine.crashes_after_s is None:
                    await asyncio.Event().wait()
                await asyncio.sleep(engine.crashes_after_s or 0)
                engine.crashes_after_s, self.lease = None, None
                engine.world.crash(engine.name)
                self.last_error, self.resumes_at = "it crashed", loop.time() + 0.5
                self._become(State.STARTING)
            await asyncio.sleep(0.5)
            self.resumes_at = None
            self.restarts += 1

    def _become(self, state: State) -> None:
        self.state = state
        self._on_change()
