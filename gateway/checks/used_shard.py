"""`used_shard`: what the model was given for this answer is to be seen in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import CHECKS, STRICT, Check, check
from gateway.checks.choices import judge
from gateway.draft import ChoiceDraft, Draft
from gateway.given import FACT, Given
from gateway.stems import stem
from gateway.trace import Trace

NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
OF_SHARDS = frozenset(
    "finish_reason json json_schema language length no_loop not_echo not_empty not_refusal one_of regex".split()
)  # none that asks, runs or fetches anything
log = logging.getLogger(__name__)
WORD = re.compile(r"[^\W_]+")
NAME = re.compile(r"\b[A-Z][\w'’-]+")
SENTENCE_STARTS = frozenset(
    "A An And As At But By For From How I If In It Its No Not Of On Or She So That The Their Then There These They This"
    " Those To We What When Where Which Who Why With Yes You Your He Here His Her".split()
)
WORTH = 4  # letters of a word that tells something
LONGER = 3.0  # times the longest answer of the examples


@check("used_shard", soft=True)
@dataclass(frozen=True, config=STRICT)
class UsedShard:
    """Passes where no shard was given.

    Of sentences and passages: the answer holds a word that stands in them and not in the question, and `share` of its
    names and numbers stand in them or in the conversation. Of worked examples: the answer has the form that they all
    have (one line, a date, a number, JSON with the same keys), and is not much longer. The checks, options and schema
    that came with a shard are passed.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.5

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        given = given_in(trace)
        if given is None or not draft.complete or not (given.notes or given.answers):
            return PASSED
        asked = "\n".join(text for _, text in request.turns)

        def fault(choice: ChoiceDraft) -> str | None:
            if choice.parts.get("tool_calls") or not choice.text.strip():
                return None  # for other checks
            if given.answers and not given.notes:
                return out_of_form(choice.text, given.answers)
            if given.notes and not given.answers:
                return self.unread(choice.text, given.notes, asked, given.question)
            return None  # of both, one may have been of no use

        verdict = judge(draft, fault)
        for spec in given.checks if verdict.passed else ():
            failed = await failure_of(spec, request, draft, trace)
            if failed:
                return Verdict(False, failed)
        return verdict

    def unread(self, answer: str, notes: Sequence[str], asked: str, question: str) -> str | None:
        noted = "\n".join(notes)
        told = stems(word for word in WORD.findall(answer) if len(word) >= WORTH or word.isdigit())
        if not (told - stems(WORD.findall(question))) & stems(WORD.findall(noted)):
            return "nothing of what it was given is in it"
        known = f"{noted}\n{asked}"
        named = names_in(answer)
        if not named:
            return None
        found = sum(name in known for name in named)
        return None if found >= self.share * len(named) else "its names and numbers are not those that it was given"


async def failure_of(spec: Any, request: ChatRequest, draft: Draft, trace: Trace) -> str | None:
    """Which check of a shard fails, and why. One that this gateway does not have, or that is written wrong, tells
    nothing."""
    name, parameters = next(iter(spec.items())) if isinstance(spec, dict) and len(spec) == 1 else (spec, {})
    kind = CHECKS.get(name) if isinstance(name, str) and name in OF_SHARDS else None
    if kind is None:
        return None
    try:
        check: Check = kind(**parameters) if isinstance(parameters, dict) else kind(parameters)
    except (TypeError, ValueError) as exc:
        log.info("check %s of a shard is left out: %s", name, type(exc).__name__)
        return None
    verdict = await check(request, draft, trace)
    return None if verdict.passed else f"{name}: {verdict.reason}"


def given_in(trace: Trace) -> Given | None:
    """What the last model asked in this hop was given."""
    found = None
    for hop in trace.walk(checks=False):
        if hop.kind == "shards" and hop.facts:
            found = hop.facts[FACT]
    return found if isinstance(found, Given) else None


def stems(words: Iterable[str]) -> frozenset[str]:
    return frozenset(stem(word.lower()) for word in words)


def names_in(text: str) -> set[str]:
    """Numbers, and capitalised words that are more than a sentence's beginning."""
    names = {name for name in NAME.findall(text) if name not in SENTENCE_STARTS}
    first = text.lstrip().split(" ", 1)[0]
    return set(NUMBER.findall(text)) | (names - {first})


def out_of_form(answer: str, examples: Sequence[str]) -> str | None:
    answer = answer.strip()
    shown = [example.strip() for example in examples]
    if all("\n" not in one for one in shown) and "\n" in answer:
        return "of several lines, where the examples have one"
    if len(answer) > LONGER * max(map(len, shown)) + 10:
        return "much longer than the examples"
    form = common_form(shown)
    if form is not None and not re.fullmatch(form, answer):
        return "not of the form that the examples have"
    return None


def common_form(texts: Sequence[str]) -> str | None:
    """A pattern of digits and signs that all of them fit: dates, numbers, codes. None where words are in them."""
    if all(text[:1] in "{[" for text in texts):
        return r"(?s)[{\[].*[}\]]"
    if any(re.search(r"[^\W\d_]", text) or not re.search(r"\d", text) for text in texts):
        return None
    forms = {re.sub(r"\d", r"\\d", re.sub(r"([^\d])", r"\\\1", text)) for text in texts}
    if len(forms) == 1:
        return forms.pop()
    signs = "".join(sorted({char for text in texts for char in text if not char.isdigit()}))
    return rf"[\d{re.escape(signs)}]+"
