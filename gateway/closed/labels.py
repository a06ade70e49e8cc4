"""Labels that a prompt states as the only answers: `one of these labels: a, b, c`, lists of them, `yes or no`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Literal, NamedTuple

from gateway.closed.lists import listed
from gateway.closed.wording import AIMS, ORDERS, OTHERWISE, RESTRICTS, SAYING, SORTING, SORTS, wants_more

NEAR_CHARS = 600  # a user's instruction stands near the beginning of what they say, or near its end
REMEMBERED = 512  # texts that were read
MOST_LISTS = 32  # of a kind that are looked at

NOUN = (
    r"(?:labels?|categor(?:y|ies)|class(?:es)?|intents?|options?|choices?|tags?|topics?|types?|departments?|teams?|"
    r"queues?|answers?|values?|words?|sentiments?|emotions?|genres?|domains?|languages?|levels?|priorit(?:y|ies)|"
    r"severit(?:y|ies)|status(?:es)?|verdicts?|strings?|codes?|folders?|ratings?|sections?|groups?|buckets?|moods?)"
)
ONE_OF = re.compile(
    r"\b(?:one|which)\s+of\b[^:.\n]{0,100}:|\bone\b[^:.\n]{0,40}\bfrom\b[^:.\n]{0,60}:|"
    r"\bone\s+of\s+(?=[\"'`“\[({]|(?:[\w-]+\s*,\s*)+)",
    re.IGNORECASE,
)
HEADER = re.compile(
    rf"(?:^|[.!?\n][ \t]*|\b(?:the|these|following|possible|allowed|valid|available|candidate|permitted|target|are)\s+)"
    rf"(?:[\w-]+\s+)?{NOUN}(?:\s+(?:are|is|to choose from|you may use|below|list|and nothing else))?"
    rf"\s*(?:\([^()\n]{{0,60}}\))?\s*:|"
    rf"\b(?:choose|pick|select)\b[^:.\n]{{0,60}}\bfrom\b[^:.\n]{{0,40}}:|\b{NOUN}\s+(?=[(\[{{])",
    re.IGNORECASE,
)
SORTED_AS = re.compile(
    rf"\b{SORTING}\b[^.:\n]{{0,80}}?\b(?:as|into)\s+(?:either\s+)?(?=[\w\"'`“\[({{])|"
    rf"\b(?:answer|respond|reply|be)\s+(?:only\s+)?(?:with\s+)?(?:only\s+)?(?:either\s+)?(?=[\"'`“])",
    re.IGNORECASE,
)
ONE_NOUN = re.compile(
    rf"\b{SAYING}\b[^.:\n]{{0,60}}?\b(?:a|an|the|its|one|that|single|only|matching|best)\s+(?:[\w-]+\s+){{0,2}}?{NOUN}\b|"
    rf"\b(?:labels|intents|possible answers)\b",
    re.IGNORECASE,
)
"""Who wants *the* label of something has listed labels for that."""
NOT_TO_ANSWER = re.compile(
    r"\b(?:about|in|from|on|for|of|at|like|using|use|used|uses|through|via|by|visit|call|try|buy|had|have|has)\s+"
    r"(?:(?:exactly|only|just|at least|any)\s+)?$",
    re.IGNORECASE,
)
SIMPLE = (
    r"(?:yes|no|true|false|maybe|unknown|unsure|unclear|uncertain|positive|negative|neutral|mixed|correct|incorrect|"
    r"right|wrong|valid|invalid|spam|ham|agree|disagree|pass|fail|relevant|irrelevant|safe|unsafe|toxic|neither|both|"
    r"entailment|contradiction|high|medium|low|supported|refuted|not sure|not spam|none|other)"
)
BARE = rf"[\"'`“*]{{0,3}}{SIMPLE}[\"'`”*]{{0,3}}"
SIMPLE_LIST = re.compile(
    rf"(?<![\w-]){BARE}(?: ?, ?{BARE}){{0,8}} ?,? ?(?:\bor\b|/|\|) ?{BARE}(?![\w-])", re.IGNORECASE
)
SAID_BEFORE = re.compile(
    r"\b(?:answer\w*|respon[ds]\w*|reply|return|output|print|write|state|say|with|as|only|just|either|must be|"
    r"classify|label|decide|determine|judge)\b[^.:\n]{0,60}:?\s*$|[(\[]\s*$",
    re.IGNORECASE,
)
WHETHER_BEFORE = re.compile(r"\b(?:whether|if)\b[^.:\n]{0,80}\b(?:is|are|was|expresses|sounds)\s*$", re.IGNORECASE)
NOT_BEFORE = re.compile(r"\b(?:not|never|don't|avoid|can't|cannot|without)\b[^.,;:\n]{0,60}$", re.IGNORECASE)
TRUE_OR_FALSE = re.compile(r"^\s*(true) or (false)\s*[:?]|(?<=[.!?\n] )(true) or (false)\?\s*$", re.IGNORECASE)


Kind = Literal["one of", "header", "sorted as", "simple", "whether"]
BROUGHT_IN: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("one of", ONE_OF),
    ("header", HEADER),
    ("sorted as", SORTED_AS),
)


class Found(NamedTuple):
    """`intro` is where the words begin that bring the list in; the list stands from `start` to `end`."""

    options: tuple[str, ...]
    kind: Kind
    intro: int
    start: int
    end: int


@lru_cache(maxsize=REMEMBERED)
def stated(text: str, *, is_told: bool) -> tuple[str, ...]:
    """The labels; none where the text does not ask for exactly one of them. `is_told`: by the operator, else by the
    user."""
    for found in _lists(text):
        if is_told:
            rest = f"{text[: found.start]} {text[found.end :]}"
        elif min(found.intro, len(text) - found.end) <= NEAR_CHARS:
            rest = _instruction(text, found)
        else:
            continue
        if _is_wanted(found, rest, is_told):
            return found.options
    match = None if is_told or wants_more(text) else TRUE_OR_FALSE.search(text)
    words = [word for word in match.groups() if word] if match else []
    return tuple(word.title() if words[0].istitle() else word for word in words)


def _is_wanted(found: Found, rest: str, is_told: bool) -> bool:
    """`rest`: what is said around the list."""
    options = {option.casefold() for option in found.options}
    if wants_more(rest) or any(one["word"].strip().casefold() not in options for one in OTHERWISE.finditer(rest)):
        return False
    if not (AIMS.search(rest) if is_told else ORDERS.search(rest)):
        return False
    if found.kind == "header":
        return bool(SORTS.search(rest) or ONE_NOUN.search(rest))
    if found.kind == "whether":
        return RESTRICTS.search(rest) is not None
    return is_told or found.kind == "simple" or bool(RESTRICTS.search(rest) or SORTS.search(rest))


def _instruction(text: str, found: Found) -> str:
    """What a user says around the list, in its paragraph: what they want sorted is not part of it."""
    begin = text.rfind("\n\n", 0, found.intro) + 1
    after = text.find("\n\n", found.end)
    end = len(text) if after < 0 else after
    return f"{text[begin : found.start]} {text[found.end : end]}"


def _lists(text: str) -> Iterator[Found]:
    for kind, pattern in BROUGHT_IN:
        for match in islice(pattern.finditer(text), MOST_LISTS):
            if NOT_TO_ANSWER.search(_before(text, match)):
                continue
            options, end = listed(text, match.end(), is_loose=kind != "sorted as")
            if options:
                yield Found(options, kind, match.start(), match.end(), end)
    for match in islice(SIMPLE_LIST.finditer(text), MOST_LISTS):
        before = _before(text, match)
        is_said = SAID_BEFORE.search(before)
        if NOT_BEFORE.search(before) or not (is_said or WHETHER_BEFORE.search(before)):
            continue
        options, _ = listed(match[0], 0)
        if options:
            yield Found(options, "simple" if is_said else "whether", match.start(), match.start(), match.end())


def _before(text: str, match: re.Match[str]) -> str:
    return text[max(0, match.start() - 120) : match.start()]
