"""Ask the tiers in order; the first whose draft passes its checks answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gateway.chat import Answer, ChatRequest, Emit, Responder, lazy
from gateway.responders.attempts import Attempts, OnExhausted
from gateway.responders.hold import Hold, Tier
from gateway.responders.race import race
from gateway.trace import Trace


@dataclass(frozen=True)
class Cascade:
    """Before a tier's first chunk is through, an error or a failed check moves on to the next; after it, the answer
    stands and an error ends it.

    `on_exhausted`: what to do when no tier passed: answer the `best` draft (fewest failed checks, the later tier on
    ties), or raise an `error`.
    """

    tiers: Sequence[Tier]
    on_exhausted: OnExhausted = "best"

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        if self._races and request.stay_with is None:  # a tool loop waits for its model, however long that takes
            return await race(Attempts(self.tiers, request, self.on_exhausted), emit, trace)
        attempts = Attempts(self._tiers_for(request), request, self.on_exhausted)
        for position, tier in enumerate(attempts.tiers):
            with trace.span("tier", tier.name) as span:
                hold = Hold(emit, request, tier, span, can_reject=attempts.can_reject(position))
                answer = await attempts.make(position, hold, span)
                if answer is not None:
                    await hold.release()
                    return answer
        return await attempts.make_do()

    @lazy
    def _races(self) -> bool:
        return any(tier.race is not None for tier in self.tiers[:-1])

    def _tiers_for(self, request: ChatRequest) -> Sequence[Tier]:
        """Those before the model that the conversation stays with are passed over."""
        if request.stay_with is not None:
            for position, tier in enumerate(self.tiers):
                if request.stay_with in models_in(tier.responder):
                    return self.tiers[position:]
        return self.tiers


def models_in(responder: Responder) -> Iterator[str]:
    """Names of the models that it may ask, in that order."""
    if isinstance(responder, Cascade):
        for tier in responder.tiers:
            yield from models_in(tier.responder)
    elif isinstance(responder, Several):
        for member in responder.members:
            yield from models_in(member)
    elif isinstance(responder, Wrapper):
        yield from models_in(responder.inner)
    elif isinstance(responder, Named):
        yield responder.name


def responders_in(responder: Responder) -> Iterator[Responder]:
    """It and all within it, those nearest the root first."""
    yield responder
    inner: Sequence[Responder] = ()
    if isinstance(responder, Cascade):
        inner = [tier.responder for tier in responder.tiers]
    elif isinstance(responder, Several):
        inner = responder.members
    elif isinstance(responder, Wrapper):
        inner = [responder.inner]
    for one in inner:
        yield from responders_in(one)


@runtime_checkable
class Several(Protocol):
    """Something that asks one or another."""

    @property
    def members(self) -> Sequence[Responder]: ...


@runtime_checkable
class Wrapper(Protocol):
    """Something around another responder."""

    inner: Responder


@runtime_checkable
class Named(Protocol):
    """A leaf."""

    name: str
