"""`not_empty`: the answer says something or calls a tool."""

from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Draft, Verdict
from gateway.checks import STRICT, check
from gateway.trace import Trace


@check("not_empty")
@dataclass(frozen=True, config=STRICT)
class NotEmpty:
    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.choices:
            return Verdict(False, "no choices")
        for choice in draft.choices:
            if not choice.text.strip() and not choice.calls and not choice.text_field("refusal"):
                return Verdict(False, f"choice {choice.index} is empty")
        return PASSED
