"""`length`: the answer is neither too short nor too long."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gateway.chat import ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge, only_calls
from gateway.checks.words import words_of
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace

Limit = Annotated[int, Field(ge=0)] | None


@check("length", can_fail_prefix=True)
@dataclass(frozen=True, config=STRICT)
class Length:
    """Bounds are inclusive; white space around the answer does not count. A prefix can only be too long."""

    min_chars: Limit = None
    max_chars: Limit = None
    min_words: Limit = None
    max_words: Limit = None

    def __post_init__(self) -> None:
        if self.min_chars is self.max_chars is self.min_words is self.max_words is None:
            raise ValueError("length needs at least one of min_chars, max_chars, min_words, max_words")
        for unit, low, high in (("chars", self.min_chars, self.max_chars), ("words", self.min_words, self.max_words)):
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{unit} ({low}) is above max_{unit} ({high})")
        has_maximum = self.max_chars is not None or self.max_words is not None
        object.__setattr__(self, "can_fail_prefix", has_maximum)  # a minimum alone must see the whole draft

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        def fault(choice: ChoiceDraft) -> str | None:
            if only_calls(choice):
                return None
            text = choice.text.strip()
            counts_words = self.min_words is not None or self.max_words is not None
            for unit, count, low, high in (
                ("characters", len(text), self.min_chars, self.max_chars),
                ("words", len(words_of(text)) if counts_words else 0, self.min_words, self.max_words),
            ):
                if high is not None and count > high:
                    return f"more than {high} {unit}"
                if low is not None and count < low and draft.complete:
                    return f"{count} {unit}, fewer than {low}"
            return None

        return judge(draft, fault)
