"""One call of an OpenAI-compatible upstream, from its body to what it has cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from gateway.backends import onward
from gateway.backends.completions import address, wire_for
from gateway.backends.refusals import error_of
from gateway.backends.replies import as_chunk
from gateway.backends.shapes import CallNumbers
from gateway.backends.wire import Reader
from gateway.chat import Answer, ChatRequest, Emit
from gateway.chunks import Chunk, Shape
from gateway.costs.meter import Turn
from gateway.draft import Draft
from gateway.engines import Lease
from gateway.errors import (
    AddressFault,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    BadBackendReply,
    LoopDetected,
    ToolsRefused,
)
from gateway.providers import TOOL_FIELDS
from gateway.tokens import estimate, estimate_request
from gateway.tools import wanted_calls
from gateway.trace import Trace, Usage
from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout, HttpReply, ReplyTooLarge
from gateway.transport.sse import EventTooLarge, SseDecoder

if TYPE_CHECKING:
    from gateway.backends.openai import Facts, OpenAIBackend

MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_MODEL = 128  # characters of what an upstream calls its model
ERROR_WITHIN_S = 5.0  # what an error says may take so long: its status is known
AFTER_FINISH_S = 5.0  # how long to wait for usage and [DONE] once every choice has finished


class Call:
    """One call of the upstream: what it has said so far, and what it costs however it ends."""

    def __init__(
        self,
        backend: OpenAIBackend,
        request: ChatRequest,
        lease: Lease,
        facts: Facts,
        emit: Emit,
        span: Trace,
        due: float,
    ) -> None:
        self.backend, self.request, self.lease, self.facts = backend, request, lease, facts
        self.emit, self.span, self.due = emit, span, due
        span.upstream = (facts.provider.name, lease.id, lease.url)
        self.streams = request.stream or facts.provider.always_streams
        self.name = backend.name
        self.wire = wire_for(request, facts.provider, backend.wire, backend.name)
        self.secrets = (lease.key or "", lease.url, *backend.headers.values())
        self.started = time.monotonic()
        self.turn: Turn | None = None
        self.was_sent = False
        self.usage: Usage | None = None
        self.cost_told: float | None = None  # by another gateway
        self.joules_told: float | None = None
        self.draft = Draft()
        self.calls: dict[int, CallNumbers] = {}  # by choice
        self.shape: Shape | None = None  # of the last event, if it held no more than a text

    async def run(self) -> Answer:
        reply = None
        self.turn = self.backend.used.begin()
        try:
            reply = await self._post()
            self.was_sent = True
            if reply.status != 200:
                raise await self._refusal(reply)
            if not self.streams or "json" in reply.headers.get("content-type", ""):
                return await self._whole(reply)
            await self._stream(reply)
            self.draft.head["model"] = self.name
            return Answer(self.draft.completion())
        except TimeoutError:
            self.was_sent = True  # nobody knows how far it got: count it rather than call it free
            raise BackendTimeout(f"model '{self.name}' did not answer in time") from None
        except ConnectTimeout:
            error: BackendError = BackendTimeout(f"model '{self.name}': the upstream does not take connections")
            error.fault = AddressFault.UNREACHED
            raise error from None
        except ConnectFailed:
            error = BackendUnavailable(f"model '{self.name}' cannot be reached")
            error.fault = AddressFault.UNREACHED
            raise error from None
        except ConnectionCut:
            self.was_sent = True
            error = BadBackendReply(f"model '{self.name}': the upstream broke the connection off")
            if reply is None or (self.streams and not self.draft.choices):
                error.fault = AddressFault.CUT
            raise error from None
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
        backend, provider = self.backend, self.facts.provider
        unseen = TOOL_FIELDS if self.facts.tools is False else ()
        if unseen and self._needs_tools():
            raise ToolsRefused(f"model '{self.name}' cannot call tools, and this request wants a call", param="tools")
        body, self.span.dropped = backend.body_for(self.request, self.lease, provider, self.wire, unseen)
        headers = backend.headers_for(self.request, self.lease, provider, self.wire)
        return await backend.client.post(
            f"{address(self.lease.url, self.wire)}{backend.query}",
            headers if self.span.context is None else onward.traced(headers, self.span),
            body,
            connect_s=backend.timeouts.connect_s,
            due=min(self.due, self.started + backend.timeouts.first_token_s) if self.streams else self.due,
        )

    def _needs_tools(self) -> bool:
        body = self.request.body
        return wanted_calls(body) is not None or any(body.get(name) for name in self.request.must_show)

    async def _refusal(self, reply: HttpReply) -> Exception:
        if self.facts.provider.is_gateway:
            self.cost_told = onward.cost_told(None, reply.headers)
        self.was_sent = (reply.status >= 500 and reply.status != LoopDetected.status) or bool(self.cost_told)
        try:
            body = await reply.read(MAX_ERROR_BYTES, min(self.due, time.monotonic() + ERROR_WITHIN_S))
        except (TimeoutError, ConnectionCut, ReplyTooLarge):
            body = b""
        return error_of(self.name, reply.status, reply.headers, body, self.secrets)

    async def _whole(self, reply: HttpReply) -> Answer:
        completion = self.wire.whole(self.name, await reply.read(MAX_REPLY_BYTES, self.due), self.secrets)
        if self.span.context is not None:
            self._note_answered(completion.get("model"), [c.get("finish_reason") for c in completion["choices"]])
        completion["model"] = self.name
        if self.facts.provider.is_gateway:
            said = completion.pop("gateway", None)
            self.cost_told, self.joules_told = onward.cost_told(said, reply.headers), onward.joules_told(said)
        self.draft.usage = completion.get("usage")
        if self.streams:  # asked to, and it did not
            await self.emit(Chunk(as_chunk(completion)))
        self.usage = Usage.read(self.draft.usage)
        if self.usage is None:
            self.draft = Draft.of(completion)
        return Answer(completion)

    async def _stream(self, reply: HttpReply) -> None:
        decoder, pace, piece = SseDecoder(), Pace(self), b""
        reader = self.wire.reader(self.name, self.secrets)
        done = False
        while not done:
            try:
                piece = await pace.read(reply)
                await self._take(decoder.feed(piece) if piece else decoder.flush(), reader, pace)
                done = not piece or reader.is_done
            except (TimeoutError, ConnectionCut, EventTooLarge, BadBackendReply):
                if not pace.finished:
                    raise
                break  # the answer is whole: only usage or [DONE] is missing
        if not pace.finished:
            if not (piece and self.draft.choices):  # the stream just ended, without a word of farewell
                raise BadBackendReply(f"model '{self.name}': the upstream's stream ended before the answer did")
            await self._close_open_choices()
        self.draft.complete = True
        if self.span.context is not None:
            self._note_answered(None, [choice.finish_reason for choice in self.draft.choices])

    async def _take(self, payloads: Sequence[bytes], reader: Reader, pace: Pace) -> None:
        """What one read of the upstream has brought goes out together, up to where it goes wrong."""
        chunks: list[Chunk] = []
        try:
            for payload in payloads:
                chunk = self.shape.read(payload) if self.shape is not None else None
                if chunk is not None:
                    self._add(chunk, pace, chunks)
                else:
                    self._read(payload, reader, pace, chunks)
                    if reader.is_done:
                        break
        finally:
            for chunk in chunks[:-1]:
                chunk.is_followed = True
            for chunk in chunks:
                await self.emit(chunk)
            pace.rest()

    def _add(self, chunk: Chunk, pace: Pace, chunks: list[Chunk]) -> None:
        """A text of the same shape as the one before."""
        if not pace.finished_choices or self.shape is None or self.shape.index not in pace.finished_choices:
            self.draft.take(chunk)
            if not pace.spoke:
                pace.note(chunk)
            chunks.append(chunk)

    def _read(self, payload: bytes, reader: Reader, pace: Pace, chunks: list[Chunk]) -> None:
        for event in reader.read(payload):
            if not event["choices"]:  # usage, or Azure's word on the prompt: no head of an answer
                self.draft.usage = event.get("usage") or self.draft.usage
                continue
            if self.span.context is not None and not self.draft.choices:
                self._note_answered(event.get("model"))
            event["model"] = self.name
            if self.facts.provider.is_gateway and "gateway" in event:
                said = event.pop("gateway")
                self.cost_told, self.joules_told = onward.cost_told(said, {}), onward.joules_told(said)
            self.shape = Shape.of(payload, event) if reader.is_plain else None
            event["choices"] = [c for c in event["choices"] if c["index"] not in pace.finished_choices]
            for choice in event["choices"]:
                if choice["delta"].get("tool_calls"):
                    self.calls.setdefault(choice["index"], CallNumbers()).tidy(choice["delta"]["tool_calls"])
            self.draft.add(event)
            event.pop("usage", None)  # read into the draft; the API layer shows it where the client asked
            chunk = Chunk(event)
            pace.note(chunk)
            if chunk.choices:
                chunks.append(chunk)

    def _note_answered(self, model: object, ends: Sequence[str | None] = ()) -> None:
        """For spans: what the upstream calls the model that has answered, and why it ended."""
        if isinstance(model, str) and model:
            self.span.note(response_model=model[:MAX_MODEL])
        if ends := [end for end in ends if end]:
            self.span.note(finish_reasons=ends)

    async def _close_open_choices(self) -> None:
        """The upstream said [DONE] and never why: say it in its place."""
        for choice in self.draft.choices:
            if choice.finish_reason is None:
                choice.finish_reason = "tool_calls" if choice.calls else "stop"
                end = {"index": choice.index, "delta": {}, "finish_reason": choice.finish_reason}
                await self.emit(Chunk({"model": self.name, "choices": [end]}))

    def _write_spend(self) -> None:
        used = self.backend.used
        if not self.was_sent:
            used.end_unspent(self.turn)
            return
        usage = self.usage or Usage.read(self.draft.usage)
        if usage is None:
            said = "".join(choice.text + choice.text_field("reasoning_content") for choice in self.draft.choices)
            calls = orjson.dumps([choice.tool_calls for choice in self.draft.choices if choice.calls]).decode()
            said += calls if len(calls) > 2 else ""
            usage = Usage(estimate_request(self.request.body), estimate(said), estimated=True)
        wall_s = time.monotonic() - self.started
        cost_usd = partial(self._cost_usd, usage)
        self.span.spend = used.spent(self.name, usage, self.turn, wall_s, cost_usd, self.joules_told)

    def _cost_usd(self, usage: Usage, busy_s: float) -> float | None:
        reported = (self.draft.usage or {}).get("cost")
        if self.facts.provider.reports_cost and isinstance(reported, int | float) and reported >= 0:
            return float(reported)
        return self.facts.price.cost_usd(usage, busy_s) if self.facts.price else self.cost_told


class Pace:
    """How long the next read of a stream may take: until the first token, then between tokens."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.limit_at = call.started + call.backend.timeouts.first_token_s
        self.between_s = call.backend.timeouts.between_tokens_s
        asked = call.request
        self.wanted_choices = max(1, len(asked.prompts)) if "n" in call.span.dropped else asked.choice_count
        self.finished_choices: set[int] = set()
        self.spoke = False

    @property
    def finished(self) -> bool:
        return len(self.finished_choices) >= self.wanted_choices

    def read(self, reply: HttpReply) -> Coroutine[Any, Any, bytes]:
        due = min(self.limit_at, self.call.due)
        if time.monotonic() > due:
            raise TimeoutError
        return reply.read_some(due)

    def note(self, chunk: Chunk) -> None:
        if not self.spoke and not chunk.is_silent:
            self.spoke = True
            self.call.span.note(first_token_ms=round((time.monotonic() - self.call.started) * 1e3, 1))
        if chunk.is_last_of_a_choice:
            self.finished_choices.update(c.get("index", 0) for c in chunk.choices if c.get("finish_reason"))

    def rest(self) -> None:
        """Something came, or the client took its time to read it: the wait starts anew."""
        if self.spoke:
            self.limit_at = time.monotonic() + (AFTER_FINISH_S if self.finished else self.between_s)
