"""Who stands in for a model that fails: other models, by the cause of the failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.chat import Answer, ChatRequest, Emit, Responder, lazy
from gateway.chunks import Chunk
from gateway.errors import (
    CONTENT_FILTER,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    BadBackendReply,
    ContentFiltered,
    ContextTooLong,
    ModalityRefused,
    ModelLoading,
)
from gateway.responders.cascade import models_in
from gateway.responders.hedge import Hedged, Hedging
from gateway.trace import STAND_IN, Trace

ANY = "any"
OTHER = "other"  # a cause that no list but that of `any` is for


def cause_of(error: BackendError) -> str:
    """A key of `fallbacks`, or OTHER."""
    if isinstance(error, ContextTooLong) or error.code == ContextTooLong.code:
        return "context"
    if isinstance(error, ContentFiltered):
        return CONTENT_FILTER
    if isinstance(error, ModalityRefused):
        return "modality"
    if error.status == 429:
        return "rate"
    is_down = isinstance(error, BackendUnavailable | BackendTimeout | BadBackendReply)
    return "down" if is_down or error.status >= 500 else OTHER


@dataclass(frozen=True)
class Failure:
    """What came in place of an answer, or an answer that says nothing because of a filter."""

    cause: str
    error: BackendError | None = None
    blank: Answer | None = None


@dataclass(frozen=True)
class Fallbacks:
    """Asks `inner`, and where it fails before its first word those for the cause, in order, then those for any.

    Args:
        name: of the model that `inner` is.
        others: by cause.
        hedging: when the first of those for a model that is down is asked beside it; None: never.
    """

    name: str
    inner: Responder
    others: Mapping[str, tuple[Responder, ...]]
    hedging: Hedging | None = None

    def around(self, inner: Responder) -> Fallbacks:
        """The same for what answers as this model, in some way of its own."""
        return replace(self, inner=inner)

    @lazy
    def members(self) -> Sequence[Responder]:
        found = {id(one): one for ones in self.others.values() for one in ones}
        return (self.inner, *found.values())

    @lazy
    def _first(self) -> Responder:
        second = next(self._for("down"), None)
        if self.hedging is None or second is None:
            return self.inner
        return Hedged(self.name, self.inner, lambda: (self.inner, lambda: second), self.hedging, is_same=False)

    def _for(self, cause: str) -> Iterator[Responder]:
        return iter((*self.others.get(cause, ()), *self.others.get(ANY, ())))

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        with trace.span("fallbacks", self.name) as span:
            return await self._respond(request, emit, span)

    async def _respond(self, request: ChatRequest, emit: Emit, span: Trace) -> Answer:
        begins = self._begins(request)
        word = FirstWord(emit, request)
        found = await self._ask(begins, request, word, span)
        if isinstance(found, Answer):
            return self._noted(found, span)
        first, first_word = found, word
        stand_ins = self._for(first.cause) if begins is self.inner else iter((self.inner, *self._for(first.cause)))
        for other in stand_ins:
            if next(models_in(other), "") in {hop.name for hop in span.models()}:
                continue  # it was asked beside the first, or in its place
            found = await self._ask(other, request, FirstWord(emit, request), span)
            if isinstance(found, Answer):
                return self._noted(found, span)
            if found.cause == first.cause and first.error is not None and found.error is not None:
                first = found  # of several limits the client hears of the last
        if first.error is not None:
            raise first.error
        assert first.blank is not None  # one or the other
        await first_word.release()
        return first.blank

    def _noted(self, answer: Answer, span: Trace) -> Answer:
        if answer.model not in self._own_names:
            span.note(**{STAND_IN: answer.model})
        return answer

    @lazy
    def _own_names(self) -> frozenset[str]:
        return frozenset(models_in(self.inner))

    def _begins(self, request: ChatRequest) -> Responder:
        """A tool loop goes on with who has made its calls."""
        if request.stay_with is not None:
            for member in self.members[1:]:
                if request.stay_with in models_in(member):
                    return member
        return self._first

    async def _ask(self, asked: Responder, request: ChatRequest, word: FirstWord, span: Trace) -> Answer | Failure:
        try:
            answer = await asked.respond(request, word, span)
        except ModelLoading:
            raise  # whoever wanted to hear of that turns elsewhere by itself
        except BackendError as error:
            if word.is_out:
                raise
            return Failure(cause_of(error), error=error)
        if not word.is_out and is_blank_for_a_filter(answer):
            for hop in span.models():
                hop.left = hop.left or CONTENT_FILTER
            return Failure(CONTENT_FILTER, blank=answer)
        await word.release()
        return answer


class FirstWord:
    """Stands as `emit`: nothing passes before a chunk says something. Where the answer is wanted whole, nothing ever
    does."""

    def __init__(self, emit: Emit, request: ChatRequest) -> None:
        self._emit, self._streams = emit, request.stream
        self._held: list[Chunk] = []
        self.is_out = False

    async def __call__(self, chunk: Chunk) -> None:
        if self.is_out:
            await self._emit(chunk)
        elif self._streams:
            self._held.append(chunk)
            if not (chunk.is_silent or _only_says_filtered(chunk)):
                await self.release()

    async def release(self) -> None:
        held, self._held = self._held, []
        for chunk in held:
            self.is_out = True
            await self._emit(chunk)


def _only_says_filtered(chunk: Chunk) -> bool:
    if chunk.shape is not None or not chunk.is_last_of_a_choice or chunk.word_count:
        return False
    return all(choice.get("finish_reason") == CONTENT_FILTER for choice in chunk.choices)


def is_blank_for_a_filter(answer: Answer) -> bool:
    choices = answer.body.get("choices") or ()
    has_calls = any(choice.get("message", {}).get("tool_calls") for choice in choices)
    is_filtered = bool(choices) and all(choice.get("finish_reason") == CONTENT_FILTER for choice in choices)
    return is_filtered and not has_calls and not any(answer.texts)
