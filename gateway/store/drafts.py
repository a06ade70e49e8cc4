"""Drafts judged under a promise, in numbers alone, and the promises themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import delete, insert, select

from gateway.store.database import Database
from gateway.store.tables import ARMS, DRAFTS
from gateway.store.write_behind import Pace, WriteBehind

MAX_ROWS_OF_AN_ARM = 100_000
PACE = Pace(max_queued=5000, flush_every_s=1.0, prune_every_s=3600.0, prune_every_rows=20_000)


@dataclass(frozen=True, slots=True)
class DraftRow:
    """One judged draft; see the table for its columns. `same` None: nobody knows."""

    trace: str
    created: float
    arm: str
    fingerprint: str
    model: str
    score: float
    configured: bool
    accepted: bool
    audited: bool
    same: bool | None
    features: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ArmRow:
    name: str
    fingerprint: str
    state: Mapping[str, Any]
    updated: float = 0.0


class Drafts:
    """Use it in one event loop, between `start` and `close`. Rows wait at most a second to be written."""

    def __init__(self, database: Database, max_age_days: float = 30, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock
        self.max_age_days = max_age_days
        self._writer = WriteBehind[DraftRow]("the promises", "drafts", self._write, self.prune, PACE)

    async def start(self) -> None:
        self._writer.start()

    async def close(self) -> None:
        await self._writer.close()

    def add(self, row: DraftRow) -> None:
        """Never waits, never raises."""
        self._writer.add(row)

    async def flush(self) -> bool:
        return await self._writer.flush()

    async def find(
        self, arm: str | None = None, *, since: float = 0.0, limit: int = MAX_ROWS_OF_AN_ARM
    ) -> list[DraftRow]:
        """The newest `limit`, oldest first."""
        query = select(*(column for column in DRAFTS.c if column is not DRAFTS.c.id)).where(DRAFTS.c.created >= since)
        if arm is not None:
            query = query.where(DRAFTS.c.arm == arm)
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(DRAFTS.c.id.desc()).limit(limit))).mappings().all()
        return [DraftRow(**{**row, "features": orjson.loads(row["features"])}) for row in reversed(rows)]

    async def arms(self) -> list[ArmRow]:
        async with self._database.read() as connection:
            rows = (await connection.execute(select(ARMS))).mappings().all()
        return [ArmRow(**{**row, "state": orjson.loads(row["state"])}) for row in rows]

    async def keep(self, arms: Sequence[ArmRow]) -> None:
        """Raises: SQLAlchemyError."""
        now = self._clock()
        async with self._database.write() as connection:
            for arm in arms:
                values = {
                    "fingerprint": arm.fingerprint,
                    "state": orjson.dumps(arm.state).decode(),
                    "updated": now,
                }
                query = self._database.kind.upsert(ARMS).values(name=arm.name, **values)
                await connection.execute(query.on_conflict_do_update(index_elements=[ARMS.c.name], set_=values))

    async def forget(self, arm: str) -> None:
        """Begin anew: its state and its drafts go."""
        async with self._database.write() as connection:
            await connection.execute(delete(ARMS).where(ARMS.c.name == arm))
            await connection.execute(delete(DRAFTS).where(DRAFTS.c.arm == arm))

    async def prune(self) -> int:
        too_old = DRAFTS.c.created < self._clock() - self.max_age_days * 86_400
        async with self._database.write() as connection:
            return (await connection.execute(delete(DRAFTS).where(too_old))).rowcount

    async def _write(self, rows: Sequence[DraftRow]) -> None:
        values = [
            {
                "trace": row.trace,
                "created": row.created,
                "arm": row.arm,
                "fingerprint": row.fingerprint,
                "model": row.model,
                "score": row.score,
                "configured": row.configured,
                "accepted": row.accepted,
                "audited": row.audited,
                "same": row.same,
                "features": orjson.dumps(dict(row.features)).decode(),
            }
            for row in rows
        ]
        async with self._database.join() as connection:
            await connection.execute(insert(DRAFTS), values)
