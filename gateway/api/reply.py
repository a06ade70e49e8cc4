"""Sending a reply: what a dialect's writer makes of it, as chunks come or whole at the end, or an error."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Sequence

from gateway.api.asgi import RawHeaders, Send, error_headers, send_whole
from gateway.api.body import ClientGone
from gateway.api.dialect import Writer
from gateway.api.envelopes import Envelope
from gateway.api.unexpected import unexpected
from gateway.chat import Answer, Json
from gateway.chunks import Chunk
from gateway.errors import BackendUnavailable, GatewayError
from gateway.trace import CACHE, RequestTrace, Totals

CLIENT_CLOSED = 499  # nginx's word for it, in journal and metrics only
KEEP_ALIVE_S = 10.0  # of silence; node clients cut a connection at 30 s
NOT_IN_A_NAME = re.compile(r"[^!-+\--~]")  # all but printable ASCII; commas stand between names
MAX_NAME, MAX_NAMES = 80, 32  # some clients and proxies refuse headers of more than 8 KB


def gateway_object(trace: RequestTrace, totals: Totals, answer: Answer) -> Json:
    """What the gateway has to say of an answer: who gave it, by which way, and what all of it cost."""
    out: Json = {
        "trace": trace.id,
        "policy": trace.policy,
        "route": trace.route,
        "model": answer.model,
        "path": totals.path,
        "cost_usd": totals.cost_usd,
        "energy_j": totals.joules,
        "usage": {
            "input_tokens": totals.input_tokens,
            "output_tokens": totals.output_tokens,
            "estimated": totals.estimated,
        },
    }
    if answer.model in totals.dropped:
        out["dropped"] = list(totals.dropped[answer.model])
    if answer.model in totals.shards:
        out["shards"] = list(totals.shards[answer.model])
    if totals.cached is not None:
        out["cache"] = totals.cached[CACHE]
        if "age_s" in totals.cached:
            out["age"] = totals.cached["age_s"]
    if answer.checks_failed:
        out["checks_failed"] = list(answer.checks_failed)
    return out


def trace_headers(trace: RequestTrace, totals: Totals, model: str | None, *, cost: bool) -> RawHeaders:
    """The x-gateway-* headers as far as they are known."""
    headers = [(b"x-gateway-trace", trace.id.encode())]
    if trace.policy:
        headers.append((b"x-gateway-policy", trace.policy.encode("latin-1", "replace")))
    if trace.route:
        headers.append((b"x-gateway-route", trace.route.encode("latin-1", "replace")))
    if trace.policy:
        headers.append((b"x-gateway-quality", trace.quality.encode()))
    if model:
        headers.append((b"x-gateway-model", model.encode("latin-1", "replace")))
    if totals.path:
        headers.append((b"x-gateway-path", totals.path.encode("latin-1", "replace")))
    if model is not None and model in totals.dropped:
        headers.append((b"x-gateway-dropped", _in_a_header(totals.dropped[model]).encode("ascii")))
    if model is not None and totals.shards.get(model):
        headers.append((b"x-gateway-shards", ",".join(totals.shards[model]).encode("ascii")))
    if totals.cached is not None and CACHE in totals.cached:
        headers.append((b"x-gateway-cache", totals.cached[CACHE].encode()))
        if "age_s" in totals.cached:
            headers.append((b"age", b"%d" % totals.cached["age_s"]))
    if cost and totals.cost_usd is not None:
        headers.append((b"x-gateway-cost-usd", b"%.8f" % totals.cost_usd))
    return headers


def _in_a_header(names: Sequence[str]) -> str:
    """Clients make some of them up, so they may hold anything, a line's end included, and be any number."""
    return ",".join(NOT_IN_A_NAME.sub("_", name[:MAX_NAME]) for name in names[:MAX_NAMES])


