"""Clients of every dialect and manner: those that listen to the end, that leave, that read slowly, that are wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

Json = dict[str, Any]
Act = Callable[["Clients"], Awaitable[str]]
TIMEOUT = aiohttp.ClientTimeout(total=60)
PAUSE_S = 0.1  # on average, between two requests of one client
TOPICS = ("a mill", "bread", "winter", "an old map", "two brothers", "rain", "a lighthouse")


@dataclass
class Clients:
    """`ids`: of requests that have ended, and when, in unix seconds; `outcomes` by (what was done, how it ended)."""

    url: str
    key: str
    session: aiohttp.ClientSession
    random: random.Random
    ids: dict[str, float] = field(default_factory=dict)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    oddities: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    asked: ContextVar[str | None] = field(default_factory=lambda: ContextVar("asked", default=None))

    @property
    def sent(self) -> int:
        return sum(self.outcomes.values())

    @asynccontextmanager
    async def at_work(self, count: int) -> AsyncIterator[None]:
        """So many ask until it is left, over connections of their own that are closed then: none is counted among what
        the server keeps open by itself."""
        stop = asyncio.Event()
        async with aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0)) as session:
            others = replace(self, session=session)  # what they note is the same
            asking = [asyncio.create_task(others.keep_asking(stop)) for _ in range(count)]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*asking)

    async def keep_asking(self, until: asyncio.Event) -> None:
        acts, weights = zip(*((act, weight) for act, weight in ACTS.items()), strict=True)
        while not until.is_set():
            (act,) = self.random.choices(acts, weights)
            name = act.__name__
            self.asked.set(None)
            try:
                self.outcomes[name, await act(self)] += 1
                if trace := self.asked.get():
                    self.ids[trace] = time.time()
            except TimeoutError:
                self.outcomes[name, "timeout"] += 1
                self.oddities.append(f"{name}: no end within {TIMEOUT.total:g} s")
            except (aiohttp.ClientError, OSError) as exc:
                self.outcomes[name, type(exc).__name__] += 1
            await asyncio.sleep(self.random.expovariate(1 / PAUSE_S))

    def prompt(self, words: str = "") -> str:
        return f"Tell me of {self.random.choice(TOPICS)} {words} ({next(self._numbers)})"

    async def post(self, path: str, body: Any, key: str | None = None) -> aiohttp.ClientResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {key or self.key}", "content-type": "application/json"}
        reply = await self.session.post(f"{self.url}{path}", data=data, headers=headers)
        self.asked.set(reply.headers.get("x-gateway-trace"))
        return reply

    async def whole(self, path: str, body: Json) -> str:
        async with await self.post(path, body) as reply:
            text = await reply.read()
            if reply.status == 500:
                self.oddities.append(f"{path}: 500 {text[:200]!r}")
            return str(reply.status)

    async def streamed(self, path: str, body: Json, end: bytes) -> str:
        """How a stream ended: with `end`, with an error event, or cut, which nothing but a crash may do."""
        async with await self.post(path, {**body, "stream": True}) as reply:
            last = b""
            async for piece in reply.content.iter_any():
                last = (last + piece)[-4000:]
            if reply.status != 200:
                return str(reply.status)
            return "to its end" if end in last else "an error said so" if b"error" in last else "cut"


def _chat(self: Clients, words: str = "", **more: Any) -> Json:
    return {"model": "auto", "messages": [{"role": "user", "content": self.prompt(words)}], **more}


CHAT = "/v1/chat/completions"


async def chat(self: Clients) -> str:
    return await self.whole(CHAT, _chat(self))


async def chat_stream(self: Clients) -> str:
    return await self.streamed(CHAT, _chat(self), b"[DONE]")


async def long_stream(self: Clients) -> str:
    return await self.streamed(CHAT, _chat(self, "at length", model="steady"), b"[DONE]")


async def core(self: Clients) -> str:
    body = _chat(self, max_tokens=8)
    body["messages"][0]["content"] = "Say a word of the sea"
    return await self.streamed(CHAT, body, b"[DONE]")


async def cached(self: Clients) -> str:
    content = f"again {self.random.choice(TOPICS)}"
    return await self.whole(CHAT, {"model": "auto", "messages": [{"role": "user", "content": content}]})


async def messages(self: Clients) -> str:
    return await self.whole("/v1/messages", _chat(self, max_tokens=100))


async def messages_stream(self: Clients) -> str:
    return await self.streamed("/v1/messages", _chat(self, max_tokens=100), b"message_stop")


async def responses(self: Clients) -> str:
    return await self.whole("/v1/responses", {"model": "auto", "input": self.prompt()})


async def responses_stream(self: Clients) -> str:
    return await self.streamed("/v1/responses", {"model": "auto", "input": self.prompt()}, b"response.completed")


async def ollama(self: Clients) -> str:
    return await self.whole("/api/chat", _chat(self, stream=False))


async def ollama_stream(self: Clients) -> str:
    return await self.streamed("/api/generate", {"model": "auto", "prompt": self.prompt()}, b'"done":true')


async def completions(self: Clients) -> str:
    return await self.whole("/v1/completions", {"model": "steady", "prompt": self.prompt()})


async def embeddings(self: Clients) -> str:
    return await self.whole("/v1/embeddings", {"model": "minilm", "input": [self.prompt(), self.prompt()]})


async def leaves_mid_stream(self: Clients) -> str:
    reply = await self.post(CHAT, _chat(self, "at length", model="steady", stream=True))
    for _ in range(self.random.randint(1, 5)):
        await reply.content.readany()
    reply.close()  # the connection with it
    return "left"


async def leaves_before_the_answer(self: Clients) -> str:
    with suppress(TimeoutError):
        async with asyncio.timeout(self.random.uniform(0.001, 0.05)):
            async with await self.post(CHAT, _chat(self)) as reply:
                await reply.read()
    return "left"


async def reads_slowly(self: Clients) -> str:
    async with await self.post(CHAT, _chat(self, "at length", model="steady", stream=True)) as reply:
        for _ in range(40):
            if not await reply.content.read(2048):
                return "to its end"
            await asyncio.sleep(0.1)
        reply.close()
    return "left"


async def hangs_up_in_its_request(self: Clients) -> str:
    host, port = self.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{")
    await writer.drain()
    writer.transport.abort()
    return "left"


async def wrong_key(self: Clients) -> str:
    async with await self.post(CHAT, _chat(self), "ogw_" + "x" * 43) as reply:
        return str(reply.status)


async def no_json(self: Clients) -> str:
    async with await self.post(CHAT, b'{"model": ') as reply:
        return str(reply.status)


async def unknown_model(self: Clients) -> str:
    async with await self.post(CHAT, _chat(self, model="nobody")) as reply:
        return str(reply.status)


ACTS: dict[Act, int] = {
    chat: 20,
    chat_stream: 20,
    long_stream: 3,
    core: 5,
    cached: 5,
    messages: 5,
    messages_stream: 5,
    responses: 4,
    responses_stream: 4,
    ollama: 4,
    ollama_stream: 4,
    completions: 4,
    embeddings: 2,
    leaves_mid_stream: 6,
    leaves_before_the_answer: 4,
    reads_slowly: 1,
    hangs_up_in_its_request: 2,
    wrong_key: 2,
    no_json: 2,
    unknown_model: 2,
}
"""With how often each is done, beside the others."""
