"""`finish_reason`: the answer came to its own end, or to the length that the client set."""

from pydantic.dataclasses import dataclass

from gateway.chat import ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace, Usage


@check("finish_reason")
@dataclass(frozen=True, config=STRICT)
class FinishReason:
    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
        usage = Usage.read(draft.usage)
        cut = sum(choice.finish_reason == "length" for choice in draft.choices)
        # Usage is of all choices together: those that were cut at the client's limit alone come to this many.
        stopped_short = usage is not None and limit is not None and usage.output_tokens < cut * limit

        def fault(choice: ChoiceDraft) -> str | None:
            match choice.finish_reason:
                case "content_filter":
                    return "content_filter"
                case "length" if limit is None:
                    return "cut at the model's own length limit"
                case "length" if stopped_short:
                    return "cut before the client's length limit: the context was full"
                case None if draft.complete:
                    return "no finish reason"
            return None

        return judge(draft, fault)
