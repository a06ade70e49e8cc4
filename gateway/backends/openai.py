"""The leaf for OpenAI-compatible HTTP upstreams: remote APIs and the local engines alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway import __version__
from gateway.backends.admission import admit
from gateway.backends.replies import as_chunk, error_of, read_completion, read_event
from gateway.chat import Answer, ChatRequest, Chunk, Draft, Emit, Json
from gateway.engines import Lease
from gateway.errors import BackendTimeout, BackendUnavailable, BadBackendReply
from gateway.tokens import estimate, estimate_request
from gateway.trace import Price, Spend, Trace, Usage
from gateway.transport import (
    ConnectFailed,
    ConnectionCut,
    ConnectTimeout,
    HttpClient,
    HttpReply,
    ReplyTooLarge,
    Timeouts,
)
from gateway.transport.sse import EventTooLarge, SseDecoder

DONE = b"[DONE]"
MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
LENGTH_LIMITS = ("max_tokens", "max_completion_tokens")
AFTER_FINISH_S = 5.0  # how long to wait for usage and [DONE] once every choice has finished

TakeLease = Callable[[float | None], AbstractAsyncContextManager[Lease]]


class Standing:
    """A lease on an upstream that somebody else keeps running: always there, for any number of requests."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def __call__(self, deadline: float | None) -> Standing:
        return self

    async def __aenter__(self) -> Lease:
        return self._lease

    async def __aexit__(self, *error: object) -> None:
        pass


@dataclass(frozen=True)
class OpenAIBackend:
    """One model behind `POST {url}/chat/completions`.

    Args:
        name: its name in models.yaml, which replies carry as `model`.
        take_lease: gives the right to use it, and where it is; takes the deadline (`time.monotonic()`).
        defaults: body fields set where the client left them out.
        accepts: kinds of content part it takes, of text, image, audio, file.
        local: its engine runs here. It must not be handed addresses to fetch, and is always asked for a stream, since
            llama.cpp notices at the next token that nobody reads a stream any more, but finishes a whole answer.
        headers: sent with each request, beside the key.
    """

    name: str
    client: HttpClient
    take_lease: TakeLease
    timeouts: Timeouts = Timeouts()
    price: Price | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    accepts: frozenset[str] = frozenset({"text"})
    local: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        with trace.span("model", self.name) as span:
            admit(request, self.name, self.accepts, self.price, self._longest_answer(request), local=self.local)
            due = time.monotonic() + self.timeouts.total_s
            due = due if request.deadline is None else min(due, request.deadline)
            async with self.take_lease(due) as lease:
                return await _Call(self, request, lease, emit, span, due).run()

    def _longest_answer(self, request: ChatRequest) -> int | None:
        """Tokens that the answer may have at most, as far as anybody has said."""
        said = request.body if request.limits_length else self.defaults
        limit = said.get("max_completion_tokens") or said.get("max_tokens")
        return limit if isinstance(limit, int) else None

    def streams(self, request: ChatRequest) -> bool:
        """Is the upstream asked to stream? Then chunks are emitted, also where the client wants the answer whole."""
        return request.stream or self.local

    def body_for(self, request: ChatRequest, model_id: str) -> bytes:
        body = {**request.body, "model": model_id}
        for name, value in self.defaults.items():
            if body.get(name) is None and not (name in LENGTH_LIMITS and request.limits_length):
                body[name] = value
        if self.streams(request):
            body["stream"] = True
            body["stream_options"] = {**(request.body.get("stream_options") or {}), "include_usage": True}
        return orjson.dumps(body)

    def headers_for(self, request: ChatRequest, lease: Lease) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",  # a compressed stream comes in blocks, not word by word
            "accept": "text/event-stream" if self.streams(request) else "application/json",
            "user-agent": f"onion-gateway/{__version__}",
            "x-gateway-hops": str(request.hops + 1),
            **self.headers,
        }
        if self.local:  # llama.cpp closes the connection after each stream and does not say so
            headers["connection"] = "close"
        if lease.key:
            headers["authorization"] = f"Bearer {lease.key}"
        return headers


