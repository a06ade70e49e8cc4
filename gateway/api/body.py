"""The request body, within its limit and unpacked, and the client that may leave while it is being answered."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from types import TracebackType

from gateway.api.asgi import Receive, Scope
from gateway.errors import BodyTooLarge, GatewayError, InvalidRequest, UnknownEncoding

WATCH_AFTER_S = 0.02
WATCH = "onion-gateway.watch"
"""An ASGI extension of our own server: a function that takes what to call once the client has left."""
OFF_LOOP_BYTES = 64 * 1024  # packed; takes a few ms to unpack
WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> Awaitable[bytes]:
    """Raises: BodyTooLarge as soon as that is known, UnknownEncoding, InvalidRequest where it cannot be unpacked,
    ClientGone."""
    headers = scope["gateway"]["headers"]
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    packed = headers.get("content-encoding", "").strip().lower()
    if packed in ("", "identity"):
        return _read(receive, limit_bytes)
    if packed not in WINDOWS:
        raise UnknownEncoding(
            f"a body encoded as '{packed[:40]}' is not understood; gzip and deflate are",
            headers={"accept-encoding": "gzip, deflate", "connection": "close"},
        )
    return _read_packed(receive, packed, limit_bytes)


async def _read_packed(receive: Receive, packed: str, limit_bytes: int) -> bytes:
    raw = await _read(receive, limit_bytes)
    if len(raw) < OFF_LOOP_BYTES:
        return _unpack(raw, packed, limit_bytes)
    return await asyncio.to_thread(_unpack, raw, packed, limit_bytes)


async def _read(receive: Receive, limit_bytes: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):  # as nearly all
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        return body
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


def _unpack(raw: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Never more than the limit, however much it would come to."""
    unpacker = zlib.decompressobj(WINDOWS[encoding])
    try:
        body = unpacker.decompress(raw, limit_bytes + 1)
    except zlib.error:
        raise InvalidRequest(f"the body is not what its content-encoding '{encoding}' says") from None
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidRequest(f"the body's {encoding} ends too early, or something follows it")
    return body


def _too_large(limit_bytes: int) -> GatewayError:
    return BodyTooLarge(f"the body is larger than {limit_bytes / 1024 / 1024:g} MiB", headers={"connection": "close"})


class until_client_leaves:
    """Cancels the task inside once the client has gone, and turns that into ClientGone.

    A bare `await` in a handler would go on generating for somebody who has left. Our own server tells of it; of another
    one it has to be asked, by a task, which most fast answers are spared: they are out before the watch begins.
    """

    __slots__ = ("_gone", "_receive", "_task", "_tells", "_timer", "_watch")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._tells: Callable[[Callable[[], None] | None], None] | None = scope.get("extensions", {}).get(WATCH)
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # always so inside a coroutine
        self._task = task
        if self._tells is not None:
            self._tells(self._end)
        else:
            self._timer = task.get_loop().call_later(WATCH_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._watch = self._task.get_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end()

    def _end(self) -> None:
        self._gone = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._tells is not None:
            self._tells(None)
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise ClientGone from None
