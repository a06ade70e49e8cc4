"""`finish_reason`: the answer came to its own end."""

from pydantic.dataclasses import dataclass

from gateway.chat import ChatRequest, ChoiceDraft, Draft, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge
from gateway.trace import Trace


@check("finish_reason")
@dataclass(frozen=True, config=STRICT)
class FinishReason:
    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        def fault(choice: ChoiceDraft) -> str | None:
            match choice.finish_reason:
                case "content_filter":
                    return "content_filter"
                case "length" if not request.limits_length:
                    return "cut at the model's own length limit"
                case None if draft.complete:
                    return "no finish reason"
            return None

        return judge(draft, fault)
