"""Cached answers in the database: written behind, the oldest first to go, and what is to be erased of them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson
from sqlalchemy import ColumnElement, delete, func, insert, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.chat import Answer
from gateway.store.database import Database
from gateway.store.tables import ANSWER_PURGES, ANSWERS
from gateway.store.write_behind import Pace, WriteBehind

ROW = ANSWERS.c
PACE = Pace(max_queued=2_000, prune_every_s=60.0, prune_every_rows=2_000)
LOW_SHARE = 0.9  # of the limit, what is left after the oldest went
ROWS_A_DELETE = 200
PURGES_KEPT_S = 24 * 3600.0  # running servers look every second


class Kept(NamedTuple):
    """An answer as it is kept. Times in unix seconds. The fields are the table's columns, in their order.

    Args:
        key: a hash of the request; of its words nothing else is kept.
        tenant, user: whose request it was, so that it can be erased.
        size: bytes that it takes, about.
        body: the answer, as JSON.
        alike: a hash of everything but the last words of the user, and `vector` of those, float32 and of unit length:
            where requests that mean the same may be answered alike.
    """

    key: bytes
    tenant: str
    user: str | None
    created: float
    expires: float
    size: int
    body: bytes
    alike: bytes | None = None
    vector: bytes | None = None

    @property
    def answer(self) -> Answer:
        return Answer(orjson.loads(self.body))


class AnswerTable:
    """Use it in one event loop, between `start` and `close`. `clock` tells unix seconds.

    Counters: `evicted` answers that had to make room for newer ones. `size_bytes`: of all, about.
    """

    def __init__(self, database: Database, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self.max_bytes, self.evicted, self.size_bytes = max_bytes, 0, 0
        self._database, self._clock = database, clock
        self._writer = WriteBehind[Kept]("the cache", "answers", self._write, self.prune, PACE, clock)

    async def start(self) -> None:
        """Raises: SQLAlchemyError."""
        await self.prune()
        self._writer.start()

    async def close(self) -> None:
        """Write what waits, and stop."""
        await self._writer.close()

    def put(self, kept: Kept) -> None:
        """Never waits, never raises."""
        self._writer.add(kept)

    async def flush(self) -> None:
        await self._writer.flush()

    async def find(self, key: bytes) -> Kept | None:
        """Raises: SQLAlchemyError."""
        async with self._database.read() as connection:
            fresh = (ROW.key == key) & (ROW.expires > self._clock())
            row = (await connection.execute(select(ANSWERS).where(fresh))).one_or_none()
        return None if row is None else Kept(*row)

    async def alike(self, group: bytes, most: int) -> dict[bytes, bytes]:
        """Vectors of those of a group by their keys, of the newest. Raises: SQLAlchemyError."""
        fresh = (ROW.alike == group) & (ROW.expires > self._clock())
        query = select(ROW.key, ROW.vector).where(fresh).order_by(ROW.created.desc()).limit(most)
        async with self._database.read() as connection:
            return {row.key: row.vector for row in await connection.execute(query)}

    async def erase(self, tenant: str | None, user: str | None) -> None:
        """Also of what still waits to be written. Raises: SQLAlchemyError."""
        await self._writer.flush()
        async with self._database.write() as connection:
            await connection.execute(delete(ANSWERS).where(whose(tenant, user)))

    async def prune(self) -> None:
        """Delete what is too old, then the oldest while all together take too much. Raises: SQLAlchemyError."""
        async with self._database.write() as connection:
            await connection.execute(delete(ANSWERS).where(ROW.expires <= self._clock()))
            total = await _total(connection)
            if total > self.max_bytes:
                total -= await self._remove_oldest(connection, total - int(self.max_bytes * LOW_SHARE))
        self.size_bytes = total

    async def _remove_oldest(self, connection: AsyncConnection, excess: int) -> int:
        """Returns: bytes that were removed, `excess` or more while there are any."""
        removed = 0
        while removed < excess:
            oldest = select(ROW.key, ROW.size).order_by(ROW.created, ROW.key).limit(ROWS_A_DELETE)
            keys = []
            for key, size in await connection.execute(oldest):
                if removed >= excess:
                    break
                keys.append(key)
                removed += size
            if not keys:
                break
            await connection.execute(delete(ANSWERS).where(ROW.key.in_(keys)))
            self.evicted += len(keys)
        return removed

    async def _write(self, rows: Sequence[Kept]) -> None:
        newest = OrderedDict((row.key, row) for row in rows)
        async with self._database.write() as connection:
            await connection.execute(delete(ANSWERS).where(ROW.key.in_(list(newest))))
            await connection.execute(insert(ANSWERS), [row._asdict() for row in newest.values()])
        self.size_bytes += sum(row.size for row in newest.values())


async def purge_answers(
    database: Database, tenant: str | None, user: str | None, clock: Callable[[], float] = time.time
) -> int:
    """Erase cached answers, here and in what running servers hold in main memory: they look every second. Returns how
    many there were in the database."""
    now = clock()
    async with database.write() as connection:
        erased = await connection.execute(delete(ANSWERS).where(whose(tenant, user)))
        await connection.execute(delete(ANSWER_PURGES).where(ANSWER_PURGES.c.created < now - PURGES_KEPT_S))
        await connection.execute(insert(ANSWER_PURGES).values(created=now, tenant=tenant, user=user))
    return erased.rowcount


async def purges_since(database: Database, id: int) -> list[tuple[int, str | None, str | None]]:
    """(id, tenant, user) of those after that one, in their order. Raises: SQLAlchemyError."""
    columns = (ANSWER_PURGES.c.id, ANSWER_PURGES.c.tenant, ANSWER_PURGES.c.user)
    query = select(*columns).where(ANSWER_PURGES.c.id > id).order_by(ANSWER_PURGES.c.id)
    async with database.read() as connection:
        return [(row.id, row.tenant, row.user) for row in await connection.execute(query)]


async def last_purge(database: Database) -> int:
    """Its id; 0 where there was none. Raises: SQLAlchemyError."""
    async with database.read() as connection:
        newest = select(func.coalesce(func.max(ANSWER_PURGES.c.id), 0))
        return int((await connection.execute(newest)).scalar_one())


async def delete_expired(database: Database, now: float) -> int:
    """Returns: bytes that the others take. Raises: SQLAlchemyError."""
    async with database.write() as connection:
        await connection.execute(delete(ANSWERS).where(ROW.expires <= now))
        return await _total(connection)


async def _total(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(func.coalesce(func.sum(ROW.size), 0)))).scalar_one())


def whose(tenant: str | None, user: str | None) -> ColumnElement[bool]:
    """None: of any."""
    of_tenant = true() if tenant is None else ROW.tenant == tenant
    return of_tenant & (true() if user is None else ROW.user == user)
