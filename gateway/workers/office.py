"""What all workers share in the supervisor: one configuration, numbers in sum, places, and who there is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.api.door import Front
from gateway.chat import Json
from gateway.config.files import Config
from gateway.live import Live
from gateway.responders.slots import Slots
from gateway.runtime import Elsewhere, Runtime
from gateway.store.rows import JournalRow
from gateway.telemetry.logs import Format, Level
from gateway.workers.channel import Lost

if TYPE_CHECKING:
    from gateway.workers.desk import Desk

TELL_EVERY_S = 0.2  # what has changed


@dataclass(frozen=True)
class Order:
    """With what a worker begins. `grace_s`: for open streams when it is to stop; `insecure`: as `gateway serve` was
    told; `database_url`: that the supervisor has open, whatever a later configuration says."""

    home: Path
    config: Config
    front: Front
    grace_s: float
    insecure: bool = False
    logs_access: bool = False
    log_format: Format = "text"
    log_level: Level = "info"
    database_url: str | None = None


class About(NamedTuple):
    """The server as a whole, see `Live`."""

    stale_why: str | None
    is_loading: bool
    loaded_at: float
    workers: Json


class Office:
    """What all desks share. `config`: that workers serve, or are about to; a `Reloader` changes it."""

    def __init__(self, live: Live, runtime: Runtime, order: Order, count: int) -> None:
        self.live, self.runtime, self.order, self.count = live, runtime, order, count
        self.desks: list[Desk] = []
        self.restarts = 0
        self.has_opened = asyncio.Event()  # all workers have been ready
        self._slots: dict[tuple[str, int], Slots] = {}
        self._evicted = 0  # by workers that are gone
        self._next: Config | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        runtime.metrics.answers = self
        runtime.on_heard = self._pass_on

    # -- one configuration for all ---------------------------------------------------------------------------------

    async def prepare(self, config: Config) -> None:
        """Have it built by all workers, beside what they serve. Raises: GatewayError."""
        self._next = config
        preparing = [desk.prepare(config) for desk in self.ready]
        for failure in await asyncio.gather(*preparing, return_exceptions=True):
            if failure is not None and not isinstance(failure, Lost):
                raise failure

    def swap(self) -> None:
        """From now on what was prepared is served."""
        assert self._next is not None  # else nothing was prepared
        self.order, self._next = replace(self.order, config=self._next), None
        for desk in self.ready:
            desk.swap()

    def forget(self) -> None:
        """What was prepared is not wanted."""
        self._next = None
        for desk in self.ready:
            desk.forget()

    # -- what is told to all, and of all ---------------------------------------------------------------------------

    @property
    def ready(self) -> list[Desk]:
        """Those of workers that answer requests."""
        return [desk for desk in self.desks if desk.is_ready]

    def toggle_log(self) -> None:
        """In all processes."""
        self.runtime.log.toggle()
        for desk in self.ready:
            desk.channel.tell("toggle_log")

    def _pass_on(self, about: str, facts: Mapping[str, Any]) -> None:
        for desk in self.ready:
            desk.channel.tell("news", "gateways", about, facts)

    def stop(self) -> None:
        for desk in self.desks:
            desk.channel.tell("stop")

    async def keep_telling(self) -> None:
        """Until cancelled."""
        while True:
            for desk in self.ready:
                desk.tell_news()
            await asyncio.sleep(TELL_EVERY_S)

    @property
    def about(self) -> About:
        live = self.live
        workers: Json = {"running": len(self.ready), "wanted": self.count, "restarts": self.restarts}
        return About(live.stale_why, live.is_loading, live.loaded_at, workers)

    async def gather(self) -> None:
        """Have workers hand over what they have counted and journalled, and write it."""
        await asyncio.gather(*(desk.gather() for desk in self.ready))
        if self.runtime.journal is not None:
            await self.runtime.journal.flush()

    async def metrics_text(self, as_openmetrics: bool) -> bytes:
        await self.gather()
        return self.runtime.metrics.render(as_openmetrics=as_openmetrics)

    async def find(self, trace_id: str) -> JournalRow | None:
        journal = self.runtime.journal
        assert journal is not None  # it is opened before a worker begins
        found = await journal.find(trace_id)
        if found is None:
            await self.gather()
            found = await journal.find(trace_id)
        return found

    def take_reports(self) -> None:
        """Sum up what workers have said of themselves."""
        reports = [desk.report for desk in self.desks]
        metrics = self.runtime.metrics
        metrics.in_flight = sum(one.in_flight for one in reports)
        metrics.up_elsewhere = {
            name: min(one.addresses.get(name, up) for one in reports)
            for name, up in {name: up for one in reports for name, up in one.addresses.items()}.items()
        }
        self.runtime.elsewhere = Elsewhere(
            workers=len(self.ready),
            restarts=self.restarts,
            dropped=sum(one.dropped for one in reports),
            waiting=sum(one.waiting for one in reports),
            lag_s=max((one.lag_s for one in reports), default=0.0),
            spans_sent=sum(one.spans[0] for one in reports),
            spans_lost=sum(one.spans[1] for one in reports),
            bytes_of_answers=max((one.bytes_of_answers for one in reports), default=0),
        )

    @property
    def size_bytes(self) -> int:
        return sum(desk.report.cache_bytes for desk in self.desks)

    @property
    def entries(self) -> int:
        return sum(desk.report.cache_entries for desk in self.desks)

    @property
    def evicted(self) -> int:
        return self._evicted + sum(desk.report.cache_evicted for desk in self.desks)

    def slots(self, place: str | None, count: int) -> Slots:
        """The same for all workers, and for a configuration that changes nothing about it."""
        if place is None:
            return self.runtime.gate
        return self._slots.setdefault((place, count), Slots(count))

    def part(self) -> None:
        """Once no worker has a request any more, all may go."""
        if all(desk.is_done for desk in self.desks):
            for desk in self.desks:
                desk.channel.tell("part")

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside all else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def leave(self, desk: Desk) -> None:
        if desk in self.desks:
            self.desks.remove(desk)
            self._evicted += desk.report.cache_evicted
            self.take_reports()
            self.part()
