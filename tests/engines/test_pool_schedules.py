"""The pool under random schedules, in a world with a clock of its own: nothing may go wrong, whatever comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.engines import Residency, Site
from gateway.engines.footprint import Footprint
from gateway.engines.pool import Pool
from gateway.engines.wishes import Event, Wish
from gateway.errors import BackendTimeout, BackendUnavailable, ModelLoading, Overloaded
from gateway.transport.client import PooledClient
from tests.engines.virtual import Played, VirtualLoop, World, run

SCHEDULES = 3000
A_SLICE = 100


async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


class Schedule:
    """One random machine, its models, and what comes in."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.draw = random.Random(seed)
        draw = self.draw
        ram, gpu = draw.randint(4, 12), draw.choice([0, 0, draw.randint(2, 8)])
        self.world = World(Footprint(ram, gpu))
        always = draw.random() < 0.4
        self.engines = [
            Played(
                f"m{number}",
                self.world,
                Footprint(draw.randint(1, 4), draw.randint(0, 3) if gpu else 0),
                load_s=draw.choice([0.0, 0.2, 1.0, 5.0, 20.0]),
                unload_s=draw.choice([0.0, 0.1, 2.0]),
                slots=draw.randint(1, 3),
                residency=Residency.ALWAYS if always and number == 0 else Residency.ON_DEMAND,
                idle_ttl_s=draw.choice([5.0, 60.0, 300.0]),
                preload=draw.random() < 0.2,
                fails=draw.choice([0, 0, 0, 1, 3]),
                crashes_after_s=draw.choice([None, None, draw.uniform(0, 30)]),
                sleeps_in=draw.choice([None, Footprint(draw.randint(0, 1), 0)]),
                naps_fail=draw.random() < 0.1,
            )
            for number in range(draw.randint(1, 6))
        ]
        self.events: list[Event] = []
        site = Site(Path("/nowhere"), PooledClient())
        self.pool = Pool(site, now=loop.time, in_thread=at_once, on_event=self.events.append)
        self.pool.budget = self.world.budget
        self.pool.current = self.engines
        self.ended: list[str] = []

    async def request(self, at: float) -> None:
        draw, world = self.draw, self.world
        loop = asyncio.get_running_loop()
        engine = draw.choice(self.engines)
        patience_s = draw.choice([None, 1.0, 30.0, 600.0])
        wish = Wish(can_move_on=draw.random() < 0.2, offers_tools=draw.random() < 0.2)
        takes_s, leaves_s = draw.choice([0.0, 0.3, 2.0, 15.0]), draw.choice([None, None, draw.uniform(0, 5)])
        await asyncio.sleep(at)
        asked_at = loop.time()
        deadline = None if patience_s is None else asked_at + patience_s
        try:
            async with asyncio.timeout(leaves_s), self.pool.lease(engine, deadline, wish):
                if engine.name not in world.taken:
                    world.faults.append(f"a lease on {engine.name}, which is not loaded")
                place = (engine.name, world.run.get(engine.name, 0))
                world.running[place] = world.running.get(place, 0) + 1
                if world.running[place] > engine.slots:
                    world.faults.append(f"more than {engine.slots} requests at {engine.name}")
                try:
                    await asyncio.sleep(takes_s)
                finally:
                    world.running[place] -= 1
            self.ended.append("answered")
        except TimeoutError:
            self.ended.append("left")
        except (BackendUnavailable, BackendTimeout, Overloaded, ModelLoading) as error:
            self.ended.append(type(error).__name__)
            if isinstance(error, BackendTimeout) and deadline is not None and loop.time() < deadline - 0.001:
                world.faults.append("timed out before its deadline")

    async def play(self) -> None:
        draw, count = self.draw, self.draw.randint(1, 40)
        if draw.random() < 0.5:
            await self.pool.start()
            self.pool.keep(self.engines)
        else:
            self.pool.keep(self.engines)
            await self.pool.start()
        requests = [asyncio.create_task(self.request(draw.uniform(0, 60))) for _ in range(count)]
        prefetches = [asyncio.create_task(self.prefetch(draw.uniform(0, 60))) for _ in range(draw.randint(0, 4))]
        await asyncio.wait_for(asyncio.gather(*requests, *prefetches), 20_000)
        assert len(self.ended) == count
        await asyncio.sleep(1000)
        self.after_all_is_quiet()
        await self.pool.close()
        assert self.world.taken == {}

    async def prefetch(self, at: float) -> None:
        engine = self.draw.choice(self.engines)
        await asyncio.sleep(at)
        self.pool.prefetch(engine, self.draw.random())

    def after_all_is_quiet(self) -> None:
        """Only what is always on is left, and the pool's books say the same as the world."""
        always = {engine.name for engine in self.engines if engine.residency is Residency.ALWAYS}
        assert set(self.world.taken) <= always
        assert self.pool.taken == sum(self.world.taken.values(), Footprint())
        assert all(state.busy == state.waiting == 0 for state in self.pool.states().values())


SLICES = range(0, SCHEDULES, A_SLICE)
MORE = (pytest.param(start, marks=pytest.mark.slow) for start in SLICES[6:])


@pytest.mark.parametrize("start", [*SLICES[:6], *MORE])
def test_nothing_goes_wrong_in_random_schedules(start: int) -> None:
    for seed in range(start, start + A_SLICE):
        faults: list[str] = []

        async def main(loop: VirtualLoop, seed: int = seed, faults: list[str] = faults) -> None:
            schedule = Schedule(seed, loop)
            try:
                await schedule.play()
            finally:
                faults += schedule.world.faults

        try:
            run(main)
        except BaseException as error:
            raise AssertionError(f"schedule {seed}: {error!r}, {faults}") from error
        assert faults == [], f"schedule {seed}"
