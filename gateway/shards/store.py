"""The shards in the database: written one transaction at a time, each change with the next revision, so that indexes
and subscribers can follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from sqlalchemy import ColumnElement, and_, delete, func, insert, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import NotFound
from gateway.shards import SERVED, Scope, Shard, Standing, State, best_state
from gateway.shards.writing import body_of, shard_of
from gateway.store.database import Database
from gateway.store.tables import SHARD_KEYS, SHARD_READERS, SHARDS

ROWS_A_WRITE = 500  # shards in one transaction: others write between
PAGE = 200


@dataclass(frozen=True)
class Where:
    """Which shards are meant; what is None is not looked at. `audiences`: those that may see it."""

    audiences: tuple[str, ...] | None = None
    tenant: str | None = None
    user: str | None = None
    writer: str | None = None
    source: str | None = None
    lot: str | None = None
    slot: str | None = None
    kind: str | None = None
    state: str | None = None
    states: tuple[State, ...] | None = None

    @property
    def clause(self) -> ColumnElement[bool]:
        columns = ("tenant", "user", "writer", "source", "lot", "slot", "kind", "state")
        parts = [SHARDS.c[name] == getattr(self, name) for name in columns if getattr(self, name) is not None]
        if self.audiences is not None:
            parts.append(SHARDS.c.audience.in_(self.audiences))
        if self.states is not None:
            parts.append(SHARDS.c.state.in_([str(state) for state in self.states]))
        return and_(true(), *parts, SHARDS.c.body != "")


class ShardStore:
    """Whoever asks says for whom: `Where.audiences` comes first in each query that a request makes."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def put(self, shards: Sequence[Shard]) -> list[Shard]:
        """Write shards, new ones or the next versions of some; their keys are indexed anew. Returns them as stored."""
        stored: list[Shard] = []
        for start in range(0, len(shards), ROWS_A_WRITE):
            async with self._database.write() as connection:
                stored += await self._put(connection, shards[start : start + ROWS_A_WRITE])
        return stored

    async def _put(self, connection: AsyncConnection, shards: Sequence[Shard]) -> list[Shard]:
        revision, now = await _newest(connection), self._clock()
        stored = [
            replace(shard, revision=revision + n, created=shard.created or now, updated=now)
            for n, shard in enumerate(shards, start=1)
        ]
        ids = [shard.id for shard in stored]
        query = select(SHARDS.c.id, SHARDS.c.body).where(SHARDS.c.id.in_(ids), SHARDS.c.body != "")
        before = {id: indexed_as(shard_of(body)) for id, body in await connection.execute(query)}
        changed = [shard for shard in stored if before.get(shard.id) != indexed_as(shard)]
        await _forget_keys(connection, [shard.id for shard in changed if shard.id in before])
        await connection.execute(delete(SHARDS).where(SHARDS.c.id.in_(ids)))
        await connection.execute(insert(SHARDS), [_row(shard) for shard in stored])
        await self._index(connection, changed)
        return stored

    async def _index(self, connection: AsyncConnection, shards: Sequence[Shard]) -> None:
        keys = [(shard, words) for shard in shards for words in indexed_as(shard)[1]]
        if not keys:
            return
        # Numbered here, and written in one go: asking for each number took ten times as long.
        ids = await self._database.kind.next_ids(connection, SHARD_KEYS, len(keys))
        placed = list(zip(ids, keys, strict=True))
        rows = [{"id": n, "shard": shard.id, "audience": shard.audience} for n, (shard, _) in placed]
        texts = [{"id": n, "who": shard.audience, "text": words} for n, (shard, words) in placed]
        await connection.execute(insert(SHARD_KEYS), rows)
        await connection.execute(text("INSERT INTO shard_fts (rowid, who, text) VALUES (:id, :who, :text)"), texts)

    async def get(self, id: str, audiences: Sequence[str] | None = None) -> Shard | None:
        """None where there is none, or none that one of these audiences may see."""
        found = await self.find(Where(audiences=tuple(audiences) if audiences is not None else None), ids=[id])
        return found[0] if found else None

    async def get_many(self, ids: Sequence[str]) -> dict[str, Shard]:
        return {shard.id: shard for shard in await self.find(Where(), ids=ids)}

    async def find(
        self, where: Where, *, ids: Sequence[str] | None = None, after: int = 0, limit: int | None = None
    ) -> list[Shard]:
        """In the order of their last change, from the one after revision `after` on."""
        query = select(SHARDS.c.body, SHARDS.c.revision).where(where.clause, SHARDS.c.revision > after)
        if ids is not None:
            query = query.where(SHARDS.c.id.in_(ids))
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(SHARDS.c.revision).limit(limit))).all()
        return [replace(shard_of(body), revision=revision) for body, revision in rows]

    async def count(self, where: Where) -> int:
        async with self._database.read() as connection:
            found = await connection.execute(select(func.count()).select_from(SHARDS).where(where.clause))
        return int(found.scalar_one())

    async def counts(self) -> dict[tuple[str, str], int]:
        """By kind and state."""
        query = select(SHARDS.c.kind, SHARDS.c.state, func.count()).where(SHARDS.c.body != "")
        async with self._database.read() as connection:
            rows = (await connection.execute(query.group_by(SHARDS.c.kind, SHARDS.c.state))).all()
        return {(kind, state): count for kind, state, count in rows}

    async def written_since(self, writer: str, since: float) -> int:
        """Shards that this writer has put in since then, deleted ones too."""
        query = select(func.count()).where(SHARDS.c.writer == writer, SHARDS.c.created >= since)
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def changes(self, after: int, limit: int = PAGE) -> list[tuple[int, str, Shard | None]]:
        """(revision, id, shard) of what changed after that revision, oldest first; None for a deleted shard."""
        query = select(SHARDS.c.revision, SHARDS.c.id, SHARDS.c.body).where(SHARDS.c.revision > after)
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(SHARDS.c.revision).limit(limit))).all()
        return [(n, id, replace(shard_of(body), revision=n) if body else None) for n, id, body in rows]

    async def newest(self) -> int:
        """The revision of the last change; 0 before the first."""
        async with self._database.read() as connection:
            return await _newest(connection)

    async def set_state(self, ids: Sequence[str], state: State, why: str = "") -> None:
        """Of the shards themselves. What is retired is found no more."""
        found = (await self.get_many(ids)).values()
        changed = [replace(shard, state=state, why=why) for shard in found if shard.state != state or shard.why != why]
        await self.put(changed)

    async def delete(self, where: Where, ids: Sequence[str] | None = None) -> int:
        """Erase texts, vectors and evidence. The id stays, with a new revision, for subscribers to hear of it."""
        erased = 0
        while True:
            async with self._database.write() as connection:
                query = select(SHARDS.c.id).where(where.clause)
                if ids is not None:
                    query = query.where(SHARDS.c.id.in_(ids))
                doomed = list((await connection.execute(query.limit(ROWS_A_WRITE))).scalars())
                if not doomed:
                    return erased
                await _forget_keys(connection, doomed)
                await connection.execute(delete(SHARD_READERS).where(SHARD_READERS.c.shard.in_(doomed)))
                revision = await _newest(connection)
                blank = {"body": "", "source": "", "source_hash": "", "slot": "", "user": None}
                for n, id in enumerate(doomed, start=1):
                    row = {**blank, "state": str(State.RETIRED), "revision": revision + n, "updated": self._clock()}
                    await connection.execute(update(SHARDS).where(SHARDS.c.id == id).values(row))
                erased += len(doomed)

    # -- readers -------------------------------------------------------------------------------------------------

    async def standings(self, ids: Sequence[str] | None = None, reader: str | None = None) -> list[Standing]:
        query = select(SHARD_READERS)
        if ids is not None:
            query = query.where(SHARD_READERS.c.shard.in_(ids))
        if reader is not None:
            query = query.where(SHARD_READERS.c.reader == reader)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_standing(dict(row)) for row in rows]

    async def set_standings(self, standings: Sequence[Standing]) -> None:
        """Write them, and the states of their shards, which follow from those of all their readers. A retired shard
        stays retired."""
        if not standings:
            return
        async with self._database.write() as connection:
            for standing in standings:
                same = (SHARD_READERS.c.shard == standing.shard) & (SHARD_READERS.c.reader == standing.reader)
                await connection.execute(delete(SHARD_READERS).where(same))
            await connection.execute(insert(SHARD_READERS), [self._standing_row(one) for one in standings])
        ids = list({standing.shard for standing in standings})
        by_shard: dict[str, list[Standing]] = {}
        for standing in await self.standings(ids):
            by_shard.setdefault(standing.shard, []).append(standing)
        shards = await self.get_many(ids)
        changed = []
        for id, own in by_shard.items():
            shard, state = shards.get(id), best_state(own)
            if all(one.state is State.RETIRED for one in own):
                state = State.RETIRED
            if shard is not None and shard.state is not State.RETIRED and shard.state is not state:
                changed.append(replace(shard, state=state))
        await self.put(changed)

    def _standing_row(self, standing: Standing) -> dict[str, Any]:
        return {
            **{column.name: getattr(standing, column.name) for column in SHARD_READERS.columns},
            "state": str(standing.state),
            "evidence": orjson.dumps(standing.evidence).decode(),
            "alarm": orjson.dumps(standing.alarm).decode(),
            "updated": self._clock(),
        }

    async def untested(self, reader: str, fingerprint: str, limit: int) -> list[Shard]:
        """Shards that nobody has tested on this reader as it is now, those wanted by all readers and by this one,
        oldest first."""
        done = select(SHARD_READERS.c.shard).where(
            SHARD_READERS.c.shard == SHARDS.c.id,
            SHARD_READERS.c.reader == reader,
            SHARD_READERS.c.fingerprint == fingerprint,
        )
        query = select(SHARDS.c.body, SHARDS.c.revision).where(
            SHARDS.c.state != str(State.RETIRED), SHARDS.c.body != "", ~done.exists()
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(SHARDS.c.created).limit(limit))).all()
        found = [replace(shard_of(body), revision=revision) for body, revision in rows]
        return [shard for shard in found if not shard.for_models or reader in shard.for_models]

    async def one(self, id: str) -> Shard:
        """By its id, or the beginning of it. Raises: NotFound where that is none, or several."""
        query = select(SHARDS.c.body, SHARDS.c.revision).where(
            SHARDS.c.id.startswith(id, autoescape=True), SHARDS.c.body != ""
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query.limit(2))).all()
        if len(rows) != 1:
            raise NotFound(f"{'several shards begin' if rows else 'no shard begins'} with '{id[:64]}'")
        [(body, revision)] = rows
        return replace(shard_of(body), revision=revision)

    async def of_source(self, source: str, tenant: str) -> list[Shard]:
        """Those that are not retired, the latest changed first."""
        states = (State.CANDIDATE, State.TRIAL, State.LIVE)
        return (await self.find(Where(tenant=tenant, source=source, states=states)))[::-1]

    async def renew(self, shard: Shard) -> Shard:
        """Write the next version of a shard: what was proven of the one before it counts no more."""
        async with self._database.write() as connection:
            await connection.execute(delete(SHARD_READERS).where(SHARD_READERS.c.shard == shard.id))
        return (await self.put([replace(shard, state=State.CANDIDATE, version=shard.version + 1)]))[0]

    # -- what indexes are made of --------------------------------------------------------------------------------

    async def without_vector(self, limit: int) -> list[tuple[int, str]]:
        """(number, text) of keys that have no vector yet, newest first."""
        query = text(
            "SELECT k.id, f.text FROM shard_keys k JOIN shard_fts f ON f.rowid = k.id"
            " WHERE k.vector IS NULL ORDER BY k.id DESC LIMIT :limit"
        )
        async with self._database.read() as connection:
            return [(id, words) for id, words in await connection.execute(query, {"limit": limit})]

    async def set_vectors(self, vectors: Mapping[int, bytes]) -> None:
        async with self._database.write() as connection:
            for id, vector in vectors.items():
                await connection.execute(update(SHARD_KEYS).where(SHARD_KEYS.c.id == id).values(vector=vector))

    async def forget_vectors(self) -> None:
        """Another embedding model makes them now."""
        async with self._database.write() as connection:
            await connection.execute(update(SHARD_KEYS).values(vector=None))


