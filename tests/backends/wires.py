"""A gateway in front of one upstream that speaks a dialect of its own, and what the two say to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from gateway.backends.wire import Wire
from gateway.chat import ChatRequest
from tests.asgi import Client, Response
from tests.conftest import Serve
from tests.upstream import SINGLE
from tests.vendors import Event, Json, Say, Vendor, vendor

HELLO = Say()


def asked(wire: Wire, model: str = "up", *, defaults: Json | None = None, **chat: Any) -> tuple[Json, tuple[str, ...]]:
    """What the wire sends for a chat, and what it leaves out. A text is what a user says."""
    messages = chat.pop("messages", "hello")
    body = {"messages": [{"role": "user", "content": messages}] if isinstance(messages, str) else messages, **chat}
    sent, lost = wire.ask({**body, **(defaults or {}), "model": model}, ChatRequest({**body, "model": "auto"}))
    return dict(sent), lost


def scripted(kind: type[Vendor], events: Sequence[Event] = (), whole: Json | None = None) -> type[Vendor]:
    """A vendor that says just this."""
    typed = [(name, {"type": name, **data}) for name, data in events]
    return type("Scripted", (kind,), {"events": lambda self, say: typed, "whole": lambda self, say: whole})


@asynccontextmanager
async def meeting(
    serve: Serve, kind: type[Vendor], entry: str, *replies: Say, policy: str = SINGLE
) -> AsyncIterator[tuple[Client, Vendor]]:
    """`entry`: keys of the model beside its address and key."""
    async with vendor(kind, *(replies or (HELLO,))) as server:
        keys = f"engine: openai, base_url: '{server.url}/v1', api_key: sk-of-the-gateway, {entry}"
        yield await serve(f"models:\n  m1: {{{keys}}}\n", default=policy), server


def named_events(reply: Response) -> list[Json]:
    """Of a stream whose events have names."""
    blocks = (block.partition("\ndata: ") for block in reply.body.decode().split("\n\n") if block)
    return [orjson.loads(data) for _, _, data in blocks]


def deltas(reply: Response) -> list[Json]:
    """Of a chat's stream, without roles and empty ones."""
    found = [choice["delta"] for event in reply.events if event != "[DONE]" for choice in event["choices"]]
    found = [{name: value for name, value in delta.items() if name != "role"} for delta in found]
    return [delta for delta in found if delta]


def joined(reply: Response, name: str) -> str:
    return "".join(delta.get(name) or "" for delta in deltas(reply))
