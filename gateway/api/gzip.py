"""Large answers are sent compressed to clients that take it. Streams never are: a compressor holds words back.

Measured: of a chat of 64 KB level 1 leaves 39 % in 0.7 ms, level 6 33 % in 3.3 ms; of 32 embeddings (258 KB) both leave
about half, in 6 and 22 ms. Below 16 KB what is saved is not worth the microseconds.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, MutableMapping
from functools import lru_cache
from typing import Any

from gateway.api.asgi import RawHeaders, Send, send_as_one

MIN_BYTES = 16 * 1024
OFF_LOOP_BYTES = 64 * 1024  # more than a millisecond, which others would wait for
LEVEL = 1
GZIP = 16 + zlib.MAX_WBITS
Message = MutableMapping[str, Any]


@lru_cache(maxsize=256)
def accepts_gzip(accept_encoding: str) -> bool:
    """Does this `accept-encoding` take gzip? A weight of 0 says no; `*` speaks for what is not named."""
    weights = {}
    for part in accept_encoding.lower().split(","):
        name, _, parameter = part.partition(";")
        key, _, value = parameter.partition("=")
        weights[name.strip()] = value.strip() if key.strip() == "q" else "1"
    weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", "0")))
    try:
        return float(weight) > 0
    except ValueError:
        return False


class Gzip:
    """Stands before one reply's `send`. Keeps the head back until it is known whether the body comes in one piece."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None

    def whole(self, status: int, headers: RawHeaders, body: bytes) -> Awaitable[None]:
        """An answer that is there."""
        if len(body) < MIN_BYTES:
            return send_as_one(self._send, status, headers, body)
        return self._whole(status, headers, body)

    async def _whole(self, status: int, headers: RawHeaders, body: bytes) -> None:
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body, "more_body": False})

    async def __call__(self, message: Message) -> None:
        start = self._start
        if message["type"] == "http.response.start":
            if not _is_stream(message):
                self._start = message
                return
        elif start is not None:
            self._start = None
            body = message.get("body", b"")
            if len(body) >= MIN_BYTES and not message.get("more_body"):
                message = await _compress(start, body)
            await self._send(start)
        await self._send(message)


def _is_stream(start: Message) -> bool:
    """Or compressed already."""
    names = {name for name, _ in start["headers"]}
    return b"content-length" not in names or b"content-encoding" in names


async def _compress(start: Message, body: bytes) -> Message:
    """The body's message. Puts into `start` what it says of the body."""
    if len(body) >= OFF_LOOP_BYTES:
        body = await asyncio.to_thread(zlib.compress, body, LEVEL, GZIP)
    else:
        body = zlib.compress(body, LEVEL, GZIP)
    start["headers"] = [
        *(header for header in start["headers"] if header[0] != b"content-length"),
        (b"content-length", b"%d" % len(body)),
        (b"content-encoding", b"gzip"),
        (b"vary", b"Accept-Encoding"),
    ]
    return {"type": "http.response.body", "body": body, "more_body": False}
