"""`grounded`: the numbers, names and quotations of the answer stand in what the model was given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge
from gateway.checks.used_shard import NUMBER, SENTENCE_STARTS, WORD, given_in
from gateway.checks.words import words_of
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace

SOURCE_WORDS = 40  # a message of so many words holds more than a question
DOCUMENTS = ("documents", "context")  # fields in which some clients send them
NAME = re.compile(r"(?<![\w'’])[^\W\d_][\w'’-]+")
SENTENCE_START = re.compile(r"(?:^[ \t>#|*•-]*+|[.!?:;][ \t]++)[\"'“„«(*_]*+([^\W\d_][\w'’-]*)", re.MULTILINE)
NUMBERING = re.compile(r"^[ \t]*+(?:\(?\d{1,3}[.):][ \t]++|(?:step|day|part) \d+:?)", re.IGNORECASE | re.MULTILINE)
HEADING = re.compile(r"^[ \t]*+(?:#+ .*|\*\*[^*\n]+\*\*:?[ \t]*)$", re.MULTILINE)
QUOTED = re.compile(r"[\"“„«]([^\"“”„«»\n]{3,300})[\"”“»]")
FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
TITLE_CASE = 0.35  # more capitalised words than this are no names: German nouns, headlines


@check("grounded", soft=True)
@dataclass(frozen=True, config=STRICT)
class Grounded:
    """Passes where the model was given nothing to answer from. The score is the share that is found; of several
    choices, the lowest."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.8

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        sources = [*notes_in(trace), *sources_in(request)]
        if not sources:
            return PASSED
        told = Told("\n".join([*sources, *(text for _, text in request.turns)]))
        scores: list[float] = []

        def fault(choice: ChoiceDraft) -> str | None:
            claims = list(claims_in(choice.text))
            if not claims:
                return None
            missing = [claim for claim in claims if claim not in told]
            score = 1 - len(missing) / len(claims)
            scores.append(score)
            return None if score >= self.share - 1e-9 else f"{len(missing)} of {len(claims)} claims stand nowhere"

        verdict = judge(draft, fault)
        return Verdict(verdict.passed, verdict.reason, min(scores, default=None))


class Told:
    """A text that can be asked whether it says something."""

    def __init__(self, text: str) -> None:
        self._flat = flat(text)
        self._words = set(WORD.findall(self._flat))
        self._numbers = {plain_number(found) for found in NUMBER.findall(text)}

    def __contains__(self, claim: str) -> bool:
        if claim[:1].isdigit():
            return plain_number(claim) in self._numbers
        if " " in claim:
            return claim in self._flat
        return all(word in self._words for word in WORD.findall(claim))


def notes_in(trace: Trace) -> tuple[str, ...]:
    given = given_in(trace)
    return given.notes if given is not None else ()


def sources_in(request: ChatRequest) -> Iterator[str]:
    """What the request itself brings to answer from: results of tools, documents, long messages that are not the
    model's own."""
    for role, text in request.turns:
        if text and (role in ("tool", "function") or (role != "assistant" and len(words_of(text)) >= SOURCE_WORDS)):
            yield text
    for name in DOCUMENTS:
        yield from texts_in(request.body.get(name))


def texts_in(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, list):
            waiting.extend(found)
        elif isinstance(found, dict):
            waiting.extend(found.values())


def claims_in(text: str) -> Iterator[str]:
    """Numbers as they stand, names and quotations in lower case."""
    text = HEADING.sub("", FENCED.sub("", text))
    for quoted in QUOTED.findall(text):
        yield flat(quoted).strip(" .,!?;:")
    text = QUOTED.sub(" ", NUMBERING.sub("", text))
    yield from NUMBER.findall(text)
    starts = {found.start(1) for found in SENTENCE_START.finditer(text)}
    names = [one for one in NAME.finditer(text) if one[0][0].isupper() and one[0] not in SENTENCE_STARTS]
    if len(names) <= max(3, TITLE_CASE * len(text.split())):
        yield from (flat(one[0]).removesuffix("'s") for one in names if one.start() not in starts)


def flat(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split())


def plain_number(text: str) -> str:
    """ "1,250.00" and "1250" are the same."""
    bare = re.sub(r",(?=\d{3}(?!\d))", "", text)
    return bare.rstrip("0").rstrip(".") if re.fullmatch(r"\d+\.\d+", bare) else bare
