"""What becomes of the tiers of a cascade for one request, until one of them passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.chat import Answer, ChatRequest
from gateway.errors import BackendError, ChecksFailed, ContextTooLong
from gateway.responders.hold import Hold, Rejected, Tier
from gateway.trace import Trace

OnExhausted = Literal["best", "error"]


@dataclass(frozen=True)
class Draft:
    """One that was whole, and failed."""

    position: int
    answer: Answer
    hold: Hold
    failed: list[str]

    @property
    def is_blank(self) -> bool:
        return self.hold.is_blank(self.answer)

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The best has the lowest: one that says something, the fewest failed checks, the later tier on ties."""
        return self.is_blank, len(self.failed), -self.position


class Attempts:
    """Each tier is attempted once, one after the other or several at the same time."""

    def __init__(self, tiers: Sequence[Tier], request: ChatRequest, on_exhausted: OnExhausted) -> None:
        self.tiers, self.request, self.on_exhausted = tiers, request, on_exhausted
        self._drafts: list[Draft] = []
        self._errors: dict[int, BackendError] = {}
        self._failed: dict[int, list[str]] = {}

    def can_reject(self, position: int) -> bool:
        """May its draft be given up half-way? The last tier has to make do with what it has."""
        return position < len(self.tiers) - 1 or self.on_exhausted == "error"

    async def make(self, position: int, hold: Hold, span: Trace) -> Answer | None:
        """Ask a tier. Its answer, which is the client's once the hold is released; None where it has failed.

        Raises: BackendError after its first chunk is out, and whatever is not the tier's own failure.
        """
        tier, can_reject = self.tiers[position], self.can_reject(position)
        is_last = position == len(self.tiers) - 1
        if not is_last and (wake := self.tiers[position + 1].wake) is not None:
            wake(tier.odds.of_leaving)
        # Whose calls the model has made, it waits for.
        can_move_on = not is_last and self.request.stay_with is None
        asked = tier.ask(self.request, can_reject=can_reject, can_move_on=can_move_on)
        try:
            answer = await tier.responder.respond(asked, hold, span)
        except Rejected as rejected:
            if rejected.gate is not hold:
                raise
            span.note(judged=True)
            self._leave(position, rejected.failed, span)
            return None
        except BackendError as exc:
            if hold.spoken:
                raise
            span.leave(exc.reason)
            tier.odds.note(left=True)
            self._errors[position] = exc
            return None
        failed = await hold.judge(answer)
        if tier.checks:
            span.note(judged=True)
        if failed and not hold.released:
            self._leave(position, failed, span)
            self._drafts.append(Draft(position, answer, hold, failed))
            return None
        tier.odds.note(left=False)
        return replace(hold.shown(answer), checks_failed=(*answer.checks_failed, *failed))

    def _leave(self, position: int, failed: list[str], span: Trace) -> None:
        self._failed[position] = failed
        span.leave(failed[0])
        self.tiers[position].odds.note(left=True)

    async def make_do(self) -> Answer:
        """With the best that there is, now that no tier has passed. Raises: BackendError."""
        best = min(self._drafts, key=lambda draft: draft.rank, default=None)
        if best is not None and best.is_blank and self._errors:
            best = None  # it only asked for help, and nobody came
        if best is not None and self.on_exhausted == "best":
            await best.hold.release()
            return replace(best.hold.shown(best.answer), checks_failed=(*best.answer.checks_failed, *best.failed))
        if self._errors and (best is None or self.on_exhausted == "best"):
            raise self._last_error()
        raise ChecksFailed(f"no model's answer passed its checks: {', '.join(self._failed[max(self._failed)])}")

    def _last_error(self) -> BackendError:
        first, *others = (self._errors[position] for position in sorted(self._errors))
        for error in others:
            if not _is_smaller(error, first):
                first = error
        return first


def _is_smaller(exc: BackendError, than: BackendError) -> bool:
    """Where the request fits no tier, the client is to hear of the largest one."""
    return isinstance(exc, ContextTooLong) and isinstance(than, ContextTooLong) and exc.context < than.context
