"""Answers to bytes: SSE events as chunks come, or one JSON object at the end. Errors to OpenAI's envelope."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson

from gateway.chat import Answer, ChatRequest, Chunk, Json
from gateway.errors import BackendError, GatewayError, UpstreamRefused
from gateway.trace import RequestTrace, Totals

KEEP_ALIVE_S = 10.0  # of silence; node clients cut a connection at 30 s
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
RawHeaders = list[tuple[bytes, bytes]]


def error_body(error: GatewayError) -> bytes:
    """OpenAI's error envelope."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return orjson.dumps({"error": fields})


def error_headers(error: GatewayError) -> RawHeaders:
    headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    is_ours = isinstance(error, BackendError) and not isinstance(error, UpstreamRefused)
    if is_ours and error.status >= 500:  # SDKs know what to make of an upstream's own
        headers.append((b"x-should-retry", b"true" if error.retryable else b"false"))
    return headers


def gateway_object(trace: RequestTrace, totals: Totals, answer: Answer) -> Json:
    """What the gateway has to say of an answer: who gave it, by which way, and what all of it cost."""
    out: Json = {
        "trace": trace.id,
        "policy": trace.policy,
        "route": trace.route,
        "model": answer.model,
        "path": totals.path,
        "cost_usd": totals.cost_usd,
        "usage": {
            "input_tokens": totals.input_tokens,
            "output_tokens": totals.output_tokens,
            "estimated": totals.estimated,
        },
    }
    if answer.model in totals.dropped:
        out["dropped"] = list(totals.dropped[answer.model])
    if answer.checks_failed:
        out["checks_failed"] = list(answer.checks_failed)
    return out


def trace_headers(trace: RequestTrace, totals: Totals, model: str | None, *, cost: bool) -> RawHeaders:
    """The x-gateway-* headers as far as they are known."""
    headers = [(b"x-gateway-trace", trace.id.encode())]
    for name, value in (
        (b"x-gateway-policy", trace.policy),
        (b"x-gateway-route", trace.route),
        (b"x-gateway-model", model),
        (b"x-gateway-path", totals.path),
        (b"x-gateway-dropped", ",".join(totals.dropped.get(model or "", ()))),
    ):
        if value:
            headers.append((name, value.encode("latin-1", "replace")))
    if cost and totals.cost_usd is not None:
        headers.append((b"x-gateway-cost-usd", b"%.8f" % totals.cost_usd))
    return headers


async def send_whole(send: Any, status: int, headers: RawHeaders, body: bytes) -> None:
    """A reply that is not streamed, over ASGI's `send`; a body is JSON."""
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class Reply:
    """Writes one chat reply. `emit` is handed to the responder; `finish` or `fail` ends it, once."""

    def __init__(self, send: Any, trace: RequestTrace) -> None:
        self._send = send
        self._trace = trace
        self._streams = self._shows_usage = False
        self._last: Chunk | None = None  # the chunk with finish_reason, kept until usage is known
        self._introduced: set[int] = set()  # choices whose role has been said
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None
        self._touched = 0.0
        self.started = False

    def suit(self, request: ChatRequest) -> None:
        """Answer in the form that this request asks for."""
        self._streams = request.stream
        self._shows_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))

    # -- streaming -----------------------------------------------------------------------------------------------

    def watch_silence(self) -> None:
        """From now on a comment goes out whenever nothing has been said for KEEP_ALIVE_S."""
        loop = asyncio.get_running_loop()
        self._touched = loop.time()
        self._timer = loop.call_later(KEEP_ALIVE_S, self._on_silence)

    def _on_silence(self) -> None:
        loop = asyncio.get_running_loop()
        quiet_s = loop.time() - self._touched
        if quiet_s >= KEEP_ALIVE_S * 0.99 and not self._busy:
            self._ping = loop.create_task(self._write(KEEP_ALIVE))
            quiet_s = 0.0
        self._timer = loop.call_later(
            KEEP_ALIVE_S - quiet_s if quiet_s < KEEP_ALIVE_S else KEEP_ALIVE_S, self._on_silence
        )

    async def emit(self, chunk: Chunk) -> None:
        if not self._streams:
            return
        if self._trace.first_chunk is None:
            self._trace.first_chunk = time.monotonic()
        self._dress(chunk.data)
        ready, self._last = self._last, None  # another choice goes on, so the one kept was not the last
        if chunk.is_last_of_a_choice:
            self._last = chunk
        out = (ready.encode() if ready else b"") + (b"" if self._last else chunk.encode())
        if out:
            await self._write(out, model=str(chunk.data.get("model")))

    def _dress(self, data: Json) -> None:
        """One id and date in every chunk, the role in each choice's first, `usage: null` where usage was asked for."""
        data["id"] = f"chatcmpl-{self._trace.id}"
        data["object"] = "chat.completion.chunk"
        data["created"] = int(self._trace.created)
        if self._shows_usage:
            data["usage"] = None
        for choice in data["choices"]:
            delta = choice.get("delta")
            if delta is None:
                delta = choice["delta"] = {}
            index = choice.get("index", 0)
            if index in self._introduced:
                delta.pop("role", None)
            else:
                self._introduced.add(index)
                delta["role"] = "assistant"
            choice.setdefault("finish_reason", None)

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
            self._touched = asyncio.get_running_loop().time()

    def _stream_headers(self, model: str | None) -> RawHeaders:
        return [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *trace_headers(self._trace, self._trace.totals(), model, cost=False),
        ]

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(self, answer: Answer) -> None:
        if self._streams:
            await self._finish_stream(answer)
        else:
            await self._finish_whole(answer)

    async def _finish_stream(self, answer: Answer) -> None:
        out = b""
        if self._last is not None:
            self._last.data["gateway"] = gateway_object(self._trace, self._trace.totals(), answer)
            out += self._last.encode()
        if self._shows_usage and answer.body.get("usage"):
            head: Json = {"choices": [], "model": answer.model}
            self._dress(head)
            out += Chunk({**head, "usage": answer.body["usage"]}).encode()
        await self._write(out + DONE, model=answer.model, more=False)

    async def _finish_whole(self, answer: Answer) -> None:
        trace, totals = self._trace, self._trace.totals()
        body = {
            **answer.body,
            "id": f"chatcmpl-{trace.id}",
            "object": "chat.completion",
            "created": int(trace.created),
            "gateway": gateway_object(trace, totals, answer),
        }
        headers = trace_headers(trace, totals, answer.model, cost=True)
        await self._send_whole(200, headers, orjson.dumps(body))

    async def fail(self, error: GatewayError) -> None:
        """An HTTP status with JSON while nothing is out, else a loud event and no [DONE]."""
        self._trace.error = error.code or error.type
        body = error_body(error)
        if self.started:
            await self._write(b"data: " + body + b"\n\n", more=False)
            return
        headers = [*trace_headers(self._trace, self._trace.totals(), None, cost=True), *error_headers(error)]
        await self._send_whole(error.status, headers, body)

    async def _send_whole(self, status: int, headers: RawHeaders, body: bytes) -> None:
        self.started = True
        self._trace.status = status
        await send_whole(self._send, status, headers, body)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ping is not None:
            self._ping.cancel()
