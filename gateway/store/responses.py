"""Stored responses of the Responses API: a day long, each for the key that asked for it, the oldest first to go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, literal, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BodyTooLarge
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.store.tables import RESPONSES

logger = logging.getLogger(__name__)

MAX_AGE_S = 24 * 3600.0  # since it was last gone on with
MAX_BYTES = 256 * 2**20  # of all
MAX_RESPONSE_BYTES = 16 * 2**20
MAX_CHAIN_BYTES = 32 * 2**20  # of a conversation: what a request's body may have
LOW_SHARE = 0.9  # of MAX_BYTES, what is left after the oldest went: so that not every write has to make room
PRUNE_EVERY_S = 60.0
ROWS_A_DELETE = 200
ROW = RESPONSES.c

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """A response, and the items that it was asked for, without those of the conversation before."""

    input: list[Json]
    response: Json
    previous: str | None = None

    @property
    def items(self) -> list[Json]:
        """What it adds to its conversation."""
        output: list[Json] = self.response.get("output") or []
        return [*self.input, *output]


@dataclass
class ResponseStore:
    """The stored responses in a database. Old ones are removed in passing, by whoever writes.

    Args: `clock` tells unix seconds. A response is only there for the `key` that it was stored under; None is one too.
    """

    database: Database
    clock: Callable[[], float] = time.time
    max_bytes: int = MAX_BYTES
    max_response_bytes: int = MAX_RESPONSE_BYTES
    max_chain_bytes: int = MAX_CHAIN_BYTES
    max_age_s: float = MAX_AGE_S
    size_bytes: int = field(default=0, init=False)
    """Of all, as far as this process knows."""
    _pruned: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        self._complaints = Complaints(logger)

    async def start(self) -> None:
        await self.prune()

    async def put(self, id: str, key: str | None, stored: Stored) -> bool:
        """Keep a response. False where it is too large, or the database refuses."""
        given, response = orjson.dumps(stored.input), orjson.dumps(stored.response)
        size = len(given) + len(response)
        if size > self.max_response_bytes:
            return False
        now = self.clock()
        row = {
            "id": id,
            "key": key,
            "previous": stored.previous,
            "used": now,
            "size": size,
            "input": given,
            "response": response,
        }
        try:
            async with self.database.write() as connection:
                await connection.execute(insert(RESPONSES).values(row))
                if stored.previous is not None:  # a conversation that goes on stays whole
                    ids = select(self._chain(stored.previous, key).c.id)
                    await connection.execute(update(RESPONSES).where(ROW.id.in_(ids)).values(used=now))
            self.size_bytes += size
            if self.size_bytes > self.max_bytes or not 0 <= now - self._pruned < PRUNE_EVERY_S:
                await self.prune()
        except OperationalError as exc:  # locked for too long, disk full
            self._complaints.say(f"a response was not stored: {exc.orig}")
            return False
        return True

    async def get(self, id: str, key: str | None) -> Stored | None:
        async with self.database.read() as connection:
            found = await self._read(connection, [id], key)
        return found[0] if found else None

    async def chain(self, id: str, key: str | None) -> list[Stored] | None:
        """A response and all that it went on from, the oldest first; None where any of them is not there.

        Raises: BodyTooLarge for a conversation that no request's body could hold.
        """
        chain = self._chain(id, key)
        async with self.database.read() as connection:
            links = (await connection.execute(select(chain).order_by(chain.c.depth.desc()))).all()
            if not links or links[0].previous is not None:
                return None
            if sum(link.size for link in links) > self.max_chain_bytes:
                size = f"{self.max_chain_bytes / 2**20:g} MiB"
                message = f"the conversation has grown larger than {size}: begin a new one"
                raise BodyTooLarge(message, param="previous_response_id")
            found = await self._read(connection, [link.id for link in links], key)
        return found if len(found) == len(links) else None

    async def delete(self, id: str, key: str | None) -> bool:
        """False where there is none."""
        async with self.database.write() as connection:
            gone = delete(RESPONSES).where(ROW.id == id, self._is_there(key)).returning(ROW.size)
            size = (await connection.execute(gone)).scalar()
        self.size_bytes -= size or 0
        return size is not None

    async def prune(self) -> None:
        """Remove what is too old, then the oldest while all together take too much."""
        self._pruned = self.clock()
        async with self.database.write() as connection:
            await connection.execute(delete(RESPONSES).where(ROW.used < self._pruned - self.max_age_s))
            total = await self._total(connection)
            if total > self.max_bytes:
                total -= await self._remove_oldest(connection, total - int(self.max_bytes * LOW_SHARE))
        self.size_bytes = total

    async def _total(self, connection: AsyncConnection) -> int:
        return int((await connection.execute(select(func.coalesce(func.sum(ROW.size), 0)))).scalar_one())

    async def _remove_oldest(self, connection: AsyncConnection, excess: int) -> int:
        """Returns: bytes that were removed, `excess` or more while there are any."""
        removed = 0
        while removed < excess:
            oldest = select(ROW.id, ROW.size).order_by(ROW.used, ROW.id).limit(ROWS_A_DELETE)
            ids = []
            for id, size in await connection.execute(oldest):
                if removed >= excess:
                    break
                ids.append(id)
                removed += size
            if not ids:
                break
            await connection.execute(delete(RESPONSES).where(ROW.id.in_(ids)))
        return removed

    def _is_there(self, key: str | None) -> ColumnElement[bool]:
        """For this caller, and not too old."""
        return and_(ROW.key.is_not_distinct_from(key), ROW.used >= self.clock() - self.max_age_s)

    def _chain(self, id: str, key: str | None) -> Any:
        """The links from a response back to its conversation's first, as far as they are there: a recursive query."""
        columns = (ROW.id, ROW.previous, ROW.size)
        first = select(*columns, literal(0).label("depth")).where(ROW.id == id, self._is_there(key))
        links = first.cte("links", recursive=True)
        earlier: Select[Any] = select(*columns, links.c.depth + 1).where(
            ROW.id == links.c.previous, self._is_there(key)
        )
        return links.union_all(earlier)

    async def _read(self, connection: AsyncConnection, ids: Sequence[str], key: str | None) -> list[Stored]:
        """In the order of `ids`."""
        found: dict[str, Stored] = {}
        for start in range(0, len(ids), ROWS_A_DELETE):
            some = ROW.id.in_(ids[start : start + ROWS_A_DELETE])
            rows = await connection.execute(
                select(ROW.id, ROW.previous, ROW.input, ROW.response).where(some, self._is_there(key))
            )
            for row in rows:
                found[row.id] = Stored(orjson.loads(row.input), orjson.loads(row.response), row.previous)
        return [found[id] for id in ids if id in found]
