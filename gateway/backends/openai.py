"""The leaf for OpenAI-compatible HTTP upstreams: remote APIs and the local engines alike."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from gateway import __version__
from gateway.backends import adapters as lora
from gateway.backends import onward
from gateway.backends.adapters import Adapters
from gateway.backends.admission import admit, admit_size
from gateway.backends.call import Call
from gateway.backends.completions import about_prompt, as_message
from gateway.backends.retries import Retries, Voice, asked_pause_s
from gateway.backends.scoring import ScoreCall, Scores, Spellings
from gateway.backends.wire import CHAT, ChatWire, Wire
from gateway.chat import Answer, ChatRequest, Emit, Json, lazy
from gateway.costs.meter import Used
from gateway.engines import Lease
from gateway.engines.wishes import Wish
from gateway.errors import (
    BackendError,
    ChatRefused,
)
from gateway.history import mended
from gateway.providers import ANY, Provider, fitted
from gateway.tokens import Counter
from gateway.trace import Price, Trace
from gateway.transport import (
    Headers,
    HttpClient,
    Timeouts,
)

MAX_SORTS_OF_HEADERS = 64  # keys of an engine change with each start
MODALITIES = ("text", "image", "audio", "file")
LENGTH_LIMITS = ("max_tokens", "max_completion_tokens")
WORTH_TELLING_S = 0.001  # of waiting for a place

T = TypeVar("T")
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
        can_score: it is a llama.cpp server, which can be asked for `score`.
        retries: how often it is tried again, where that can help and nothing has been emitted.
        has_others: other models are asked where it fails.
        used: how its spend is counted beside its price.
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
    can_score: bool = False
    retries: int = 0
    has_others: bool = False
    used: Used = Used()

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

    def _respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Coroutine[Any, Any, Answer]:
        respond = self._persist if self.retries else self.attempt
        return respond(request, emit, trace)

    async def _persist(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        """Attempts, until one comes to an answer or another would not help."""
        voice, began = Voice(emit), time.monotonic()
        try:
            return await self.attempt(request, voice, trace)
        except BackendError as error:
            failure = error
        retries = self.retries_of(request, began)
        retries.note(failure)
        while not voice.has_spoken and retries.take(failure):
            if not await retries.wait(asked_pause_s(failure.headers)):
                break
            try:
                return await self.attempt(request.before(retries.due), voice, trace)
            except BackendError as error:
                failure = error
                retries.note(error)
        raise failure

    def retries_of(self, request: ChatRequest, began: float) -> Retries:
        """For a request that began then."""
        due = began + self.timeouts.total_s
        due = due if request.deadline is None else min(due, request.deadline)
        return Retries(self.retries, due, has_others=self.has_others or request.can_move_on)

    async def attempt(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        """Ask once."""
        with trace.span("model", self.name) as span:
            if request.is_prompt and (self.chats_only or not isinstance(self.wire, ChatWire)):
                request = as_message(request, self.name)
            wanted = request  # as it is sent

            def call(lease: Lease, facts: Facts, due: float) -> Awaitable[Answer]:
                return Call(self, wanted, lease, facts, emit, span, due).run()

            return await self._use(wanted, span, call)

    async def score(
        self, request: ChatRequest, options: Sequence[str], trace: Trace, *, blank: ChatRequest | None = None
    ) -> Scores:
        """See `Scorer`."""
        with trace.span("model", self.name) as span:

            def call(lease: Lease, facts: Facts, due: float) -> Awaitable[Scores]:
                return ScoreCall(self, request, tuple(options), lease, facts, span, due).run(blank)

            return await self._use(request, span, call)

    async def _use(self, request: ChatRequest, span: Trace, call: Callable[[Lease, Facts, float], Awaitable[T]]) -> T:
        """Make a call of the upstream, once it is admitted and has a place there."""
        facts = self.facts
        await self._admit(request, facts)
        if self.counter is not None and facts.context is not None:
            await self._admit_size(request, facts, span)
        due = time.monotonic() + self.timeouts.total_s
        due = due if request.deadline is None else min(due, request.deadline)
        if isinstance(self.take_lease, Standing):
            return await call(self.take_lease.lease, facts, due)
        offers_tools, conversation = bool(request.body.get("tools")), self._conversation(request)
        wish = Wish(request.can_move_on, offers_tools=offers_tools, conversation=conversation)
        async with self.take_lease(due, wish) as lease:
            if wish.woke or wish.waited_s >= WORTH_TELLING_S:
                span.note(waited_ms=round(wish.waited_s * 1e3, 1), **({"woke": True} if wish.woke else {}))
            if wish.restored_tokens:
                span.note(restored_ms=round(wish.restored_ms, 1), restored_tokens=wish.restored_tokens)
            now = self.facts
            if now is not facts and now != facts:  # whoever waited for the lease may have waited for them
                await self._admit(request, now)
                if self.counter is not None and now.context is not None:
                    await self._admit_size(request, now, span)
            try:
                return await call(lease, now, due)
            finally:
                if span.spend is not None and not span.spend.usage.estimated:
                    wish.tokens = span.spend.usage.input_tokens + span.spend.usage.output_tokens

    def _conversation(self, request: ChatRequest) -> str | None:
        """What a slot of our llama.cpp can go on with: it is of one caller, and of one adapter. None where the answer
        needs more than one slot."""
        if self.adapters is None or request.choice_count > 1:
            return None
        return "\0".join((request.key or "", self.adapters.own or "", request.conversation))

    async def _admit(self, request: ChatRequest, facts: Facts) -> None:
        if not facts.chats:
            raise ChatRefused(f"model '{self.name}' makes vectors, and does not chat", param="model")
        if request.body.get(lora.FIELD) is not None:
            lora.check(request.body[lora.FIELD], self.name, self.adapters, facts.provider)
        longest, local = self._longest_answer(request), not facts.provider.fetches_images
        if request.caps and facts.provider.is_gateway and facts.price is None:
            onward.admit_cost(request, self.name)
            request = replace(request, caps=())  # it is told of them
        await admit(request, self.name, facts.accepts, facts.price, longest, local=local)

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
    def spellings(self) -> Spellings:
        return Spellings()

    @lazy
    def _headers(self) -> dict[tuple[bool, int, str | None], tuple[Provider, Headers]]:
        """Those that were sent, by what they depend on."""
        return {}
