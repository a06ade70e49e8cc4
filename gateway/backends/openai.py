"""The leaf for OpenAI-compatible HTTP upstreams: remote APIs and the local engines alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gateway import __version__
from gateway.backends import adapters as lora
from gateway.backends import onward
from gateway.backends.adapters import Adapters
from gateway.backends.admission import admit, admit_size
from gateway.backends.completions import about_prompt, address, as_message, wire_for
from gateway.backends.refusals import error_of
from gateway.backends.replies import as_chunk
from gateway.backends.shapes import CallNumbers
from gateway.backends.wire import CHAT, ChatWire, Reader, Wire
from gateway.chat import Answer, ChatRequest, Emit, Json, lazy
from gateway.chunks import Chunk, Shape
from gateway.draft import Draft
from gateway.engines import Lease
from gateway.engines.wishes import Wish
from gateway.errors import (
    AddressFault,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    BadBackendReply,
    ChatRefused,
    LoopDetected,
    ToolsRefused,
)
from gateway.history import mended
from gateway.providers import ANY, TOOL_FIELDS, Provider, fitted
from gateway.tokens import Counter, estimate, estimate_request
from gateway.tools import wanted_calls
from gateway.trace import Price, Spend, Trace, Usage
from gateway.transport import (
    ConnectFailed,
    ConnectionCut,
    ConnectTimeout,
    Headers,
    HttpClient,
    HttpReply,
    ReplyTooLarge,
    Timeouts,
)
from gateway.transport.sse import EventTooLarge, SseDecoder

MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_SORTS_OF_HEADERS = 64  # keys of an engine change with each start
MODALITIES = ("text", "image", "audio", "file")
LENGTH_LIMITS = ("max_tokens", "max_completion_tokens")
ERROR_WITHIN_S = 5.0  # what an error says may take so long: its status is known
WORTH_TELLING_S = 0.001  # of waiting for a place
AFTER_FINISH_S = 5.0  # how long to wait for usage and [DONE] once every choice has finished

TakeLease = Callable[[float | None, Wish], AbstractAsyncContextManager[Lease]]


class Standing:
    """A `lease` on an upstream that somebody else keeps running: always there, for any number of requests."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    def __call__(self, deadline: float | None, wish: Wish) -> Standing:
        return self

    async def __aenter__(self) -> Lease:
        return self.lease

    async def __aexit__(self, *error: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model now. Of a server that others run it may change, and is not known while it is away.

    Args:
        accepts: kinds of content part it takes, of text, image, audio, file.
        context: tokens of one request, prompt and answer together; None where nobody has said.
        tools: False where the model would never see the tools that a request offers.
        chats: False where it only makes vectors.
    """

    provider: Provider = ANY
    accepts: frozenset[str] = frozenset({"text"})
    context: int | None = None
    tools: bool | None = None
    price: Price | None = None
    chats: bool = True


@dataclass(frozen=True)
class OpenAIBackend:
    """One model behind `POST {url}/chat/completions`, or another path that its `wire` names.

    Args:
        name: its name in models.yaml, which replies carry as `model`.
        take_lease: gives the right to use it, and where it is; takes the deadline (`time.monotonic()`) and what else
            the pool should know.
        defaults: body fields set where the client left them out.
        provider, accepts, context, price: see `Facts`, unless `look` tells them.
        look: says what is known of it at this moment.
        counter: counts a request's tokens as the model does; None: whether it fits is for the upstream to say.
        drops: fields of the request that are not sent, beside those that the provider does not take.
        adapters: LoRA adapters of a server of ours; None: it is another's, who knows its own.
        wire: the protocol that the upstream speaks.
        chats_only: it is not to be handed prompts, but what they say in a message.
        query: goes behind the address, such as `?api-version=…`.
        headers: sent with each request, beside the key.
    """

    name: str
    client: HttpClient
    take_lease: TakeLease
    timeouts: Timeouts = Timeouts()
    price: Price | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    accepts: frozenset[str] = frozenset({"text"})
    context: int | None = None
    counter: Counter | None = None
    provider: Provider = ANY
    look: Callable[[], Facts] | None = None
    drops: tuple[str, ...] = ()
    adapters: Adapters | None = None
    wire: Wire = CHAT
    chats_only: bool = False
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> Facts:
        return self.look() if self.look is not None else self._stated

    @lazy
    def _stated(self) -> Facts:
        return Facts(self.provider, self.accepts, self.context, price=self.price)

    @property
    def has_news(self) -> bool:
        """Does its card say more than models.yaml, or change?"""
        return self.look is not None

    def card(self) -> Json:
        """The facts, for people."""
        facts = self.facts
        card: Json = {"accepts": [kind for kind in MODALITIES if kind in facts.accepts]}
        card |= {"context": facts.context} if facts.context is not None else {}
        card |= {"tools": facts.tools} if facts.tools is not None else {}
        return card if facts.chats else card | {"chats": False}

    def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Coroutine[Any, Any, Answer]:
        respond = self._respond_to_prompt if request.is_prompt else self._respond
        return respond(request, emit, trace)

    async def _respond_to_prompt(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        try:
            return await self._respond(request, emit, trace)
        except BackendError as error:
            raise about_prompt(error, request) from error.__cause__

    async def _respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        with trace.span("model", self.name) as span:
            if request.is_prompt and (self.chats_only or not isinstance(self.wire, ChatWire)):
                request = as_message(request, self.name)
            facts = self.facts
            self._admit(request, facts)
            if self.counter is not None and facts.context is not None:
                await self._admit_size(request, facts, span)
            due = time.monotonic() + self.timeouts.total_s
            due = due if request.deadline is None else min(due, request.deadline)
            if isinstance(self.take_lease, Standing):
                return await _Call(self, request, self.take_lease.lease, facts, emit, span, due).run()
            offers_tools, conversation = bool(request.body.get("tools")), self._conversation(request)
            wish = Wish(request.can_move_on, offers_tools=offers_tools, conversation=conversation)
            async with self.take_lease(due, wish) as lease:
                if wish.woke or wish.waited_s >= WORTH_TELLING_S:
                    span.note(waited_ms=round(wish.waited_s * 1e3, 1), **({"woke": True} if wish.woke else {}))
                if wish.restored_tokens:
                    span.note(restored_ms=round(wish.restored_ms, 1), restored_tokens=wish.restored_tokens)
                now = self.facts
                if now is not facts and now != facts:  # whoever waited for the lease may have waited for them
                    self._admit(request, now)
                    if self.counter is not None and now.context is not None:
                        await self._admit_size(request, now, span)
                try:
                    return await _Call(self, request, lease, now, emit, span, due).run()
                finally:
                    if span.spend is not None and not span.spend.usage.estimated:
                        wish.tokens = span.spend.usage.input_tokens + span.spend.usage.output_tokens

    def _conversation(self, request: ChatRequest) -> str | None:
        """What a slot of our llama.cpp can go on with: it is of one caller, and of one adapter. None where the answer
        needs more than one slot."""
        if self.adapters is None or request.choice_count > 1:
            return None
        return "\0".join((request.key or "", self.adapters.own or "", request.conversation))

    def _admit(self, request: ChatRequest, facts: Facts) -> None:
        if not facts.chats:
            raise ChatRefused(f"model '{self.name}' makes vectors, and does not chat", param="model")
        if request.body.get(lora.FIELD) is not None:
            lora.check(request.body[lora.FIELD], self.name, self.adapters, facts.provider)
        longest, local = self._longest_answer(request), not facts.provider.fetches_images
        if request.caps and facts.provider.is_gateway and facts.price is None:
            onward.admit_cost(request, self.name)
            request = replace(request, caps=())  # it is told of them
        admit(request, self.name, facts.accepts, facts.price, longest, local=local)

    async def _admit_size(self, request: ChatRequest, facts: Facts, span: Trace) -> None:
        longest, sure = self._longest_answer(request), facts.provider.truncates
        assert self.counter is not None  # else nobody knows
        await admit_size(request, self.name, facts.context, self.counter, longest, span, sure=sure)

    def _longest_answer(self, request: ChatRequest) -> int | None:
        """Tokens that the answer may have at most, as far as anybody has said."""
        said = request.body if request.limits_length else self.defaults
        limit = said.get("max_completion_tokens") or said.get("max_tokens")
        return limit if isinstance(limit, int) else None

    def body_for(
        self, request: ChatRequest, lease: Lease, provider: Provider, wire: Wire, drops: tuple[str, ...] = ()
    ) -> tuple[bytes, tuple[str, ...]]:
        """What is sent, and the fields of the request that were left out of it."""
        body = {**request.body, "model": lease.id}
        if lease.slot is not None:
            body["id_slot"] = lease.slot
        for name, value in self.defaults.items():
            if body.get(name) is None and not (name in LENGTH_LIMITS and request.limits_length):
                body[name] = value
        if self.adapters is not None or lora.FIELD in body:
            drops = (*drops, *lora.choose(body, self.name, self.adapters, provider))
        if request.stream or provider.always_streams:
            body["stream"] = True
            body["stream_options"] = {**(request.body.get("stream_options") or {}), "include_usage": True}
        else:
            body.pop("stream_options", None)  # which OpenAI refuses where nothing is streamed
        if request.is_plain and provider.is_plain and wire is CHAT and not (self.drops or drops or request.extra):
            return orjson.dumps(body), ()  # as most are
        request, unsent = mended(request, body, self.name, lease.id, provider.past, wire.path)
        fitting, dropped = fitted(body, provider, lease.id, (*self.drops, *drops))
        asked, lost = wire.ask(fitting, request)
        missed = (*unsent, *dropped, *lost)
        return orjson.dumps(asked), tuple(dict.fromkeys(missed)) if missed else ()

    def headers_for(self, request: ChatRequest, lease: Lease, provider: Provider, wire: Wire) -> Headers:
        streams = request.stream or provider.always_streams
        own = {**wire.headers(request), **onward.headers_of(request)} if provider.is_gateway else wire.headers(request)
        sort = (streams, request.hops, lease.key)
        known = self._headers.get(sort)
        if known is not None and known[0] is provider and not own:
            return known[1]
        headers = Headers(
            {
                "content-type": "application/json",
                "accept-encoding": "identity",  # a compressed stream comes in blocks, not word by word
                "accept": "text/event-stream" if streams else "application/json",
                "user-agent": f"onion-gateway/{__version__}",
                "x-gateway-hops": str(request.hops + 1),
                **own,
                **self.headers,
            }
        )
        if provider.closes_connections:
            headers["connection"] = "close"
        if lease.key:
            headers.update(provider.headers(lease.key))
        if not own:
            if len(self._headers) >= MAX_SORTS_OF_HEADERS:
                self._headers.clear()
            self._headers[sort] = (provider, headers)
        return headers

    @lazy
    def _headers(self) -> dict[tuple[bool, int, str | None], tuple[Provider, Headers]]:
        """Those that were sent, by what they depend on."""
        return {}


class _Call:
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
        self.streams = request.stream or facts.provider.always_streams
        self.name = backend.name
        self.wire = wire_for(request, facts.provider, backend.wire, backend.name)
        self.secrets = (lease.key or "", lease.url, *backend.headers.values())
        self.started = time.monotonic()
        self.was_sent = False
        self.usage: Usage | None = None
        self.cost_told: float | None = None  # by another gateway
        self.draft = Draft()
        self.calls: dict[int, CallNumbers] = {}  # by choice
        self.shape: Shape | None = None  # of the last event, if it held no more than a text

    async def run(self) -> Answer:
        reply = None
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
        return await backend.client.post(
            f"{address(self.lease.url, self.wire)}{backend.query}",
            backend.headers_for(self.request, self.lease, provider, self.wire),
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
        completion["model"] = self.name
        if self.facts.provider.is_gateway:
            self.cost_told = onward.cost_told(completion.pop("gateway", None), reply.headers)
        self.draft.usage = completion.get("usage")
        if self.streams:  # asked to, and it did not
            await self.emit(Chunk(as_chunk(completion)))
        self.usage = Usage.read(self.draft.usage)
        if self.usage is None:
            self.draft = Draft.of(completion)
        return Answer(completion)

    async def _stream(self, reply: HttpReply) -> None:
        decoder, pace, piece = SseDecoder(), _Pace(self), b""
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

    async def _take(self, payloads: Sequence[bytes], reader: Reader, pace: _Pace) -> None:
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

    def _add(self, chunk: Chunk, pace: _Pace, chunks: list[Chunk]) -> None:
        """A text of the same shape as the one before."""
        if not pace.finished_choices or self.shape is None or self.shape.index not in pace.finished_choices:
            self.draft.take(chunk)
            if not pace.spoke:
                pace.note(chunk)
            chunks.append(chunk)

    def _read(self, payload: bytes, reader: Reader, pace: _Pace, chunks: list[Chunk]) -> None:
        for event in reader.read(payload):
            if not event["choices"]:  # usage, or Azure's word on the prompt: no head of an answer
                self.draft.usage = event.get("usage") or self.draft.usage
                continue
            event["model"] = self.name
            if self.facts.provider.is_gateway and "gateway" in event:
                self.cost_told = onward.cost_told(event.pop("gateway"), {})
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
        usage = self.usage or Usage.read(self.draft.usage)
        if usage is None:
            said = "".join(choice.text + choice.text_field("reasoning_content") for choice in self.draft.choices)
            calls = orjson.dumps([choice.tool_calls for choice in self.draft.choices if choice.calls]).decode()
            said += calls if len(calls) > 2 else ""
            usage = Usage(estimate_request(self.request.body), estimate(said), estimated=True)
        busy_s = time.monotonic() - self.started
        self.span.spend = Spend(self.name, usage, self._cost_usd(usage, busy_s), busy_s)

    def _cost_usd(self, usage: Usage, busy_s: float) -> float | None:
        reported = (self.draft.usage or {}).get("cost")
        if self.facts.provider.reports_cost and isinstance(reported, int | float) and reported >= 0:
            return float(reported)
        return self.facts.price.cost_usd(usage, busy_s) if self.facts.price else self.cost_told


class _Pace:
    """How long the next read of a stream may take: until the first token, then between tokens."""

    def __init__(self, call: _Call) -> None:
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
