"""HTTP/1.1 on one connection: uvicorn's protocol, with limits on what a client may make it wait for and hold.

Beyond uvicorn's own: time limits on heads, bodies and idle connections; a limit on the size of a head; refusals in
OpenAI's envelope; trailers dropped; `Upgrade: h2c` (which Java's client sends with its first request) passed over
without losing the body; HTTP/1.0 without chunks; and a refusal of a body that is still coming reaches the client.

A connection has no timer of its own. It keeps one deadline, and the server looks at all of them twice a second.
"""

from __future__ import annotations

import asyncio
import http
from typing import NoReturn, cast
from urllib.parse import unquote, urlsplit

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.asgi import Scope
from gateway.api.body import WATCH
from gateway.api.envelopes import openai_error
from gateway.errors import GatewayError, RequestError
from gateway.http_cycle import Cycle
from gateway.trace import new_id

HEAD_S = 10.0  # for a whole head, from its first byte
BODY_S = 30.0  # of silence within a body
KEEP_ALIVE_S = 130.0  # idle; longer than proxies keep a connection (nginx 60, Go 90, Caddy 120 s), so theirs ends first
STALL_S = 300.0  # for a client that takes nothing of its answer: a model's place is held for it
LINGER_S = 5.0  # of silence after a last word, while the client may still be sending
LINGER_TOTAL_S = 30.0
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
MAX_PIPELINED = 256
MAX_FRAMING_BYTES = 64 * 1024  # of chunk extensions and trailers between two bytes of a body
TOO_LARGE = f"the request's head is larger than {MAX_HEAD_BYTES // 1024} KiB"
NEVER = float("inf")

IDLE, HEAD, BODY, WHOLE, LINGERING = range(5)  # what the connection waits for; WHOLE: for the answer
NOTED = frozenset({b"host", b"expect", b"transfer-encoding"})
ASGI = {"version": "3.0", "spec_version": "2.3"}
HOP_BY_HOP = frozenset({b"upgrade", b"http2-settings"})


class _Refused(Exception):
    """Raised within a callback of the parser, which then stops; `_refusal` says what to answer."""


