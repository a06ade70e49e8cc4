"""The seam between HTTP and a chat: how one API's body becomes a request, and how what is answered is written in it.

A dialect is two files: `NAME.py` reads and `NAME_reply.py` writes. Everything between them (policies, shards, cascades,
traces) knows only `ChatRequest`, `Chunk` and `Answer`.
"""

from __future__ import annotations

from typing import Protocol

from gateway.api.asgi import Scope
from gateway.chat import Answer, ChatRequest, Json
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.trace import RequestTrace


class Writer(Protocol):
    """Writes one reply. A stream: `chunk` for each chunk, then `end` or `failure`. Else `whole`."""

    media_type: bytes
    """Of a stream."""

    keep_alive: bytes
    """Written into a stream while there is nothing to say."""

    def chunk(self, chunk: Chunk) -> bytes:
        """What goes out for it at once; may be nothing."""

    async def end(self, answer: Answer, about: Json) -> bytes:
        """The rest of a stream. `about`: the `gateway` object. Raises: GatewayError."""

    async def whole(self, answer: Answer, about: Json) -> bytes:
        """The body of a reply that is not streamed. Raises: GatewayError."""

    def failure(self, error: GatewayError) -> bytes:
        """A loud end of a stream that has begun."""


class Dialect(Protocol):
    async def read(self, raw: bytes, scope: Scope, trace: RequestTrace) -> tuple[ChatRequest, Writer]:
        """Raises: RequestError, with `param` naming the field at fault."""
