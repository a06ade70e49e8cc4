"""One HTTP/1.1 connection to an upstream: a request goes out, its reply comes in as callbacks of the parser.

Reading is a single waiter that is woken once per read of the socket, and one timer per connection, which is moved only
when it fires too early: a request that is answered in time sets none.
"""

from __future__ import annotations

import asyncio
import select
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import httptools

from gateway.transport import NEVER, ConnectionCut, ReplyTooLarge
from gateway.transport.inflate import ENCODINGS, Inflater

MAX_BUFFERED_BYTES = 256 * 1024  # of a reply that nobody reads, before the upstream is made to wait
MAX_INFLATED_BYTES = 16 * 1024 * 1024  # what one read may swell to
MAX_SILENT_BYTES = 256 * 1024  # of heads, trailers and the like, read without anything coming of it
SEND_AT_ONCE_BYTES = 128 * 1024  # of a request; the rest follows as the upstream takes it
LATER = 0.001  # a timer that fires before its time is set again for so much later than due
NOTED = frozenset({b"connection", b"content-encoding", b"content-length", b"keep-alive", b"transfer-encoding"})

RawHeaders = list[tuple[bytes, bytes]]


class Malformed(ConnectionCut):
    """What came was not HTTP/1.1."""


class Odd(Malformed):
    """It may be HTTP/1.1, but of a kind that is not understood here."""