async def _newest(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(func.coalesce(func.max(SHARDS.c.revision), 0)))).scalar_one())


def indexed_as(shard: Shard) -> tuple[str, tuple[str, ...]]:
    """What is searched of it. While that stays the same, its vectors need not be made again. Retired ones are in no
    index: they are not to be found."""
    return shard.audience, () if shard.state is State.RETIRED else shard.keys


async def _forget_keys(connection: AsyncConnection, ids: Sequence[str]) -> None:
    query = select(SHARD_KEYS.c.id).where(SHARD_KEYS.c.shard.in_(ids))
    numbers = list((await connection.execute(query)).scalars())
    if numbers:
        sql = text("DELETE FROM shard_fts WHERE rowid = :id")
        await connection.execute(sql, [{"id": number} for number in numbers])
        await connection.execute(delete(SHARD_KEYS).where(SHARD_KEYS.c.shard.in_(ids)))


def _row(shard: Shard) -> dict[str, Any]:
    names = ("id", "revision", "audience", "tenant", "user", "writer", "source", "source_hash", "lot", "slot")
    times = ("created", "updated", "valid_to")
    row = {name: getattr(shard, name) for name in (*names, *times)}
    return {**row, "kind": str(shard.kind), "state": str(shard.state), "body": body_of(shard)}


def _standing(row: Mapping[str, Any]) -> Standing:
    read = {**row, "state": State(row["state"])}
    return Standing(**{**read, "evidence": orjson.loads(row["evidence"]), "alarm": orjson.loads(row["alarm"])})


def served(shard: Shard, standing: Standing | None, now: float) -> bool:
    """May it be given to this reader?"""
    return (
        standing is not None
        and standing.state in SERVED
        and shard.state is not State.RETIRED
        and not shard.needs_review
        and shard.is_valid(now)
        and (shard.scope is not Scope.USER or shard.user is not None)
    )
