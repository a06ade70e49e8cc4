"""`not_empty`: the answer says something or calls a tool."""

from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import calls_of, judge
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace


@check("not_empty", prefix_words=1)
@dataclass(frozen=True, config=STRICT)
class NotEmpty:
    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        return judge(draft, fault) if draft.complete else PASSED


def fault(choice: ChoiceDraft) -> str | None:
    says_something = choice.text.strip() or choice.text_field("refusal") or choice.rest.get("audio")
    return None if says_something or calls_of(choice) else "empty"
