"""Do two answers say the same? Numbers are compared as numbers, JSON as JSON, labels and short texts by their words,
tool calls by name and arguments. Pure: no model is asked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

Said = str | Mapping[str, Any]
"""The text of an answer, or its whole message (`content`, `tool_calls`)."""

ENOUGH_RIGHT = 0.6  # of the words that are to be told
ENOUGH_SHARED = 0.6  # of the words of two free texts
MAX_WORDS = 40  # of an answer in which the right words may stand
MAX_UNORDERED = 100  # items of a list; those of longer ones are compared in their order
LABEL_WORDS = 3  # a label, a name, yes or no
SLACK = 1e-4  # between numbers, relative
ARTICLES = frozenset({"a", "an", "the"})
FILLERS = ARTICLES | frozenset(
    "and are as at be been but by for from has have i in is it its of on or so that their there they this to was were"
    " which with you your answer answers therefore thus hence final result".split()
)
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
NEGATION = re.compile(r"\b(?:not|no|never|none|nothing|neither|nor|cannot|without|false)\b|n't\b", re.IGNORECASE)
FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
FINAL = re.compile(
    r"\\boxed\{(?P<boxed>[^{}]*)\}"
    r"|^[ \t]*+####[ \t]*+(?P<hashes>.+)$"
    r"|\b(?:final answer|(?:the|my) (?:\w+ )?answer|answer)(?: is| =|:)\s*+:?\s*+"
    r"(?P<said>[^\n]+?)(?=[.!?](?:[\s*]|$)|$)",
    re.IGNORECASE | re.MULTILINE,
)
VERDICTS = {"yes": True, "no": False, "true": True, "false": False, "correct": True, "incorrect": False}


def same_answer(one: Said, other: Said) -> bool:
    """Of a long text with a marked result ("The answer is 84", \\boxed{84}, #### 84) the results are compared. Free
    texts are the same where their numbers are, neither denies what the other says, and most of their words agree."""
    left, right = _calls_of(one), _calls_of(other)
    try:
        if left or right:
            return len(left) == len(right) and all(any(_same_call(a, b) for b in right) for a in left)
        return _same_text(text_of(one), text_of(other))
    except RecursionError:  # JSON nested too deeply to be compared
        return one == other


def says(answer: str, accepted: str) -> bool:
    """Does the answer say what is accepted? JSON is compared as JSON, numbers as numbers, one word or line as such; of
    longer answers, most of the accepted words have to be there."""
    wanted = json_in(accepted)
    if isinstance(wanted, (dict, list)):
        return same_value(json_in(answer), wanted)
    text, gold = plain(answer), plain(accepted)
    if not gold:
        return not text
    if text == gold:
        return True
    if NUMBER.fullmatch(accepted.strip()):
        found = NUMBER.findall(answer)
        return len(found) == 1 and number_of(found[0]) == number_of(accepted.strip())
    words = text.split()
    if len(words) > max(MAX_WORDS, 3 * len(gold.split())):
        return False
    if len(gold.split()) <= LABEL_WORDS:
        return f" {gold} " in f" {text} " and _is_single(answer, accepted)
    told = set(words)
    needed = gold.split()
    return sum(word in told for word in needed) >= ENOUGH_RIGHT * len(needed)


def same_value(one: Any, other: Any) -> bool:
    """As JSON values; empty fields do not count."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        left, right = ({k: v for k, v in side.items() if v not in (None, "", [], {})} for side in (one, other))
        return left.keys() == right.keys() and all(same_value(left[k], right[k]) for k in left)
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return False
        if len(one) > MAX_UNORDERED:
            return all(map(same_value, one, other))
        return all(any(same_value(a, b) for b in other) for a in one)
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return _is_close(one, other)
    return plain(str(one)) == plain(str(other))


def _is_close(one: float, other: float) -> bool:
    try:
        return math.isclose(one, other, rel_tol=SLACK, abs_tol=1e-9)
    except OverflowError:  # an integer of hundreds of digits
        return one == other


def plain(text: str) -> str:
    """In lower case, words alone, without articles."""
    words = re.sub(r"[^\w]+", " ", text.casefold()).split()
    return " ".join(word for word in words if word not in ARTICLES)


def json_in(text: str) -> Any:
    """The object or list that a text is, or that its first code fence holds; None where there is none."""
    text = text.strip()
    fence = re.search(r"```\w*+\s*+(.*?)```", text, re.S)
    text = fence.group(1).strip() if fence else text
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def shape_of(text: str) -> str | None:
    """A pattern of what digits and signs it is made of, for codes and dates; None for words."""
    text = text.strip()
    if not any(map(str.isdigit, text)) or " " in text:
        return None
    return "".join(r"\d" if c.isdigit() else "[A-Za-z]" if c.isalpha() else re.escape(c) for c in text)


def number_of(text: str) -> float:
    return float(text.replace(",", ""))


def final_of(text: str) -> str | None:
    """What a text marks as its result, the last one where it does so several times."""
    marks = list(FINAL.finditer(text))
    if not marks:
        return None
    marked = next(part for part in marks[-1].groups() if part is not None)
    return marked.strip().strip("*$`\"'").rstrip(".!").strip("*$`\"' ")


def _is_single(answer: str, accepted: str) -> bool:
    """One form of word or number, as dates and labels are: an answer that holds two of that form tells neither."""
    form = shape_of(accepted)
    if form is None:
        return True
    return len({match.group() for match in re.finditer(form, answer)}) == 1


def _same_text(one: str, other: str) -> bool:
    left, right = json_in(one), json_in(other)
    if left is not None or right is not None:
        return left is not None and right is not None and same_value(left, right)
    if plain(one) == plain(other) and one.strip() and other.strip():
        return _numbers(one) == _numbers(other)
    if not plain(one) or not plain(other):
        return one.strip() == other.strip()
    codes = FENCE.findall(one), FENCE.findall(other)
    if codes[0] or codes[1]:
        return [_bare(code) for code in codes[0]] == [_bare(code) for code in codes[1]]
    finals = final_of(one), final_of(other)
    if finals[0] and finals[1]:
        return _same_short(finals[0], finals[1])
    return _same_short(finals[0] or one, finals[1] or other)


def _same_short(one: str, other: str) -> bool:
    verdicts = _verdict(one), _verdict(other)
    if None not in verdicts:
        return verdicts[0] == verdicts[1]
    numbers = _numbers(one), _numbers(other)
    if numbers[0] != numbers[1] and (numbers[0] or numbers[1]):
        return _is_number_in(one, other) or _is_number_in(other, one)
    words = plain(one).split(), plain(other).split()
    shorter, longer = sorted((one, other), key=lambda text: len(plain(text)))
    if _denies(one) != _denies(other):
        return False
    if min(map(len, words)) <= LABEL_WORDS:
        return says(longer, shorter)
    return _shared(words[0], words[1]) >= ENOUGH_SHARED


def _shared(one: list[str], other: list[str]) -> float:
    """Share of the words of both that both have."""
    left, right = set(one) - FILLERS, set(other) - FILLERS
    if not left or not right:
        return float(left == right)
    return 2 * len(left & right) / (len(left) + len(right))


def _is_number_in(number: str, text: str) -> bool:
    """A bare number, with a unit perhaps, that a sentence says at its end: "84" and "12 times 7 is 84"."""
    said, found = NUMBER.findall(number), NUMBER.findall(text)
    if len(said) != 1 or not found or len(plain(NUMBER.sub(" ", number)).split()) > 1:
        return False
    return _is_close(number_of(said[0]), number_of(found[-1]))


def _numbers(text: str) -> list[float]:
    return sorted({round(number_of(found), 9) for found in NUMBER.findall(text)})


def _verdict(text: str) -> bool | None:
    """Yes or no, where an answer begins with it."""
    first = plain(text).split(" ", 1)[0]
    return VERDICTS.get(first)


def _denies(text: str) -> bool:
    return len(NEGATION.findall(text)) % 2 == 1


def _bare(code: str) -> str:
    """Without empty lines and comments at the ends of lines, which two authors write differently."""
    lines = (re.sub(r"\s+(?:#|//) .*$", "", line).rstrip() for line in code.splitlines())
    return "\n".join(line for line in lines if line and not line.lstrip().startswith(("# ", "// ")))


def text_of(said: Said) -> str:
    if isinstance(said, str):
        return said
    content = said.get("content")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _calls_of(said: Said) -> list[Mapping[str, Any]]:
    if isinstance(said, str):
        return []
    calls = [call for call in said.get("tool_calls") or () if isinstance(call, Mapping)]
    legacy = said.get("function_call")
    return [*calls, {"function": legacy}] if isinstance(legacy, Mapping) else calls


def _same_call(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    left, right = _part_of(one), _part_of(other)
    if left.get("name") != right.get("name"):
        return False
    given = [part.get("arguments", part.get("input")) for part in (left, right)]
    parsed = [_parsed(text) for text in given]
    return same_value(parsed[0], parsed[1])


def _part_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    part = call.get("function") or call.get("custom")
    return part if isinstance(part, Mapping) else {}


def _parsed(arguments: object) -> object:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
