"""`recompute`: the arithmetic in the answer is right."""

from __future__ import annotations

import asyncio
import re
from fractions import Fraction
from functools import partial

from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge
from gateway.draft import ChoiceDraft, Draft
from gateway.quality.same import FINAL, final_of
from gateway.trace import Trace

QUICK_CHARS = 2_000  # 10 ms; longer texts are read beside the event loop
NUMBER = re.compile(r"(?<![\d.])\d{1,40}(?:\.\d{1,40})?(?!\d)")


@check("recompute")
@dataclass(frozen=True, config=STRICT)
class Recompute:
    """Equations between numbers are worked out again; those that the request states itself are left alone. A number
    that the answer marks as its result must stand in its working, or in the request."""

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        asked = request.last_user_text
        if len(asked) + sum(len(choice.text) for choice in draft.choices) < QUICK_CHARS:
            return judge(draft, partial(fault_in, asked=asked))
        return await asyncio.to_thread(judge, draft, partial(fault_in, asked=asked))


def fault_in(choice: ChoiceDraft, asked: str) -> str | None:
    from gateway.checks.sums.equations import equations_in, rewritten  # 10 ms, for those who use this check

    text = rewritten(choice.text)
    equations = list(equations_in(text))
    if not equations:
        return None
    asked = rewritten(asked)
    quoted = {equation.text for equation in equations_in(asked, claimed=False)}
    wrong = next((one.text for one in equations if not one.is_right and one.text not in quoted), None)
    return f"wrong: {wrong[:80]}" if wrong is not None else out_of_nowhere(text, asked)


def out_of_nowhere(text: str, asked: str) -> str | None:
    from gateway.checks.sums.arithmetic import is_rounded

    final = NUMBER.findall(final_of(text) or "")
    if len(final) != 1:
        return None
    known = NUMBER.findall(FINAL.sub(" ", text)) + NUMBER.findall(asked)
    if any(is_rounded(Fraction(number), final[0]) for number in known):
        return None
    return f"the result {final[0][:40]} is not in its working"
