"""`not_refusal`: the answer does not open with a refusal."""

import re
from collections.abc import Iterator

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from gateway.chat import ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge
from gateway.checks.refusals import REFUSAL
from gateway.draft import ChoiceDraft, Draft
from gateway.patterns import Pattern, TookTooLong, pattern_of
from gateway.trace import Trace

OPENING_CHARS = 200
LEAD_IN_CHARS = 60  # a short first sentence may come before the refusal: "Thank you for asking."
UNSETTLED_CHARS = 24  # the end of a prefix, where the next word may turn the sense: "I can't help" "but notice"

BEFORE_WORDS = re.compile(r"^[^\w\"'“”„«‘]+")  # Markdown and emoji; what is in quotes, somebody else says
LEAD_IN = re.compile(r"[^.!?。！？\n\"“„«]+[.!?:。！？]?\s+(?=\w)")
CONTRACTIONS = (
    ("’", "'"),
    ("ʼ", "'"),
    ("can't", "cannot"),
    ("can not", "cannot"),
    ("won't", "will not"),
    ("n't", " not"),
    ("i'm", "i am"),
)


@check("not_refusal", prefix_words=64)
@dataclass(frozen=True, config=STRICT)
class NotRefusal:
    """`also`: more regular expressions, searched in the first 200 characters, whatever the case."""

    also: list[str] = Field(default_factory=list)

    @field_validator("also")
    @classmethod
    def compiles(cls, also: list[str]) -> list[str]:
        for pattern in also:
            try:
                pattern_of(pattern, ignores_case=True)
            except ValueError as exc:
                raise ValueError(f"{pattern!r} is {exc}") from exc
        return also

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        def fault(choice: ChoiceDraft) -> str | None:
            if choice.text_field("refusal"):
                return "refusal field set"
            text = choice.text.lstrip()
            is_settled = draft.complete or len(text) > OPENING_CHARS + UNSETTLED_CHARS
            opening = text[:OPENING_CHARS]
            if refuses(opening_of(opening), is_settled):
                return "opens with a refusal"
            for pattern in self.also:
                try:
                    end = Pattern(pattern, ignores_case=True).find_end(opening)
                except TookTooLong:
                    return "a pattern of `also` takes too long"
                if end is not None and (is_settled or end + UNSETTLED_CHARS <= len(opening)):
                    return "opens with words that `also` forbids"
            return None

        return judge(draft, fault)


def opening_of(text: str) -> str:
    """Lower case, without decoration in front, contractions written out."""
    text = BEFORE_WORDS.sub("", text).lower()
    for contraction, words in CONTRACTIONS:
        text = text.replace(contraction, words)
    return text


def refuses(opening: str, is_settled: bool) -> bool:
    end = len(opening) if is_settled else len(opening) - UNSETTLED_CHARS
    return any((found := REFUSAL.match(opening, start)) and found.end() <= end for start in starts_of(opening))


def starts_of(opening: str) -> Iterator[int]:
    yield 0
    lead_in = LEAD_IN.match(opening, 0, LEAD_IN_CHARS)
    if lead_in:
        yield lead_in.end()