class Reply:
    """Sends one chat reply. `emit` is handed to the responder; `finish` or `fail` ends it, once."""

    def __init__(self, send: Send, trace: RequestTrace, envelope: Envelope) -> None:
        self._send, self._trace, self._envelope = send, trace, envelope
        self._writer: Writer | None = None
        self._streams = False
        self._busy = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None
        self._touched = 0.0
        self._waiting = b""  # for what follows it at once
        self.started = False

    def suit(self, writer: Writer, *, streams: bool) -> None:
        """From now on it is known in which form to answer."""
        self._writer, self._streams = writer, streams

    # -- streaming -----------------------------------------------------------------------------------------------

    def watch_silence(self) -> None:
        """From now on a sign of life goes out whenever nothing has been said for KEEP_ALIVE_S."""
        self._touched = self._loop.time()
        self._timer = self._loop.call_later(KEEP_ALIVE_S, self._on_silence)

    def _on_silence(self) -> None:
        loop = self._loop
        quiet_s = loop.time() - self._touched
        if quiet_s >= KEEP_ALIVE_S * 0.99 and not self._busy and self._writer is not None:
            self._ping = loop.create_task(self._write(self._writer.keep_alive))
            quiet_s = 0.0
        self._timer = loop.call_later(
            KEEP_ALIVE_S - quiet_s if quiet_s < KEEP_ALIVE_S else KEEP_ALIVE_S, self._on_silence
        )

    async def emit(self, chunk: Chunk) -> None:
        if not self._streams:
            return
        assert self._writer is not None  # whoever streams has said in which form
        if self._trace.first_chunk is None:
            self._trace.first_chunk = time.monotonic()
        out = self._writer.chunk(chunk)
        if self._waiting:
            out, self._waiting = self._waiting + out, b""
        if chunk.is_followed:
            self._waiting = out
        elif out:
            await self._write(out, model=None if self.started else chunk.model)

    async def _write(self, data: bytes, *, model: str | None = None, more: bool = True) -> None:
        self._busy = True
        try:
            if not self.started:
                self.started = True
                self._trace.status = 200
                await self._send({"type": "http.response.start", "status": 200, "headers": self._stream_headers(model)})
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
        finally:
            self._busy = False
            self._touched = self._loop.time()

    def _stream_headers(self, model: str | None) -> RawHeaders:
        assert self._writer is not None
        return [
            (b"content-type", self._writer.media_type),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *trace_headers(self._trace, self._trace.totals(), model, cost=False),
        ]

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(self, answer: Answer) -> None:
        assert self._writer is not None
        trace, totals = self._trace, self._trace.settle()
        about = gateway_object(trace, totals, answer)
        if self._streams:
            end = await self._writer.end(answer, about)
            await self._write(self._waiting + end, model=answer.model, more=False)
        else:
            body = await self._writer.whole(answer, about)
            await self._send_whole(200, trace_headers(trace, totals, answer.model, cost=True), body)

    async def fail(self, error: GatewayError) -> None:
        """An HTTP status with JSON while nothing is out, else a loud event and no [DONE]."""
        self._trace.error = error.code or error.type
        if (self.started or self._waiting) and self._writer is not None:
            await self._write(self._waiting + self._writer.failure(error), more=False)
            return
        headers = [*trace_headers(self._trace, self._trace.totals(), None, cost=True), *error_headers(error)]
        await self._send_whole(error.status, headers, self._envelope(error))

    async def end_by(self, error: BaseException) -> None:
        """Tell the client of what broke its request off. Raises it again where it is not this request's alone."""
        if isinstance(error, ClientGone):
            self._trace.status, self._trace.error = CLIENT_CLOSED, "client_closed"
        elif isinstance(error, GatewayError):
            await self.fail(error)
        elif isinstance(error, Exception):
            await self.fail(unexpected(error, self._trace.id))
        else:
            if isinstance(error, asyncio.CancelledError):
                await self.fail(BackendUnavailable("the server is stopping", headers={"retry-after": "1"}))
            raise error

    def _send_whole(self, status: int, headers: RawHeaders, body: bytes) -> Awaitable[None]:
        self.started = True
        self._trace.status = status
        return send_whole(self._send, status, headers, body)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ping is not None:
            self._ping.cancel()
