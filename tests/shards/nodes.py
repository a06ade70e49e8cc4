"""A node that publishes shards: its store, its keys, and its feed behind the door, on a real socket."""

from __future__ import annotations

import asyncio
import shutil
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import uvicorn
from aiohttp import web
from fastapi import FastAPI

from gateway.access.keys import KeyRing, create_key
from gateway.api.door import Door
from gateway.api.fastapi_app import _answer_errors
from gateway.api.shard_feed import shard_feed
from gateway.live import Live
from gateway.shards import Example, Kind, Shard
from gateway.shards.sharing.feed import PATH, Feed
from gateway.shards.sharing.signing import PublicKey, own_signer
from gateway.shards.store import ShardStore
from gateway.store.database import FILE_NAME, Database, open_database
from gateway.trace import new_id
from gateway.transport.client import PooledClient
from tests.conftest import build_from

MODELS = "models:\n  m1: {engine: scripted, replies: [{text: hi}]}\n"
POLICY = "policy: default\nroutes: [{name: all, answer: {model: m1}}]\n"


def fact(text: str, **more: Any) -> Shard:
    return Shard(more.pop("id", None) or new_id(), Kind.CONTENT, fact=text, **more)


def recipe(*pairs: tuple[str, str], **more: Any) -> Shard:
    examples = tuple(Example(*pair) for pair in pairs or (("3 May 2024", "2024-05-03"),))
    return Shard(new_id(), Kind.PROCESS, trigger="Turn dates into ISO dates.", examples=examples, **more)


@lru_cache(maxsize=1)
def packed_zeros() -> bytes:
    """100 MiB in less than half a MiB of gzip."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(100)) + packer.flush()


class Node:
    """`seen`: the requests for its feed, as (query, status)."""

    def __init__(self, home: Path, database: Database, feed: Feed, url: str) -> None:
        self.home, self.database, self.feed, self.url = home, database, feed, url
        self.store = ShardStore(database)
        self.seen: list[tuple[str, int]] = []

    @property
    def key(self) -> PublicKey:
        return own_signer(self.home).public

    @property
    def trusted(self) -> dict[str, PublicKey]:
        return {self.key.id: self.key}


def new_home(folder: Path, empty_database: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(empty_database, folder / FILE_NAME)
    return folder


@asynccontextmanager
async def publishing(home: Path, *key_names: str, **feed_options: Any) -> AsyncIterator[tuple[Node, dict[str, str]]]:
    """The node, and tokens by the names of keys; without names it is open."""
    database = await open_database(home)
    tokens = {name: (await create_key(database, name))[1] for name in key_names}
    keys = KeyRing(database)
    await keys.start()
    gateway, runtime = build_from(home / "config", MODELS, default=POLICY)
    bound = socket.create_server(("127.0.0.1", 0))
    feed = Feed(database, ShardStore(database), home, **feed_options)
    node = Node(home, database, feed, f"http://127.0.0.1:{bound.getsockname()[1]}{PATH}")
    api = FastAPI()
    api.include_router(shard_feed(lambda: feed))
    _answer_errors(api)
    door = Door(api, keys, Live(gateway, runtime.pool), runtime.telemetry.sampling)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                node.seen.append((scope["query_string"].decode(), message["status"]))
            await send(message)

        await door(scope, receive, noting)

    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
    task = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield node, tokens
    finally:
        server.should_exit = True
        await task
        await keys.close()
        await runtime.close()
        await database.close()


Twist = Callable[[web.Request, bytes, dict[str, str]], Awaitable[web.StreamResponse | None]]


@asynccontextmanager
async def between(node: Node, twist: Twist) -> AsyncIterator[str]:
    """The address of somebody in between: `twist` gets the request, and the feed's body and headers for it; what it
    returns is answered in their place."""

    async def answer(request: web.Request) -> web.StreamResponse:
        sent = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        client = PooledClient()
        url = f"{node.url}?{request.query_string}"
        reply = await client.get(url, sent | {"accept-encoding": "identity"}, connect_s=5)
        body = await reply.read(2**24)
        headers = {k: v for k, v in reply.headers.items() if k in ("etag", "x-gateway-signature")}
        await client.close()
        return await twist(request, body, headers) or web.Response(body=body, status=reply.status, headers=headers)

    app = web.Application()
    app.router.add_get(PATH, answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{PATH}"
    finally:
        await runner.cleanup()