class _Transport:
    """What uvicorn sees of the transport: `close` may have to wait for the rest of a body."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: HttpProtocol, real: asyncio.Transport) -> None:
        self.write = real.write
        self.close = protocol.close_gently
        self.is_closing = protocol.is_closing


class HttpProtocol(HttpToolsProtocol):
    cycle: Cycle  # type: ignore[assignment]
    _real: asyncio.Transport
    _phase = IDLE
    _deadline: float | None = NEVER  # None: to be set, for a head that has just begun
    _linger_until = NEVER
    _bytes = 0  # of the head so far; of a body, since the last piece of it
    _refusal: tuple[int, str] | None = None
    _host: bytes | None = None
    _stalled_at = NEVER  # since when the client takes nothing

    # -- the connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._real = transport
        self.transport = cast(asyncio.Transport, _Transport(self, transport))
        self._deadline = self.loop.time() + KEEP_ALIVE_S

    def connection_lost(self, exc: Exception | None) -> None:
        if self.cycle is not None:
            self.cycle.gone()
        super().connection_lost(exc)

    def is_closing(self) -> bool:
        return self._phase == LINGERING or self._real.is_closing()

    def close_gently(self) -> None:
        """Close after what has been written. While a request is still coming in, closing would reset the connection
        and take the answer back, so what comes is read and thrown away for a while."""
        if self._phase not in (HEAD, BODY) or self._real.is_closing() or not self._real.can_write_eof():
            self._real.close()
            return
        self._phase = LINGERING
        now = self.loop.time()
        self._deadline, self._linger_until = now + LINGER_S, now + LINGER_TOTAL_S
        self._real.write_eof()
        self.flow.resume_reading()

    def shutdown(self) -> None:
        """The server stops: an idle connection is closed, another one after its answer."""
        if self._phase == LINGERING:
            self._real.close()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_at = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled_at = NEVER

    def look(self, now: float) -> None:
        """End what has been waited for too long. Called for every connection now and then."""
        if now - self._stalled_at > STALL_S:
            self._real.abort()
            return
        if self._deadline is None or now < self._deadline:
            return
        if self._phase in (IDLE, LINGERING):
            self._real.close()
            return
        is_answering = self.cycle is not None and not self.cycle.response_complete
        mine = self._phase == BODY and is_answering and not self.cycle.response_started and not self.pipeline
        if self.flow.read_paused or (is_answering and not mine):
            self._deadline = now + (HEAD_S if self._phase == HEAD else BODY_S)  # it is we who let it wait
        elif self._phase == BODY and not mine:
            self._real.close()  # answered already
        else:
            what = "head" if self._phase == HEAD else "body"
            self._refuse(408, f"the request's {what} did not come in time")

    # -- what comes in -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._phase == LINGERING:
            self._deadline = min(self.loop.time() + LINGER_S, self._linger_until)
            return
        if self._refusal is not None:
            return
        self._bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(*(self._refusal or (400, _what_is_wrong(error))))
            return
        phase = self._phase
        if phase == WHOLE:
            self._deadline = NEVER
        elif phase == BODY:
            self._deadline = self.loop.time() + BODY_S
            if self._bytes > MAX_FRAMING_BYTES:
                self._refuse(400, "too much between the chunks of the body")
        elif phase == HEAD:
            if self._deadline is None:
                self._deadline = self.loop.time() + HEAD_S
            if self._bytes > MAX_HEAD_BYTES:
                self._refuse(431, TOO_LARGE)

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._phase = HEAD
        self._deadline = None
        self._host = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase == BODY:
            return  # a trailer: it must not pass for a header
        name = name.lower()
        if name in NOTED:
            self._look_at(name, value)
        self.headers.append((name, value))

    def _look_at(self, name: bytes, value: bytes) -> None:
        value = value.strip().lower()
        if name == b"host":
            self._host = value
        elif name == b"expect":
            self.expect_100_continue = value == b"100-continue"
        elif value != b"chunked":
            self._stop(501, "the only transfer encoding that is understood is chunked")
        elif self.parser.get_http_version() == "1.0":
            self._stop(400, "HTTP/1.0 has no transfer encodings")

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if version != "1.1" or self.pipeline or self._bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._check_head(version)
        if self._host is None and version == "1.1":
            self._stop(400, "the header 'host' is missing")
        upgrades = self.parser.should_upgrade()
        if upgrades and self.parser.get_method() == b"CONNECT":
            self._stop(400, "this is no forward proxy")
        if not self.url.startswith(b"/"):
            self._check_target()
        self._phase = BODY
        self._bytes = 0
        if upgrades:
            return  # comes again without it, see `_go_on_without_upgrade`
        self._begin(version)

    def _begin(self, version: str) -> None:
        """A request for the application, at once or when its turn has come."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope: Scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "method": self.parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self.headers,
        }
        before = self.cycle
        cycle = self.cycle = Cycle(
            scope,
            self.transport,
            self.flow,
            self.server_state.default_headers,
            self.on_response_complete,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
        )
        scope["extensions"] = {WATCH: cycle.watch}
        cycle.ends_by_closing = version == "1.0"
        if self.expect_100_continue:
            # Where the client gets an answer instead, nobody knows whether the body comes, so the connection cannot be
            # used again.
            cycle.wants_continue, cycle.stays_if_asked, cycle.keep_alive = True, cycle.keep_alive, False
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)  # type: ignore[arg-type]
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]

    def _check_head(self, version: str) -> None:
        if version not in ("1.1", "1.0"):
            self._stop(505, "HTTP/1.1 is spoken here")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(400, f"more than {MAX_PIPELINED} requests wait on this connection")
        if len(self.headers) > MAX_HEADERS:
            self._stop(431, f"the request has more than {MAX_HEADERS} headers")
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._stop(431, TOO_LARGE)

    def _check_target(self) -> None:
        """A whole address, as a client sends that takes this for a proxy, may not name another host than the header:
        hosts are what a page is let in or kept out by."""
        parts = urlsplit(self.url.lower())
        if parts.netloc != self._host and (parts.netloc or parts.scheme):
            self._stop(400, "the address and the header 'host' name two hosts")

    def _stop(self, status: int, message: str) -> NoReturn:
        self._refusal = (status, message)
        raise _Refused

    def on_body(self, body: bytes) -> None:
        self._bytes = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._phase = WHOLE
        self._bytes = 0
        if self.parser.should_upgrade():
            return
        cycle = self.cycle
        if cycle.response_complete:
            self._rest()
            return
        cycle.more_body = False
        cycle.message_event.set()

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """The parser takes what follows for another protocol. It is HTTP/1.1 that is spoken here: read the same head
        again without the offer, and the body with it."""
        version = self.parser.get_http_version().encode()
        head = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version + b"\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                kept = (word.strip() for word in value.split(b","))
                value = b", ".join(word for word in kept if word.lower() not in HOP_BY_HOP)
            if name not in HOP_BY_HOP and (value or name != b"connection"):
                head.append(name + b": " + value + b"\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"".join((*head, b"\r\n", rest)))

    # -- what goes out -------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._write_refusal(*self._refusal)
            return
        elif self._phase == WHOLE:
            self._rest()
        self.flow.resume_reading()

    def _rest(self) -> None:
        self._phase = IDLE
        self._deadline = self.loop.time() + KEEP_ALIVE_S

    def _refuse(self, status: int, message: str) -> None:
        """Answer what was never a request for the application, when its turn has come, and close."""
        self._refusal = (status, message)
        cycle = self.cycle
        if self._phase == BODY and self.pipeline:
            self.pipeline.popleft()  # the request whose body is wrong, which has not begun
            self.flow.pause_reading()
        elif self._phase == BODY and cycle.response_started:
            self._real.close()
        elif self._phase != BODY and cycle is not None and not cycle.response_complete:
            self.flow.pause_reading()  # an answer before it is still to come
        else:
            if self._phase == BODY:
                cycle.disconnected = True  # for the application; the client gets the refusal
                cycle.message_event.set()
            self._write_refusal(status, message)

    def _write_refusal(self, status: int, message: str) -> None:
        body = openai_error(_error(status, message))
        head = [b"HTTP/1.1 %d %s" % (status, http.HTTPStatus(status).phrase.encode())]
        head += [name + b": " + value for name, value in self.server_state.default_headers]
        head += [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close"]
        head.append(b"x-request-id: " + new_id().encode())
        self._real.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        self._phase = HEAD  # more of it may come
        self.close_gently()


def _error(status: int, message: str) -> GatewayError:
    error = RequestError(message)
    error.status = status
    return error


def _what_is_wrong(error: httptools.HttpParserError) -> str:
    if isinstance(error, httptools.HttpParserCallbackError):
        return "the request's first line or a header is not HTTP/1.1"
    if "PRI" in str(error):
        return "HTTP/1.1 is spoken here, not HTTP/2"
    return f"this is not HTTP/1.1: {error}"
