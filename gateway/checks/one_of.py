"""`one_of`: the answer is one of the options."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge, only_calls
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace

AROUND = " \t\r\n\"'`“”„‘’‚«»‹›「」"
FULL_STOPS = ".。"


@check("one_of")
@dataclass(frozen=True, config=STRICT)
class OneOf:
    """White space, quotes around the answer and its final full stop do not count, nor does case unless asked for."""

    options: Annotated[list[str], Field(min_length=1)]
    case_sensitive: bool = False

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        options = {self.bare(option) for option in self.options}

        def fault(choice: ChoiceDraft) -> str | None:
            return None if only_calls(choice) or self.bare(choice.text) in options else "none of the options"

        return judge(draft, fault)

    def bare(self, text: str) -> str:
        text = text.strip(AROUND)
        if text[-1:] and text[-1] in FULL_STOPS:
            text = text[:-1].strip(AROUND)
        return text if self.case_sensitive else text.casefold()
