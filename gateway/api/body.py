"""The request body, within its limit, and the client that may leave while it is being answered."""

from __future__ import annotations

import asyncio
from types import TracebackType

from gateway.api.asgi import Receive, Scope
from gateway.errors import BodyTooLarge, GatewayError

WATCH_AFTER_S = 0.02


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Raises: BodyTooLarge as soon as that is known, ClientGone."""
    declared = scope["gateway"]["headers"].get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    message = await receive()
    pieces, size = [], 0
    while message["type"] == "http.request":
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()
    raise ClientGone


def _too_large(limit_bytes: int) -> GatewayError:
    return BodyTooLarge(f"the body is larger than {limit_bytes / 1024 / 1024:g} MiB", headers={"connection": "close"})


class until_client_leaves:
    """Cancels the task inside once the client has gone, and turns that into ClientGone.

    A bare `await` in a handler would go on generating for somebody who has left. Most fast answers are out before the
    watch begins, which spares them a task.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # always so inside a coroutine
        self._task = task
        self._timer = task.get_loop().call_later(WATCH_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._watch = self._task.get_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise ClientGone from None
