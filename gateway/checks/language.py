"""`language`: the answer is in the language of the question, or in a given one."""

from pydantic import field_validator
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge
from gateway.draft import ChoiceDraft, Draft
from gateway.language import LANGUAGES, detect, load
from gateway.trace import Trace

SAME = "same"


@check("language")
@dataclass(frozen=True, config=STRICT)
class Language:
    """`expected`: ISO 639-1 codes, or `same` for the language of the last user text. Unknown languages pass."""

    expected: str | list[str] = SAME

    @field_validator("expected")
    @classmethod
    def is_known(cls, expected: str | list[str]) -> str | list[str]:
        unknown = [code for code in as_list(expected) if code != SAME and code not in LANGUAGES]
        if unknown or not expected:
            known = ", ".join(sorted(LANGUAGES))
            raise ValueError(f"unknown language {', '.join(unknown)!r}: use {SAME!r} or one of {known}")
        return expected

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        await load()
        expected = as_list(self.expected)
        if SAME in expected:
            asked = detect(request.last_user_text)
            if asked is None:
                return PASSED
            expected = [asked if code == SAME else code for code in expected]

        def fault(choice: ChoiceDraft) -> str | None:
            found = detect(choice.text)
            return None if found is None or found in expected else f"in {found}, expected {' or '.join(expected)}"

        return judge(draft, fault)


def as_list(expected: str | list[str]) -> list[str]:
    return [expected] if isinstance(expected, str) else expected
