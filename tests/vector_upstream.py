"""An upstream for embeddings and reranks on a real socket, that notes what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

Json = dict[str, Any]


class VectorUpstream:
    """Args: `reply` is what it answers, JSON or bytes, None: nothing, ever. `left` is set once its client has gone."""

    def __init__(self, reply: Any, status: int, headers: dict[str, str]) -> None:
        self.reply, self.status, self.reply_headers = reply, status, headers
        self.bodies: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(orjson.loads(await request.read()))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path_qs)
        self.asked.set()
        try:
            if self.reply is None:
                await asyncio.Event().wait()
        finally:
            self.left.set()
        body = self.reply if isinstance(self.reply, bytes) else orjson.dumps(self.reply)
        headers = {"content-type": "application/json", **self.reply_headers}
        return web.Response(body=body, status=self.status, headers=headers)


@asynccontextmanager
async def vector_upstream(
    reply: Any, status: int = 200, headers: dict[str, str] | None = None
) -> AsyncIterator[VectorUpstream]:
    upstream = VectorUpstream(reply, status, headers or {})
    app = web.Application()
    app.router.add_post("/{tail:.*}", upstream.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield upstream
    finally:
        await runner.cleanup()


def embeddings(*vectors: Any, tokens: int | None = 7) -> Json:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return {"object": "list", "data": data, "model": "up-2026", **usage}


def entry(upstream: VectorUpstream, more: str = "") -> str:
    """models.yaml with the one model `m1`."""
    at = f"base_url: '{upstream.url}', model: up, api_key: k-upstream"
    return f"models: {{m1: {{engine: openai, retries: 0, {at}{more}}}}}\n"
