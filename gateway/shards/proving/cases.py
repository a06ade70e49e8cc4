"""What a shard is tested with, and whether an answer is right."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from gateway.quality.same import json_in, plain, says
from gateway.shards import Case, Kind, Origin, Shard
from gateway.shards.choose import WORD, words_of
from gateway.tokens import estimate

MAX_ANSWER_TOKENS = 48
CONTROL_TOKENS = 24
CUTS = (0.6, 0.45, 0.75)  # of a sentence's words, from which its end is to be told
MOST_QUESTIONS = 4
ASKED_TO_END = ("Complete the sentence:", "Write the whole sentence that begins with:", "Finish this sentence:")
YES_OR_NO = ("do ", "does ", "did ", "is ", "are ", "was ", "were ", "have ", "has ", "can ", "will ")
ALONE = re.compile(r"\b(?:alone|nothing (?:else|but|more)|no other words?|(?:only|just) the)\b", re.IGNORECASE)
MIN_WORDS = 5  # of a sentence that can be tested


def cases_of(shard: Shard) -> list[Case]:
    """Those that it brings; else for a fact those that can be made of its text: its first questions, and its sentence
    begun, to be ended."""
    if shard.cases or shard.kind is Kind.PROCESS or not shard.fact:
        return list(shard.cases)
    cases = [
        Case(({"role": "user", "content": question},), (missing,))
        for question in shard.questions
        if not question.lower().startswith(YES_OR_NO) and (missing := missing_words(shard.fact, question))
    ][:MOST_QUESTIONS]
    limit = {"max_tokens": 2 * estimate(shard.fact) + 16}  # the whole sentence may be said
    begun = [(asks, begun, end) for asks in ASKED_TO_END for begun, end in endings(shard.fact)]
    for asks, begins, end in begun[: max(1, len(ASKED_TO_END) - len(cases))]:
        cases.append(Case(({"role": "user", "content": f"{asks} {begins}"},), (end,), fields=limit))
    origins = [Origin.SOURCE, *[Origin.PARAPHRASE] * (len(cases) - 2), Origin.HELD_OUT]
    return [replace(case, origin=origin) for case, origin in zip(cases, origins, strict=False)]


def endings(fact: str) -> list[tuple[str, str]]:
    """The sentence, cut at several places: what is said of it, and what is to be told. No cut is within a name."""
    words = fact.rstrip(".!?").split()
    out: dict[int, tuple[str, str]] = {}
    cuts = [n for n in range(2, len(words)) if words[n][:1].islower() or words[n][:1].isdigit()]
    for share in CUTS:
        cut = min(cuts, key=lambda n: abs(n - share * len(words)), default=None)
        if cut is not None and len(words) >= MIN_WORDS:
            begun, end = " ".join(words[:cut]), " ".join(words[cut:])
            if words_of(end) - words_of(begun):
                out.setdefault(cut, (begun, end))
    return list(out.values())


def missing_words(fact: str, question: str) -> str:
    """The words of a fact that its question does not hold: what an answer has to tell."""
    asked = words_of(question)
    return " ".join(w for w in WORD.findall(fact) if w.lower() in words_of(w) and w.lower() not in asked)


SHORT = {"max_tokens": CONTROL_TOKENS}


def body_of(case: Case) -> dict[str, Any]:
    """The request, answered in the likeliest words."""
    limits = {} if "max_tokens" in case.fields else {"max_tokens": MAX_ANSWER_TOKENS}
    return {**case.fields, **limits, "temperature": 0, "messages": [dict(message) for message in case.messages]}


def is_right(case: Case, answer: str) -> bool:
    """Does the answer say one of what is accepted? JSON is compared as JSON, numbers as numbers, one word or line as
    such; of longer answers, most of the accepted words have to be there. Where the answer is wanted alone, a sentence
    around it is wrong."""
    is_strict = any(ALONE.search(str(message.get("content") or "")) for message in case.messages)
    return any(
        says(answer, accepted) and not (is_strict and is_wrapped(answer, accepted)) for accepted in case.accepted
    )


def is_wrapped(answer: str, accepted: str) -> bool:
    """Does it say more words than that? JSON and numbers are not words."""
    return json_in(accepted) is None and len(plain(answer).split()) > len(plain(accepted).split())


@cache
def controls() -> tuple[Case, ...]:
    """Everyday questions, which a shard about something else must not make worse."""
    lines = files("gateway.shards.proving").joinpath("controls.jsonl").read_text("utf-8").splitlines()
    read = (json.loads(line) for line in lines if line.strip())
    return tuple(
        Case(({"role": "user", "content": one["question"]},), tuple(one["accepted"]), Origin.CONTROL, SHORT)
        for one in read
    )


def by_origin(cases: Sequence[Case], *origins: Origin) -> list[Case]:
    return [case for case in cases if case.origin in origins]
