"""What became of local models: one row a step, written in batches off everybody's path, bounded in age and number.

No row holds anything that a user wrote.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

from sqlalchemy import ColumnElement, delete, func, insert, select

from gateway.store.database import Database
from gateway.store.tables import RESIDENCY
from gateway.store.write_behind import Pace, WriteBehind

MAX_ROWS = 200_000
MAX_WHY = 500  # characters
ROWS_A_DELETE = 1000
BYTES_A_ROW = 130  # about, with the index
GATEWAY = ""  # the model's name in a row of the gateway itself
STARTED, LIMITS = "started", "limits"  # its steps
READY = ("warm", "busy")  # stages, as the pool names them
ROW = RESIDENCY.c
COLUMNS = (ROW.at, ROW.model, ROW.stage, ROW.reason, ROW.why, ROW.ram_bytes, ROW.gpu_bytes, ROW.load_s)
REPLICA = "GATEWAY_REPLICA"  # variable: what this gateway is called among several; else as its machine


Limits = tuple[int | None, int | None]  # bytes of main memory, and of GPUs; None: without


class Bytes(Protocol):
    @property
    def ram_bytes(self) -> int: ...
    @property
    def gpu_bytes(self) -> int: ...


class Step(Protocol):
    """What the pool tells."""

    @property
    def at(self) -> float: ...
    @property
    def model(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def footprint(self) -> Bytes: ...
    @property
    def seconds(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class ResidencyRow:
    """A step in a model's life; the fields are the table's columns but for its id, in their order.

    Args:
        at: unix seconds.
        stage, reason: where it is now, and which step it was: as the pool names them.
        ram_bytes, gpu_bytes: what it takes from then on, or will. Of the gateway: what there is, None without a limit.
        load_s: what a load took.
    """

    at: float
    model: str
    stage: str
    reason: str
    why: str
    ram_bytes: int | None = None
    gpu_bytes: int | None = None
    load_s: float | None = None

    @classmethod
    def of(cls, step: Step) -> ResidencyRow:
        takes = step.footprint
        facts = (step.at, step.model, step.stage, step.reason, step.why[:MAX_WHY])
        return cls(*facts, takes.ram_bytes, takes.gpu_bytes, step.seconds)

    @classmethod
    def of_gateway(cls, at: float, step: str, limits: Limits) -> ResidencyRow:
        """It was started, with nothing loaded, or may use another amount of memory."""
        why = "the gateway was started" if step == STARTED else "another budget"
        return cls(at, GATEWAY, step, step, why, *limits)


class ResidencyLog:
    """Takes steps and writes them in the background. Use it in one event loop, between `start` and `close`.

    Args:
        max_queued: steps that may wait to be written; past that, new ones are dropped and counted.
        max_age_days, max_rows: older ones are deleted.
        clock: unix seconds, for ages.
    """

    def __init__(
        self,
        database: Database,
        max_queued: int = 10_000,
        flush_every_s: float = 0.5,
        max_age_days: float = 30,
        max_rows: int = MAX_ROWS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._clock, self._max_rows = database, clock, max_rows
        self._rows = 0
        self._limits: Limits = (None, None)
        self.limit(max_age_days)
        pace = Pace(max_queued, flush_every_s)
        what, things = "the record of what was loaded", "steps"
        self._writer = WriteBehind[ResidencyRow](what, things, self._write, self.prune, pace, clock)

    @property
    def dropped(self) -> int:
        return self._writer.dropped

    @property
    def size_bytes(self) -> int:
        """Of the database, about."""
        return self._rows * BYTES_A_ROW

    def limit(self, max_age_days: float) -> None:
        """Another limit, from the next pruning on."""
        self._max_age_s = max_age_days * 86_400

    async def start(self, at: float, limits: Limits) -> None:
        """Start writing and pruning in the background; the first pruning begins at once.

        Args:
            at: since when the gateway runs.
            limits: what its models may take.
        """
        self._limits = limits
        self._writer.add(ResidencyRow.of_gateway(at, STARTED, limits))
        self._writer.start()

    def note(self, step: Step) -> None:
        """Never waits, never raises."""
        self._writer.add(ResidencyRow.of(step))

    def note_limits(self, limits: Limits) -> None:
        """Other ones, perhaps."""
        if limits != self._limits:
            self._limits = limits
            self._writer.add(ResidencyRow.of_gateway(self._clock(), LIMITS, limits))

    async def flush(self) -> bool:
        """Write what was noted before this call. False where that failed: the rows then wait for the next try."""
        return await self._writer.flush()

    async def close(self) -> None:
        """Write what waits, and stop."""
        await self._writer.close()

    async def events(self, since: float, until: float) -> list[ResidencyRow]:
        """What came between (unix seconds), in the order it came, and what came last before for each model."""
        await self.flush()
        return await events(self._database, since, until)

    async def prune(self) -> int:
        """Returns the rows deleted. Raises: SQLAlchemyError where the database refuses."""
        deleted = await self._delete(ROW.at < self._clock() - self._max_age_s)
        newest = select(func.max(ROW.id)).scalar_subquery()
        deleted += await self._delete(ROW.id <= newest - self._max_rows)
        async with self._database.read() as connection:
            self._rows = (await connection.execute(select(func.count()).select_from(RESIDENCY))).scalar_one()
        return deleted

    async def _delete(self, condition: ColumnElement[bool]) -> int:
        """In slices, so that writers get their turn."""
        deleted = 0
        oldest = select(ROW.id).where(condition).order_by(ROW.id).limit(ROWS_A_DELETE)
        while not self._writer.closing.is_set():
            async with self._database.write() as connection:
                result = await connection.execute(delete(RESIDENCY).where(ROW.id.in_(oldest)))
            deleted += result.rowcount
            if result.rowcount < ROWS_A_DELETE:
                break
        return deleted

    async def _write(self, rows: Sequence[ResidencyRow]) -> None:
        names = [column.name for column in COLUMNS]
        own = {"replica": replica_of(self._database)}
        values = [dict(zip(names, astuple(row), strict=True)) | own for row in rows]
        async with self._database.join() as connection:
            await connection.execute(insert(RESIDENCY), values)
        self._rows += len(rows)


def replica_of(database: Database) -> str:
    """What this gateway is called among those that share a database; nothing where it is its own."""
    return (os.environ.get(REPLICA) or socket.gethostname()) if database.is_shared else ""


async def events(database: Database, since: float, until: float, replica: str | None = None) -> list[ResidencyRow]:
    """As `ResidencyLog.events`, of what has been written. `replica`: in which gateway; None: in this one."""
    own = ROW.replica == (replica_of(database) if replica is None else replica)
    last_before = select(func.max(ROW.id)).where(ROW.at < since, own).group_by(ROW.model)
    within = ROW.id.in_(last_before) | ROW.at.between(since, until)
    query = select(*COLUMNS).where(own, within).order_by(ROW.id)
    async with database.read() as connection:
        return [ResidencyRow(*row) for row in await connection.execute(query)]


async def loaded_s(database: Database, since: float, until: float) -> dict[str, float]:
    """Seconds between two times (unix) for which each model was loaded, and ready for requests, in all gateways."""
    async with database.read() as connection:
        replicas = list((await connection.execute(select(ROW.replica).distinct())).scalars())
    total: dict[str, float] = {}
    for replica in replicas:
        for model, seconds in _loaded_s(await events(database, since, until, replica), since, until).items():
            total[model] = total.get(model, 0.0) + seconds
    return total


def _loaded_s(rows: Sequence[ResidencyRow], since: float, until: float) -> dict[str, float]:
    total: dict[str, float] = {}
    begun: dict[str, float] = {}

    def end(model: str, at: float) -> None:
        begin = begun.pop(model, None)
        if begin is not None:
            total[model] = total.get(model, 0.0) + max(0.0, min(at, until) - max(begin, since))

    for row in rows:
        if row.model == GATEWAY and row.reason == STARTED:  # what was there before is gone, however it ended
            for model in list(begun):
                end(model, row.at)
        elif row.stage in READY:
            begun.setdefault(row.model, row.at)
        elif row.model != GATEWAY:
            end(row.model, row.at)
    for model in list(begun):
        end(model, until)
    return total
