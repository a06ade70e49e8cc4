"""Ask the tiers in order; the first whose draft passes its checks answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from gateway.chat import Answer, ChatRequest, Emit, Responder
from gateway.errors import BackendError, ChecksFailed, ContextTooLong
from gateway.responders.hold import Hold, Rejected, Tier
from gateway.trace import Trace


@dataclass(frozen=True)
class Cascade:
    """Before a tier's first chunk is through, an error or a failed check moves on to the next; after it, the answer
    stands and an error ends it.

    `on_exhausted`: what to do when no tier passed: answer the `best` draft (fewest failed checks, the later tier on
    ties), or raise an `error`.
    """

    tiers: Sequence[Tier]
    on_exhausted: Literal["best", "error"] = "best"

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        tiers = self._tiers_for(request)
        is_kept = request.stay_with is not None  # whose calls the model has made, it waits for
        best: _Attempt | None = None
        error: BackendError | None = None
        failed_of: list[str] = []
        for position, tier in enumerate(tiers):
            is_last = position == len(tiers) - 1
            with trace.span("tier", tier.name) as span:
                can_reject = not is_last or self.on_exhausted == "error"
                if not is_last and (wake := tiers[position + 1].wake) is not None:
                    wake(tier.odds.of_leaving)
                hold = Hold(emit, request, tier, span, can_reject=can_reject)
                try:
                    asked = tier.ask(request, can_reject=can_reject, can_move_on=not is_last and not is_kept)
                    answer = await tier.responder.respond(asked, hold, span)
                except Rejected as rejected:
                    if rejected.gate is not hold:
                        raise
                    failed_of = rejected.failed
                    span.note(judged=True)
                    span.leave(failed_of[0])
                    tier.odds.note(left=True)
                    continue
                except BackendError as exc:
                    if hold.spoken:
                        raise
                    span.leave(exc.reason)
                    tier.odds.note(left=True)
                    if not _is_smaller(exc, error):
                        error = exc
                    continue
                failed = await hold.judge(answer)
                if tier.checks:
                    span.note(judged=True)
                tier.odds.note(left=bool(failed) and not hold.released)
                if not failed or hold.released:
                    await hold.release()
                    return replace(hold.shown(answer), checks_failed=(*answer.checks_failed, *failed))
                failed_of = failed
                span.leave(failed[0])
                if best is None or len(failed) <= len(best.failed):
                    best = _Attempt(answer, hold, failed)
        if best is not None and self.on_exhausted == "best":
            await best.hold.release()
            return replace(best.hold.shown(best.answer), checks_failed=(*best.answer.checks_failed, *best.failed))
        if error is not None and (best is None or self.on_exhausted == "best"):
            raise error
        raise ChecksFailed(f"no model's answer passed its checks: {', '.join(failed_of)}")

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
    elif isinstance(responder, Wrapper):
        yield from models_in(responder.inner)
    elif isinstance(responder, Named):
        yield responder.name


@runtime_checkable
class Wrapper(Protocol):
    """Something around another responder."""

    inner: Responder


@runtime_checkable
class Named(Protocol):
    """A leaf."""

    name: str


def _is_smaller(exc: BackendError, than: BackendError | None) -> bool:
    """Where the request fits no tier, the client is to hear of the largest one."""
    return isinstance(exc, ContextTooLong) and isinstance(than, ContextTooLong) and exc.context < than.context


@dataclass(frozen=True)
class _Attempt:
    answer: Answer
    hold: Hold
    failed: list[str]