class _Call:
    """One call of the upstream: what it has said so far, and what it costs however it ends."""

    def __init__(
        self, backend: OpenAIBackend, request: ChatRequest, lease: Lease, emit: Emit, span: Trace, due: float
    ) -> None:
        self.backend, self.request, self.lease = backend, request, lease
        self.emit, self.span, self.due = emit, span, due
        self.name = backend.name
        self.secrets = (lease.key or "", lease.url, *backend.headers.values())
        self.started = time.monotonic()
        self.was_sent = False
        self.draft = Draft()

    async def run(self) -> Answer:
        backend, reply = self.backend, None
        try:
            async with asyncio.timeout(self._seconds_left()):
                reply = await self._post()
                self.was_sent = True
                if reply.status != 200:
                    raise await self._refusal(reply)
                if not backend.streams(self.request) or "json" in reply.headers.get("content-type", ""):
                    return await self._whole(reply)
                await self._stream(reply)
            self.draft.head["model"] = self.name
            return Answer(self.draft.completion())
        except TimeoutError:
            self.was_sent = True  # nobody knows how far it got: count it rather than call it free
            raise BackendTimeout(f"model '{self.name}' did not answer in time") from None
        except ConnectTimeout:
            raise BackendTimeout(f"model '{self.name}': the upstream does not take connections") from None
        except ConnectFailed:
            raise BackendUnavailable(f"model '{self.name}' cannot be reached") from None
        except ConnectionCut:
            self.was_sent = True
            raise BadBackendReply(f"model '{self.name}': the upstream broke the connection off") from None
        except ReplyTooLarge:
            raise BadBackendReply(f"model '{self.name}': the upstream's reply is too large") from None
        except EventTooLarge:
            raise BadBackendReply(
                f"model '{self.name}': the upstream's stream holds an event that is too large"
            ) from None
        except asyncio.CancelledError:
            self.was_sent = True
            raise
        finally:
            if reply is not None:
                reply.close()
            self._write_spend()

    async def _post(self) -> HttpReply:
        backend, request = self.backend, self.request
        posting = backend.client.post(
            f"{self.lease.url}/chat/completions",
            backend.headers_for(request, self.lease),
            backend.body_for(request, self.lease.id),
            connect_s=backend.timeouts.connect_s,
        )
        if not backend.streams(request):
            return await posting
        async with asyncio.timeout(backend.timeouts.first_token_s):
            return await posting

    def _seconds_left(self) -> float:
        return max(0.0, self.due - time.monotonic())

    async def _refusal(self, reply: HttpReply) -> Exception:
        self.was_sent = reply.status >= 500
        try:
            body = await reply.read(MAX_ERROR_BYTES)
        except (ConnectionCut, ReplyTooLarge):
            body = b""
        return error_of(self.name, reply.status, reply.headers, body, self.secrets)

    async def _whole(self, reply: HttpReply) -> Answer:
        completion = read_completion(self.name, await reply.read(MAX_REPLY_BYTES), self.secrets)
        completion["model"] = self.name
        self.draft.usage = completion.get("usage")
        if self.backend.streams(self.request):  # asked to, and it did not
            await self.emit(Chunk(as_chunk(completion)))
        if Usage.read(self.draft.usage) is None:
            self.draft = Draft.of(completion)
        return Answer(completion)

    async def _stream(self, reply: HttpReply) -> None:
        decoder, pace, piece = SseDecoder(), _Pace(self), b""
        done = False
        while not done:
            try:
                piece = await pace.read(reply)
                payloads = decoder.feed(piece) if piece else decoder.flush()
                done = not piece or DONE in payloads
                for payload in payloads:
                    if payload == DONE:
                        break
                    await self._take(read_event(self.name, payload, self.secrets), pace)
            except (TimeoutError, ConnectionCut, EventTooLarge, BadBackendReply):
                if not pace.finished:
                    raise
                break  # the answer is whole: only usage or [DONE] is missing
        if not pace.finished:
            if not (piece and self.draft.choices):  # the stream just ended, without a word of farewell
                raise BadBackendReply(f"model '{self.name}': the upstream's stream ended before the answer did")
            await self._close_open_choices()
        self.draft.complete = True

    async def _take(self, event: Json, pace: _Pace) -> None:
        event["choices"] = [c for c in event["choices"] if c.get("index", 0) not in pace.finished_choices]
        self.draft.add(event)
        event["model"] = self.name
        event.pop("usage", None)  # read into the draft; the API layer shows it where the client asked
        chunk = Chunk(event)
        pace.note(chunk)
        if chunk.choices:
            await self.emit(chunk)
            pace.rest()

    async def _close_open_choices(self) -> None:
        """The upstream said [DONE] and never why: say it in its place."""
        for choice in self.draft.choices:
            if choice.finish_reason is None:
                choice.finish_reason = "tool_calls" if choice.calls else "stop"
                end = {"index": choice.index, "delta": {}, "finish_reason": choice.finish_reason}
                await self.emit(Chunk({"model": self.name, "choices": [end]}))

    def _write_spend(self) -> None:
        if not self.was_sent:
            return
        usage = Usage.read(self.draft.usage)
        if usage is None:
            said = "".join(choice.text + choice.text_field("reasoning_content") for choice in self.draft.choices)
            calls = orjson.dumps([choice.tool_calls for choice in self.draft.choices if choice.calls]).decode()
            said += calls if len(calls) > 2 else ""
            usage = Usage(estimate_request(self.request.body), estimate(said), estimated=True)
        busy_s = time.monotonic() - self.started
        price = self.backend.price
        self.span.spend = Spend(self.name, usage, price.cost_usd(usage, busy_s) if price else None, busy_s)


class _Pace:
    """How long the next read of a stream may take: until the first token, then between tokens."""

    def __init__(self, call: _Call) -> None:
        self.call = call
        self.limit_at = call.started + call.backend.timeouts.first_token_s
        self.between_s = call.backend.timeouts.between_tokens_s
        self.wanted_choices = call.request.body.get("n") or 1
        self.finished_choices: set[int] = set()
        self.spoke = False

    @property
    def finished(self) -> bool:
        return len(self.finished_choices) >= self.wanted_choices

    async def read(self, reply: HttpReply) -> bytes:
        async with asyncio.timeout(max(0.0, self.limit_at - time.monotonic())):
            return await reply.read_some()

    def note(self, chunk: Chunk) -> None:
        if not self.spoke and not chunk.is_silent:
            self.spoke = True
            self.call.span.note(first_token_ms=round((time.monotonic() - self.call.started) * 1e3, 1))
        self.finished_choices.update(c.get("index", 0) for c in chunk.choices if c.get("finish_reason"))
        self.rest()

    def rest(self) -> None:
        """Something came, or the client took its time to read it: the wait starts anew."""
        if self.spoke:
            self.limit_at = time.monotonic() + (AFTER_FINISH_S if self.finished else self.between_s)
