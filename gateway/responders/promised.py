"""A tier's last check under a policy's `quality`: is its draft worth enough for what the policy promises?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gateway.chat import PASSED, ChatRequest, Json, Verdict
from gateway.checks import Check
from gateway.draft import Draft
from gateway.quality.promises import FACT, Pledge, Promises
from gateway.trace import Trace


class Promised:
    """Runs the tier's soft checks: their scores tell what the draft is worth. Until the promise is certified, their
    verdicts decide, as the policy has them; from then on it is the worth alone."""

    name: ClassVar[str] = FACT
    can_fail_prefix: ClassVar[bool] = False
    prefix_words: ClassVar[int | None] = None
    soft: ClassVar[bool] = False
    costly: ClassVar[bool] = True  # a draft that a hard check has failed is worth nothing
    names_models: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[Json | None] = None

    def __init__(self, soft: Sequence[Check], pledge: Pledge, promises: Promises) -> None:
        self._soft, self._pledge, self._promises = soft, pledge, promises
        self.asks: Mapping[str, Any] = {"logprobs": True} | {k: v for check in soft for k, v in check.asks.items()}
        self.needs: tuple[str, ...] = tuple(dict.fromkeys(name for check in soft for name in check.needs))

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        failed = ""
        for check in self._soft:
            verdict = await check(request, draft, trace)
            score = verdict.score if verdict.score is not None else float(verdict.passed)
            trace.note(**{check.name: round(score, 4)})
            if not verdict.passed:
                failed = failed or f"{check.name}: {verdict.reason}"
        if len(draft.choices) > 1:  # of several answers, none is the one to compare
            return Verdict(not failed, failed)
        judged = self._promises.judge(self._pledge, request, draft, trace, configured=not failed)
        trace.note(**{FACT: judged})
        if judged.accepts:
            return PASSED
        return Verdict(False, failed or f"worth {judged.p_correct:.3f}")
