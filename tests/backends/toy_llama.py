"""A llama.cpp server on a real socket with a toy for a model: a token is a character, and a function says the next."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from gateway.backends.openai import OpenAIBackend, Standing
from gateway.engines import Lease
from gateway.providers import LLAMA_SERVER
from gateway.trace import Price
from gateway.transport.client import PooledClient

END = "\x03"
Next = Callable[[str], Mapping[str, float]]
"""From all that was said so far to the probability of each character; what is missing has next to none."""


class ToyServer:
    """`asked`: (path, body) of each request, in order. `answers` waits for `gate` if there is one."""

    def __init__(self, following: Next, *, opening: str = "<a>", blank: str = "") -> None:
        self.following, self.opening, self.blank = following, opening, blank
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.gate: asyncio.Event | None = None
        self.asked_to_complete = asyncio.Event()
        self.was_left = asyncio.Event()
        self.fails: Callable[[web.Request], Any] | None = None
        self._held = ""

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def said_to(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.asked if asked == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.asked.append((request.path, body))
        if self.fails is not None and request.path == "/completion":
            failed: web.StreamResponse = await self.fails(request)
            return failed
        if request.path == "/apply-template":
            return web.json_response({"prompt": self.rendered(body["messages"])})
        if request.path == "/tokenize":
            return web.json_response({"tokens": [t for part in body["content"] for t in _tokens(part)]})
        return await self.complete(request, body)

    def rendered(self, messages: list[dict[str, str]]) -> str:
        turns = []
        for message in messages:
            head = self.opening + self.blank if message["role"] == "assistant" else f"<{message['role'][0]}>"
            turns.append(f"{head}{message['content']}{END}")
        return "".join(turns) + self.opening

    async def complete(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self.asked_to_complete.set()
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.was_left.set()
                raise
        first, *rest = body["prompt"]
        text = first + "".join(map(chr, rest))
        cached = len(os.path.commonprefix([text, self._held]))
        cached = min(cached, len(text) - 1)
        self._held = text
        lifts = dict(body["logit_bias"])
        weights = {ord(c): p for c, p in self.following(text).items()}
        weights = {token: math.log(weights.get(token, 1e-9)) for token in {*weights, *lifts}}
        lifted = {token: math.exp(weight + lifts.get(token, 0.0)) for token, weight in weights.items()}
        whole = sum(lifted.values())
        top = sorted(lifted, key=lambda token: -lifted[token])[: body["n_probs"]]
        probs = [{"id": token, "token": chr(token), "prob": lifted[token] / whole} for token in top]
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        events = (
            {"content": "", "stop": False, "completion_probabilities": [{"id": top[0], "top_probs": probs}]},
            {
                "stop": True,
                "timings": {"prompt_n": len(text) - cached, "cache_n": cached},
                "completion_probabilities": [],
            },
        )
        for event in events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        return response


def _tokens(part: str | int) -> list[int]:
    return [part] if isinstance(part, int) else list(map(ord, part))


@asynccontextmanager
async def toy(following: Next, **shape: Any) -> AsyncIterator[tuple[ToyServer, OpenAIBackend]]:
    """A server, and a leaf that asks it."""
    server = ToyServer(following, **shape)
    app = web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = PooledClient()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    leaf = OpenAIBackend(
        name="toy",
        client=client,
        take_lease=Standing(Lease(url=url, key="secret", id="toy", slot=2)),
        provider=LLAMA_SERVER,
        price=Price(1.0, 1.0),
        can_score=True,
    )
    try:
        yield server, leaf
    finally:
        await client.close()
        await runner.cleanup()
