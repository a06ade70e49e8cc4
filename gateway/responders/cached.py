"""A node whose answers are kept, and given again to the next request like theirs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.backends.replies import as_chunk
from gateway.caching.answers import AnswerCache, Flight
from gateway.caching.control import Control, control_of
from gateway.caching.fit import has_tools, is_whole, made_do, wants_sound
from gateway.caching.key import Key, key_of, tenant_of
from gateway.chat import Answer, ChatRequest, Emit, Responder
from gateway.checks import Check
from gateway.chunks import Chunk
from gateway.draft import Draft
from gateway.embedding.remembered import Embeddings
from gateway.errors import BackendTimeout, NotCached
from gateway.responders.with_shards import is_wished
from gateway.shards import OPERATOR, audiences_for
from gateway.shards.bookcase import Bookcase
from gateway.shards.shelf import user_of
from gateway.store.answers import Kept
from gateway.trace import BYPASS, CACHE, HIT, MISS, SEMANTIC_HIT, Trace

log = logging.getLogger(__name__)
WAIT_S = 60.0  # for an answer that is being made for somebody else, who may read it slowly
OVERHEAD_BYTES = 600  # of an entry, beside its texts


@dataclass(frozen=True)
class Alike:
    """An answer to a request that means the same will do, if the `checks` pass it as a draft for the new one. `above`:
    the least cosine of the last words of the user."""

    embeddings: Embeddings
    above: float
    checks: Sequence[Check]

    async def prepare(self) -> None:
        """Have the embedding model loaded, so that no request waits for that."""
        await self.embeddings.of("Hello")


@dataclass(frozen=True)
class Cached:
    """Before `inner`. Of identical requests at the same time the first one asks, and the others are given its answer
    once that is whole: chunks that one has been shown could not be taken back if the first one failed.

    Args:
        name: as its hop is called.
        place: names the node and how it is configured.
        ttl_s: how long an answer is good.
        tools: also of requests with tools.
        per_user: users of a key (`user` of their requests) are not given each other's.
        bookcase: where models in it may be given shards, which are some users' own.
    """

    name: str
    inner: Responder
    cache: AnswerCache
    place: str
    ttl_s: float = 3600.0
    tools: bool = False
    per_user: bool = False
    bookcase: Bookcase | None = None
    alike: Alike | None = None

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        """Raises: NotCached where the client wants nobody to be asked."""
        control = control_of(request.headers)
        with trace.span(CACHE, self.name) as span:
            if control.no_store or wants_sound(request) or (not self.tools and has_tools(request)):
                return await self._without(request, emit, span, control)
            key = self._key(request)
            if control.no_cache:
                answer = await self._without(request, emit, span, control)
                self._keep(key, await self._vector(key), request, answer, span)
                return answer
            while True:
                kept = await self.cache.find(key.exact)
                if kept is not None and self.cache.clock() - kept.created <= control.max_age_s:
                    return await self._give(kept, HIT, request, emit, span)
                if control.only_if_cached:
                    return await self._last_resort(key, request, emit, span, control)
                flight = self.cache.flights.get(key.exact)
                if flight is None:
                    return await self._lead(key, request, emit, span, control)
                kept = await _landed(flight, request.deadline)
                if kept is not None:
                    return await self._give(kept, HIT, request, emit, span)
                if not flight.cancelled():
                    return (await self._ask(key, await self._vector(key), request, emit, span))[0]

    async def _without(self, request: ChatRequest, emit: Emit, span: Trace, control: Control) -> Answer:
        span.note(**{CACHE: BYPASS})
        if control.only_if_cached:
            raise NotCached("only a cached answer would do, and this request is not answered from the cache")
        return await self.inner.respond(request, emit, span)

    async def _last_resort(self, key: Key, request: ChatRequest, emit: Emit, span: Trace, control: Control) -> Answer:
        kept = await self._similar(key, await self._vector(key), request, span, control)
        if kept is None:
            span.note(**{CACHE: MISS})
            raise NotCached("only a cached answer would do, and there is none")
        return await self._give(kept, SEMANTIC_HIT, request, emit, span)

    async def _lead(self, key: Key, request: ChatRequest, emit: Emit, span: Trace, control: Control) -> Answer:
        """Have it answered; those who come meanwhile wait for that."""
        flight: Flight = asyncio.get_running_loop().create_future()
        self.cache.flights[key.exact] = flight
        kept = None
        try:
            vector = await self._vector(key)
            kept = await self._similar(key, vector, request, span, control)
            if kept is not None:
                return await self._give(kept, SEMANTIC_HIT, request, emit, span)
            answer, kept = await self._ask(key, vector, request, emit, span)
            return answer
        except asyncio.CancelledError:
            flight.cancel()
            raise
        finally:
            del self.cache.flights[key.exact]
            if not flight.done():
                flight.set_result(kept)

    async def _ask(
        self, key: Key, vector: bytes | None, request: ChatRequest, emit: Emit, span: Trace
    ) -> tuple[Answer, Kept | None]:
        span.note(**{CACHE: MISS})
        answer = await self.inner.respond(request, emit, span)
        return answer, self._keep(key, vector, request, answer, span)

    async def _give(self, kept: Kept, how: str, request: ChatRequest, emit: Emit, span: Trace) -> Answer:
        answer = kept.answer
        age_s = max(0, int(self.cache.clock() - kept.created))
        span.note(**{CACHE: how}, age_s=age_s, of=answer.model)
        if request.stream:
            for chunk in chunks_of(answer.body):
                await emit(chunk)
        return answer

    # -- what is kept --------------------------------------------------------------------------------------------

    def _key(self, request: ChatRequest) -> Key:
        return key_of(request, self.place, self._about(request), groups=self.alike is not None)

    def _about(self, request: ChatRequest) -> list[object]:
        """What else an answer hangs on: its user, and the shards as they are now, where there are any for this one."""
        user = user_of(request)
        opened = self.bookcase.opened if self.bookcase is not None else None
        if opened is None or request.is_prompt or not is_wished(request):
            return [user] if self.per_user else []
        if not opened.index.holds_any(audiences_for(request.key or OPERATOR, user)):
            return [user] if self.per_user else []
        return [user, request.conversation, opened.index.revision, opened.index.vectors]

    def _keep(self, key: Key, vector: bytes | None, request: ChatRequest, answer: Answer, span: Trace) -> Kept | None:
        if not is_whole(answer, request, tools=self.tools) or made_do(request, span):
            return None
        if self.bookcase is not None and self._key(request).exact != key.exact:
            return None  # shards have come meanwhile, and it may have been given some that are one user's
        now = self.cache.clock()
        kept = self._entry(key, request, now, orjson.dumps(answer.body), vector)
        self.cache.put(kept)
        return kept

    def _entry(self, key: Key, request: ChatRequest, created: float, body: bytes, vector: bytes | None = None) -> Kept:
        return Kept(
            key.exact,
            tenant_of(request),
            user_of(request),
            created,
            created + self.ttl_s,
            len(body) + len(vector or b"") + OVERHEAD_BYTES,
            body,
            key.group if vector is not None else None,
            vector,
        )

    # -- what means the same -------------------------------------------------------------------------------------

    async def _vector(self, key: Key) -> bytes | None:
        return await self.alike.embeddings.of(key.text) if self.alike is not None and key.group is not None else None

    async def _similar(
        self, key: Key, vector: bytes | None, request: ChatRequest, span: Trace, control: Control
    ) -> Kept | None:
        """The answer to the request most like this one, if it will do for this one too."""
        if self.alike is None or key.group is None or vector is None:
            return None
        found = await self.cache.nearest(key.group, vector, self.alike.above)
        if found is None or self.cache.clock() - found[0].created > control.max_age_s:
            return None
        kept, likeness = found
        span.note(likeness=round(likeness, 4))
        failed = await _failed(self.alike.checks, request, kept.answer, span)
        if failed is not None:
            span.note(rejected=failed)
            return None
        # Asked again, it is the same request; by itself it vouches for no other.
        self.cache.put(self._entry(key, request, kept.created, kept.body))
        return kept


async def _failed(checks: Sequence[Check], request: ChatRequest, answer: Answer, span: Trace) -> str | None:
    """Name of the first check that does not pass it."""
    draft = Draft.of(answer.body)
    for check in checks:
        try:
            verdict = await check(request, draft, span)
        except Exception:
            log.exception("check %s failed to run", check.name)
            return check.name
        if verdict.score is not None:
            span.note(**{check.name: round(verdict.score, 4)})
        if not verdict.passed:
            return check.name
    return None


async def _landed(flight: Flight, deadline: float | None) -> Kept | None:
    """None where it has brought nothing, or is slow. Raises: BackendTimeout."""
    left_s = WAIT_S if deadline is None else min(WAIT_S, deadline - time.monotonic())
    done, _ = await asyncio.wait({flight}, timeout=max(0.0, left_s))
    if done:
        return None if flight.cancelled() else flight.result()
    if left_s < WAIT_S:
        raise BackendTimeout("the same request was being answered, until the deadline")
    return None


def chunks_of(completion: Mapping[str, Any]) -> Iterator[Chunk]:
    """A whole answer as a stream tells it: what each choice says, then why it ended."""
    whole = as_chunk(completion)
    said = whole["choices"]
    for number, choice in enumerate(said, 1):
        for part in ({**choice, "finish_reason": None}, {**choice, "delta": {}, "logprobs": None}):
            chunk = Chunk({**whole, "choices": [part]})
            chunk.is_followed = number < len(said) or part["finish_reason"] is None
            yield chunk
