"""`regex`: a pattern is found in the answer, or is absent from it."""

import re

from pydantic import field_validator
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge, only_calls
from gateway.draft import ChoiceDraft, Draft
from gateway.patterns import Pattern, TookTooLong, pattern_of
from gateway.trace import Trace

LOOKS_AHEAD = re.compile(r"\$|\\[zZ]|\(\?[=!]")  # more text can undo a match of these


@check("regex", can_fail_prefix=True)
@dataclass(frozen=True, config=STRICT)
class Regex:
    """`pattern` is searched as `re.search` does. Only an `absent` one can fail a prefix. One that takes too long fails
    the draft, for nobody knows."""

    pattern: str
    absent: bool = False

    @field_validator("pattern")
    @classmethod
    def compiles(cls, pattern: str) -> str:
        pattern_of(pattern)
        return pattern

    def __post_init__(self) -> None:
        object.__setattr__(self, "can_fail_prefix", self.absent)  # what must be found may still come

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete and (not self.absent or LOOKS_AHEAD.search(self.pattern)):
            return PASSED

        pattern = Pattern(self.pattern)

        def fault(choice: ChoiceDraft) -> str | None:
            text = choice.text
            try:
                end = pattern.find_end(text)
            except TookTooLong:
                return "pattern takes too long"
            if not self.absent:
                return None if end is not None or only_calls(choice) else "pattern not found"
            # A match that touches the end of a prefix may go away: `\bclass\b` in "class", then "classical".
            return "forbidden pattern found" if end is not None and (draft.complete or end < len(text)) else None

        return judge(draft, fault)
