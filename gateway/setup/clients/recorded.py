"""A client's request, as it was recorded, sent over HTTP: for where the client itself is not installed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.setup.clients import Failure, Server, Trial
from gateway.setup.clients.reply import StreamText, failure_of, whole_text
from gateway.transport import ConnectFailed, ConnectionCut, HttpReply, ReplyTooLarge
from gateway.transport.client import PooledClient

CONNECT_S = 5.0
LIMIT_BYTES = 32 << 20


async def trials(server: Server, by: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> list[Trial]:
    """`body` less `model` and `stream`, `headers` less the key."""
    client = PooledClient()
    try:
        return [await _trial(client, server, by, headers, body, is_stream=is_stream) for is_stream in (False, True)]
    finally:
        await client.close()


async def _trial(
    client: PooledClient,
    server: Server,
    by: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    *,
    is_stream: bool,
) -> Trial:
    sent = {"model": server.model, **body, **({"stream": True} if is_stream else {})}
    headers = {"content-type": "application/json", "authorization": f"Bearer {server.sent_key}", **headers}
    started = time.monotonic()
    reply = None
    try:
        async with asyncio.timeout(server.timeout_s):
            reply = await client.post(
                f"{server.base_url}/chat/completions", headers, orjson.dumps(sent), connect_s=CONNECT_S
            )
            text, first_s, failure = await _read(reply, started, is_stream=is_stream)
    except TimeoutError:
        return Trial(is_stream, by, failure=Failure(f"no answer within {server.timeout_s:g} s", code="timeout"))
    except (ConnectFailed, ConnectionCut, ReplyTooLarge) as exc:
        return Trial(is_stream, by, failure=Failure(f"the connection failed: {type(exc).__name__}"))
    finally:
        if reply is not None:
            reply.close()
    model, path = reply.headers.get("x-gateway-model"), reply.headers.get("x-gateway-path")
    return Trial(is_stream, by, text, model, path, first_s, time.monotonic() - started, failure)


async def _read(reply: HttpReply, started: float, *, is_stream: bool) -> tuple[str, float | None, Failure | None]:
    """The text, when its first words came, and what is wrong with it."""
    if reply.status != 200:
        return "", None, failure_of(reply.status, await reply.read(LIMIT_BYTES))
    if not is_stream:
        return (whole := whole_text(await reply.read(LIMIT_BYTES)))[0], None, whole[1]
    stream, first_s = StreamText(), None
    while piece := await reply.read_some():
        stream.feed(piece)
        if stream.text and first_s is None:
            first_s = time.monotonic() - started
    stream.end()
    return stream.text, first_s, stream.failure