class Connection(asyncio.Protocol):
    """Used by one request at a time: `ask`, then `read` or `read_some` to the end, then `end`.

    Args: `on_lost` is called once, when it can no longer be used.
    """

    __slots__ = (
        "_can_write", "_due", "_error", "_has_head", "_inflater", "_is_framed", "_is_lost", "_is_paused", "_loop",
        "_oddity", "_on_lost", "_parser", "_parts", "_room", "_sending", "_silent_bytes", "_size",
        "_timer", "_timer_at", "_transport", "_waiter", "_wants_all", "headers", "idle_since", "is_busy", "is_last",
        "is_whole", "keep_for_s", "status",
    )  # fmt: skip

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self.idle_since = 0.0
        self.keep_for_s: float | None = None
        """How long the upstream says that it keeps an idle connection."""
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        # What other clients take too, such as \n for \r\n; a server's replies are no way to smuggle a request in.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._is_lost = False
        self._waiter: asyncio.Future[bool] | None = None  # False: it took too long
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._due = NEVER
        self._can_write: asyncio.Future[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self.is_busy = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: RawHeaders = []
        self._has_head = self.is_whole = self._is_paused = False
        self._parts: list[bytes] = []
        self._size = 0  # bytes in parts
        self._silent_bytes = 0
        self._room = MAX_BUFFERED_BYTES
        self._wants_all = False
        self._error: Exception | None = None
        self._is_framed = self.is_last = False
        self._oddity: str | None = None  # told once the head is whole, wherever reads end
        self._inflater: Inflater | None = None

    # -- what the caller does ------------------------------------------------------------------------------------

    async def ask(self, head: bytes, body: bytes, due: float) -> None:
        """Send, and wait for status and headers.

        Raises: ConnectionCut, TimeoutError. Cancelled, or after an error, the connection is of no more use.
        """
        self._reset()
        if self._is_lost:
            raise ConnectionCut("closed")
        self.is_busy = True
        if len(body) <= SEND_AT_ONCE_BYTES:
            self._transport.write(head + body if body else head)
        else:
            self._transport.write(head)
            self._sending = self._loop.create_task(self._send(memoryview(body)))
        while not self._has_head:
            if self._error is not None:
                raise self._error
            await self._wait(due)

    async def read_some(self, due: float) -> bytes:
        """What has come, at least a byte; b"" at the end. Raises: ConnectionCut, TimeoutError."""
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self.is_whole:
                return b""
            await self._wait(due)
        return self._take()

    async def read(self, limit: int, due: float) -> bytes:
        """All of it. Raises: ConnectionCut, ReplyTooLarge, TimeoutError."""
        self._wants_all, self._room = True, limit
        if self._size > limit:
            raise ReplyTooLarge
        self._flow_again()
        while not self.is_whole:
            if self._error is not None:
                raise self._error
            await self._wait(due)
        return self._take()

    def end(self) -> bool:
        """Nobody reads on. Returns: can it take another request? If not, it is closed at once."""
        self.is_busy = False
        is_sent = self._sending is None and self._can_write is None
        if is_sent and self.is_whole and not self.is_last and not self._is_lost:
            self.idle_since = time.monotonic()
            if self._parts:  # it is whole, and was not read to its end
                self._take()
            return True
        self.abort()
        return False

    @property
    def is_read(self) -> bool:
        """To the end of the reply."""
        return self.is_whole and not self._parts

    def is_usable(self) -> bool:
        return not self._is_lost and not self._transport.is_closing()

    def has_ended(self) -> bool:
        """Of an idle one: has the upstream closed it, and the event loop not seen that yet?"""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))  # whatever there is to read, nobody has asked for it

    def abort(self) -> None:
        """At once: an upstream that takes no leave is not waited for, with TLS neither."""
        self._fail(ConnectionCut("closed"))
        if not self._is_lost:
            self._transport.abort()

    # -- waiting -------------------------------------------------------------------------------------------------

    async def _wait(self, due: float) -> None:
        self._due = due
        if due < self._timer_at:
            self._set_timer(due)
        waiter = self._waiter = self._loop.create_future()
        try:
            if not await waiter:
                raise TimeoutError
        finally:
            self._waiter = None
            self._due = NEVER

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - time.monotonic()) + LATER, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, NEVER
        if self._due == NEVER:
            return
        if self._due > time.monotonic():
            self._set_timer(self._due)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(False)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def _take(self) -> bytes:
        parts = self._parts
        piece = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._size = 0
        self._flow_again()
        return piece

    def _flow_again(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if not self._is_lost and not self._transport.is_closing():
                self._transport.resume_reading()

    # -- sending a large body ------------------------------------------------------------------------------------

    async def _send(self, body: memoryview) -> None:
        """Piece by piece. An upstream that answers early, and reads no further, is heard all the same."""
        for start in range(0, len(body), SEND_AT_ONCE_BYTES):
            if self._can_write is not None:
                await self._can_write
            if self._is_lost or self._transport.is_closing():
                return
            self._transport.write(body[start : start + SEND_AT_ONCE_BYTES])
        self._sending = None

    def pause_writing(self) -> None:
        self._can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)
        self._can_write = None

    # -- what the event loop says --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.is_busy or self.is_whole:  # said by nobody's asking: never to be taken for the next reply
            self.is_last = True
            self._transport.abort()
            return
        size = self._size
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            said = error.__context__
            self._break_off(said if isinstance(said, Malformed | ReplyTooLarge) else Malformed(str(error)))
        if self.is_whole:
            self._wake()
            return
        if self._has_head and not self._wants_all:
            self._wake()
        if self._size != size:
            self._silent_bytes = 0
            return
        self._silent_bytes += len(data)
        if self._silent_bytes > MAX_SILENT_BYTES:
            self._break_off(Malformed("nothing but heads"))

    def eof_received(self) -> None:
        """What has not been sent by now, nobody waits for."""
        self._come_to_end(None)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._can_write is not None:
            self._can_write.cancel()
        self._come_to_end(exc)
        del self._parser  # which holds on to this object
        self._on_lost(self)

    def _come_to_end(self, exc: Exception | None) -> None:
        if not self.is_busy or self.is_whole or self._error is not None:
            return
        if exc is None and self._has_head and not self._is_framed:
            self._finish()  # its end is the end of the connection
        else:
            self._fail(ConnectionCut(type(exc).__name__ if exc else "EOF"))
        self._wake()

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self.is_whole:
            self._error = error
        self._wake()

    def _break_off(self, error: Exception) -> None:
        self._fail(error)
        self.is_last = True
        self._transport.abort()

    # -- what the parser says ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._has_head:
            raise Malformed("more than was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:
            return  # a trailer
        name = name.lower()
        if name in NOTED:
            self._note(name, value.strip().lower())
        self.headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._is_framed = True
        elif name == b"connection":
            self.is_last = self.is_last or b"close" in value
        elif name == b"keep-alive":
            said = dict(part.strip().partition(b"=")[::2] for part in value.split(b","))
            with suppress(KeyError, ValueError):
                self.keep_for_s = float(said[b"timeout"])
        elif name == b"transfer-encoding":
            self._is_framed = True
            if value != b"chunked":
                self._oddity = "transfer-encoding"
        elif value in ENCODINGS:
            self._inflater = Inflater(value)
        elif value not in (b"", b"identity"):
            self._oddity = "content-encoding"

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # a word ahead of the reply
            if status == 101:
                raise Odd("upgrade")
            self.headers = []
            self._is_framed, self._inflater, self._oddity = False, None, None
            return
        if self._oddity is not None:
            raise Odd(self._oddity)
        self.status = status
        self._has_head = True
        self._is_framed = self._is_framed or status in (204, 304)
        self.is_last = self.is_last or not self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        if self._inflater is None:
            self._add(piece)
            return
        try:
            for part in self._inflater.feed(piece):
                self._add(part)
        except zlib.error:
            raise Malformed("content-encoding") from None

    def _add(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._size += len(piece)
        if self._size > self._room:
            if self._wants_all or self._size > MAX_INFLATED_BYTES:
                raise ReplyTooLarge
            if not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._has_head:
            self._finish()

    def _finish(self) -> None:
        if self._inflater is not None and not self._inflater.is_whole:
            self._fail(ConnectionCut("content-encoding"))
        else:
            self.is_whole = True
