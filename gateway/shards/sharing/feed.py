"""The feed: what a node publishes, page by page in the order of its changes, signed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import ColumnElement, func, insert, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.shards import Json, Scope, Shard, Standing, State, audiences_for
from gateway.shards.outside import FROM_GATEWAYS
from gateway.shards.sharing.records import record_of
from gateway.shards.sharing.signing import Signer, own_signer
from gateway.shards.store import ShardStore
from gateway.shards.writing import shard_of
from gateway.store.database import Database
from gateway.store.tables import SHARDS
from gateway.trace import new_id

FORMAT = 1
PURPOSE = b"shards feed"
PATH = "/v1/shards/feed"
MAX_LIMIT = 500
LIMIT = 200
MAX_NONCE = 64
PAGE_BYTES = 4 * 2**20
NAME_OF_STORE = 0  # the revision of a row that is no shard: its id names this store, so that another one is known


@dataclass(frozen=True)
class Page:
    """`signature`: of the caller's nonce and the body, as `KEY-ID BASE64`."""

    body: bytes
    etag: str
    signature: str


class Feed:
    """Args:
    republish: also what came from other gateways.
    states: what is published; the rest, and what is deleted, is told of as revoked.
    """

    def __init__(
        self,
        database: Database,
        store: ShardStore,
        home: Path,
        *,
        republish: bool = False,
        states: Sequence[State] = (State.CANDIDATE, State.TRIAL, State.LIVE),
    ) -> None:
        self._database, self._store, self._home = database, store, home
        self._republish, self._states = republish, frozenset(states)
        self._signer: Signer | None = None
        self._name: str | None = None
        self._digests: dict[tuple[str, int, int], str] = {}

    async def page(self, tenant: str, after: int, limit: int = LIMIT, nonce: str = "") -> Page:
        """What changed after revision `after`, for the holder of a tenant's key: the tenant's own and global shards,
        never those of a user."""
        signer = await self._own_signer()
        data = await self._read(tenant, after, limit)
        data |= {"publisher": {"id": signer.public.id, "key": str(signer.public)}}
        body = orjson.dumps(data)
        signature = signer.sign(PURPOSE, signed_bytes(nonce, body))
        etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
        return Page(body, etag, f"{signer.public.id} {base64.b64encode(signature).decode()}")

    async def _read(self, tenant: str, after: int, limit: int) -> Json:
        visible = self._visible(tenant)
        async with self._database.read() as connection:  # one moment for all of it
            newest, count = await _extent(connection, visible)
            query = select(SHARDS.c.id, SHARDS.c.revision, SHARDS.c.body).where(visible, SHARDS.c.revision > after)
            rows = (await connection.execute(query.order_by(SHARDS.c.revision).limit(limit))).all()
            held = await self._held(connection, tenant, visible, newest, count)
        records = await self._records(rows)
        kept: list[Json] = []
        size = 0
        for record in records:
            size += len(orjson.dumps(record))
            if kept and size > PAGE_BYTES:
                break
            kept.append(record)
        is_last = not kept or kept[-1]["revision"] == newest
        return {
            "object": "list",
            "format": FORMAT,
            "store": await self._store_name(),
            "after": after,
            "newest": newest,
            "data": kept,
            "next": None if is_last else kept[-1]["revision"],
            "held": held,
        }

    def _visible(self, tenant: str) -> ColumnElement[bool]:
        ours: ColumnElement[bool] = SHARDS.c.audience.in_(audiences_for(tenant, None)) & (
            SHARDS.c.revision > NAME_OF_STORE
        )
        if not self._republish:
            ours = ours & not_(or_(*(SHARDS.c.source.startswith(name) for name in FROM_GATEWAYS)))
        return ours

    async def _records(self, rows: Sequence[Any]) -> list[Json]:
        read = [(id, revision, shard_of(body) if body else None) for id, revision, body in rows]
        shards = [shard for _, _, shard in read if shard is not None and self._is_published(shard)]
        standings: dict[str, list[Standing]] = {}
        for one in await self._store.standings([shard.id for shard in shards]) if shards else ():
            standings.setdefault(one.shard, []).append(one)
        told = {shard.id: record_of(shard, standings.get(shard.id, ())) for shard in shards}
        return [{"revision": revision, **told.get(id, {"id": id, "revoked": True})} for id, revision, _ in read]

    def _is_published(self, shard: Shard) -> bool:
        return shard.state in self._states and not shard.needs_review and shard.scope is not Scope.USER

    async def _held(
        self, connection: AsyncConnection, tenant: str, visible: ColumnElement[bool], newest: int, count: int
    ) -> Json:
        """By which a subscriber sees that it has all and nothing else: shards may also leave a tenant, silently."""
        key = (tenant, newest, count)
        if key not in self._digests:
            query = select(SHARDS.c.id, SHARDS.c.revision).where(visible).order_by(SHARDS.c.revision)
            rows = (await connection.execute(query)).all()
            if len(self._digests) > 256:
                self._digests.clear()
            self._digests[key] = await asyncio.to_thread(digest_of, [(id, revision) for id, revision in rows])
        return {"count": count, "digest": self._digests[key]}

    async def _own_signer(self) -> Signer:
        if self._signer is None:
            self._signer = await asyncio.to_thread(own_signer, self._home)
        return self._signer

    async def _store_name(self) -> str:
        """Drawn once for each store; one that was set up anew has another."""
        if self._name is None:
            query = select(SHARDS.c.id).where(SHARDS.c.revision == NAME_OF_STORE)
            async with self._database.write() as connection:
                name = (await connection.execute(query)).scalar_one_or_none()
                if name is None:
                    name = new_id()
                    await connection.execute(insert(SHARDS).values(_name_row(name)))
            self._name = str(name)
        return self._name


def signed_bytes(nonce: str, body: bytes) -> bytes:
    """A page answers one question: shown again to another, its signature is wrong."""
    return nonce.encode() + b"\n" + body


def digest_of(held: Sequence[tuple[str, int]]) -> str:
    """Of (id, revision) in the order of revisions."""
    state = blake2b(digest_size=16)
    for id, revision in held:
        state.update(f"{id} {revision}\n".encode())
    return state.hexdigest()


async def _extent(connection: AsyncConnection, visible: ColumnElement[bool]) -> tuple[int, int]:
    """The newest revision, and how many there are: whatever changes changes one of them."""
    query = select(func.coalesce(func.max(SHARDS.c.revision), 0), func.count()).where(visible)
    newest, count = (await connection.execute(query)).one()
    return int(newest), int(count)


def _name_row(name: str) -> Json:
    empty = dict.fromkeys(("audience", "tenant", "kind", "writer", "source", "source_hash", "lot", "slot", "body"), "")
    times = {"created": 0.0, "updated": 0.0}
    return {**empty, **times, "id": name, "revision": NAME_OF_STORE, "state": str(State.RETIRED)}
