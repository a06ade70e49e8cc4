"""One request over a connection and its answer: what ASGI's `receive` and `send` do, and an answer in one call."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

from gateway.api.asgi import App, Scope

log = logging.getLogger(__name__)
STATUS_LINES: dict[int, bytes] = {
    known.value: b"HTTP/1.1 %d %b\r\n" % (known, known.phrase.encode()) for known in http.HTTPStatus
}
WITHOUT_BODY = (204, 304)
Headers = list[tuple[bytes, bytes]]


class Cycle:
    """Takes the place of uvicorn's, whose protocol reads and sets the attributes without an underscore.

    The head of an answer waits for the first piece of its body, so that both are one write.
    """

    __slots__ = (
        "_default_headers",
        "_flow",
        "_head",
        "_left",
        "_on_gone",
        "_on_response",
        "_transport",
        "body",
        "disconnected",
        "ends_by_closing",
        "is_chunked",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "stays_if_asked",
        "wants_continue",
    )

    def __init__(
        self,
        scope: Scope,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: Headers,
        on_response: Callable[[], None],
        *,
        keep_alive: bool,
    ) -> None:
        self.scope, self.keep_alive = scope, keep_alive
        self._transport, self._flow = transport, flow
        self._default_headers, self._on_response = default_headers, on_response
        self.message_event = asyncio.Event()
        self.body = bytearray()
        self.more_body = True
        self.disconnected = self.response_started = self.response_complete = False
        self.wants_continue = False
        """The client waits for a word before it sends the body."""
        self.stays_if_asked = False
        self.ends_by_closing = False
        """HTTP/1.0 knows no chunks: a stream ends with the connection."""
        self.is_chunked = False
        self._on_gone: Callable[[], None] | None = None
        self._left = 0  # bytes of the body that are still to be sent
        self._head = b""

    async def run_asgi(self, app: App) -> None:
        try:
            await app(self.scope, self.receive, self)
        except asyncio.CancelledError:
            if not self.response_complete:  # a stopping server cancels what is open
                self._transport.close()
                raise
        except Exception:
            log.exception("%s %s failed", self.scope["method"], self.scope["path"])
        if not self.response_complete and not self.disconnected:
            self._transport.close()

    def gone(self) -> None:
        """The connection is lost."""
        if not self.response_complete:
            self.disconnected = True
            if self._on_gone is not None:
                self._on_gone()
        self.message_event.set()

    def watch(self, on_gone: Callable[[], None] | None) -> None:
        """An ASGI extension: have this called once the client has left, for None no more."""
        self._on_gone = on_gone
        if on_gone is not None and self.disconnected:
            on_gone()

    async def receive(self) -> dict[str, Any]:
        if self.wants_continue:
            self.wants_continue = False
            self.keep_alive = self.stays_if_asked
            if not self._transport.is_closing():
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.response_complete:
            if not self.message_event.is_set():
                self._flow.resume_reading()
                await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        self._flow.resume_reading()  # also for the end of the connection to be seen
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """All of an answer, its length among the headers."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if not self.disconnected:
            self._start(status, headers)
            self._go_on(body, is_last=True)

    async def __call__(self, message: Any) -> None:
        """ASGI's `send`."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message.get("headers") or ())
        elif not self.response_started or self.response_complete:
            raise RuntimeError("a body must come between an answer's head and its end")
        else:
            self._go_on(message.get("body", b""), is_last=not message.get("more_body"))

    def _start(self, status: int, given: Any) -> None:
        if self.response_started:
            raise RuntimeError("an answer has one head")
        self.response_started = True
        self.wants_continue = False
        parts = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        length = closes = False
        headers = [*self._default_headers, *given]
        lines = len(headers) + 2
        for name, value in headers:
            if name == b"content-length":
                length, self._left = True, int(value)
            elif name == b"connection" and b"close" in value.lower():
                closes, self.keep_alive = True, False
            parts += (name, b": ", value, b"\r\n")
        if not length and self.scope["method"] != "HEAD" and status not in WITHOUT_BODY:
            if self.ends_by_closing:
                self.keep_alive = False
            else:
                self.is_chunked = True
                lines += 1
                parts.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not closes:
            lines += 1
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        if not head.count(b"\n") == head.count(b"\r") == lines:
            raise RuntimeError("a header's value holds what no header may")
        self._head = head

    def _go_on(self, body: bytes, *, is_last: bool) -> None:
        if self.scope["method"] == "HEAD":
            self._left, body = 0, b""
        elif self.is_chunked:
            end = b"\r\n0\r\n\r\n" if is_last else b"\r\n"
            body = b"%x\r\n%b%b" % (len(body), body, end) if body else b"0\r\n\r\n" if is_last else b""
        elif not self.ends_by_closing:
            self._left -= len(body)
            if self._left < 0 or (is_last and self._left):
                raise RuntimeError("the body is not as long as its content-length says")
        if self._head:
            body, self._head = self._head + body, b""
        if body:
            self._transport.write(body)
        if is_last:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self._transport.close()
            self._on_response()
