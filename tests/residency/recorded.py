"""What a pool told while models came and went, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from gateway.engines import Site
from gateway.engines.footprint import Footprint
from gateway.engines.pool import Pool
from gateway.engines.wishes import Event
from gateway.store.residency import STARTED, ResidencyRow
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.residency import ResidencyMetrics
from gateway.transport.client import PooledClient
from tests.engines.test_pool_schedules import at_once
from tests.engines.virtual import Played, VirtualLoop, World, run

EPOCH = 1_800_000_000.0
STAGES = ("absent", "downloading", "dormant", "loading", "warm", "busy", "sleeping", "unloading", "failed")
MIB = 2**20


class Recorded:
    """A pool with `ram` and `gpu` MiB; `rows` is what is recorded of it, and `metrics` counts."""

    def __init__(self, loop: VirtualLoop, ram: int, gpu: int) -> None:
        self.loop, self.world = loop, World(Footprint(ram * MIB, gpu * MIB))
        self.pool = Pool(Site(Path("/nowhere"), PooledClient()), now=loop.time, in_thread=at_once)
        self.pool.on_event = self._note
        self.pool.budget = self.world.budget
        limits = (ram * MIB, gpu * MIB)
        self.metrics = Metrics(dict, ResidencyMetrics(self.pool, STAGES, lambda: limits))
        self.rows = [ResidencyRow.of_gateway(EPOCH, STARTED, limits)]

    def _note(self, event: Event) -> None:
        self.metrics.residency.note(event.model, event.reason, event.seconds)
        self.rows.append(ResidencyRow.of(replace(event, at=EPOCH + self.loop.time())))

    def model(self, name: str, ram: int = 1, gpu: int = 0, **settings: object) -> Played:
        return Played(name, self.world, Footprint(ram * MIB, gpu * MIB), **settings)  # type: ignore[arg-type]

    async def start(self, *engines: Played) -> None:
        self.pool.current = engines
        self.pool.keep(engines)
        await self.pool.start()

    async def ask(self, engine: Played, takes_s: float = 1.0) -> None:
        async with self.pool.lease(engine):
            await asyncio.sleep(takes_s)

    def series(self, name: str) -> dict[str, float]:
        """Of the metrics: labels as they stand in the text, to value."""
        lines = self.metrics.render().decode().splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith((f"{name}{{", f"{name} ")))
        return {labels.removeprefix(name).strip("{}"): float(value) for labels, _, value in found}


def record(story: Callable[[Recorded], Awaitable[None]], ram: int = 1, gpu: int = 0) -> list[ResidencyRow]:
    kept: list[Recorded] = []

    async def main(loop: VirtualLoop) -> None:
        kept.append(Recorded(loop, ram, gpu))
        await story(kept[0])
        await kept[0].pool.close()

    run(main)
    assert kept[0].world.faults == []
    return kept[0].rows
