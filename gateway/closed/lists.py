"""Short items in a row: after a colon or a word, on one line or one to a line."""

from __future__ import annotations

import re

from gateway.closed.wording import PASSING

MOST_OPTIONS = 200
MOST_CHARS = 60  # of an item
MOST_WORDS = 5
LONGEST_CHARS = 8_000  # of a list
BULLET = re.compile(r"[ \t]*(?:[-*•–+]|\(?\d{1,3}[.)])[ \t]+(?P<item>\S.*)")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n|(?<=\w)\s+(?=(?:for|to) (?:each|every|the|this)\b)")
REMARK = re.compile(r"\s*(?:\([^()]*\)|(?::|\s[-–—])\s.*)$")
TRAILER = re.compile(
    r"[,;]?\s*[(]?\b(?:and )?(?:nothing else|nothing more|no other \w+|only|respectively|"
    r"with no\b.*|without\b.*|do not\b.*)[)]?\s*$",
    re.IGNORECASE,
)
CLOSING = {"[": "]", "{": "}", "(": ")", "<": ">"}
AROUND = " \t\r\n\"'`“”‘’«»*"
NO_ITEM = re.compile(
    r"(?:in|with|without|as|for|depending|based|if|then|to|by|from|on|at|when|please|the|your|but|where|according|which|"
    r"that|this|you|it|i|we|they|there)\b",
    re.IGNORECASE,
)


def listed(text: str, start: int, *, is_loose: bool = True) -> tuple[tuple[str, ...], int]:
    """The items, and where the list ends; none where what stands there is no list of short, different things.

    Args:
        is_loose: items may have several words without being quoted.
    """
    text = text[: start + LONGEST_CHARS]
    items, end = _bullets(text, start)
    if not items:
        items, end = _inline(text, start, is_loose=is_loose)
    names = [item.strip(AROUND) for item in items]
    if not 2 <= len(names) <= MOST_OPTIONS or len({name.casefold() for name in names}) < len(names):
        return (), start
    return (tuple(names), end) if all(map(_is_item, names)) else ((), start)


def _is_item(name: str) -> bool:
    words = name.split()
    if not name or len(name) > MOST_CHARS or len(words) > MOST_WORDS or PASSING.search(name):
        return False
    return not (len(words) > 2 and NO_ITEM.match(name)) and any(map(str.isalnum, name))


def _bullets(text: str, start: int) -> tuple[list[str], int]:
    """One to a line, with a mark before each or, if they are short, without. What is said about one is left out."""
    if text[start:].split("\n", 1)[0].strip():
        return [], start
    items: list[str] = []
    end = start
    is_marked: bool | None = None
    for line in text[start:].splitlines(keepends=True):
        found = BULLET.match(line)
        if not line.strip():
            if items and not is_marked:
                break
        elif is_marked is False and found is None:
            items.append(line.strip())
        elif found is not None and is_marked is not False:
            is_marked = True
            items.append(found["item"].strip())
        elif is_marked is None:
            is_marked = False
            items.append(line.strip())
        else:
            break
        end += len(line)
    names = [REMARK.sub("", item).rstrip(",;.") for item in items]
    return (names, end) if is_marked or all(len(name.split()) <= 3 for name in items) else ([], start)


def _inline(text: str, start: int, *, is_loose: bool) -> tuple[list[str], int]:
    begin = start + len(text[start:]) - len(text[start:].lstrip(" \t\n"))
    closing = CLOSING.get(text[begin : begin + 1])
    if closing is not None:
        end = text.find(closing, begin)
        if end < 0:
            return [], start
        return _split(text[begin + 1 : end]), end + 1
    end, depth_end = begin, len(text)
    while (found := SENTENCE_END.search(text, end)) is not None:
        depth_end = found.start()
        if found[0] != "\n" or not text[begin : found.start()].rstrip().endswith((",", ";", "|", " or")):
            break
        end, depth_end = found.end(), len(text)
    row = TRAILER.sub("", text[begin:depth_end].rstrip())
    items = _split(row)
    is_bound = is_loose or all(len(item.split()) == 1 or item.strip()[:1] in "\"'`“" for item in items)
    return (items, depth_end) if is_bound or _says_not(items) else ([], start)


def _says_not(items: list[str]) -> bool:
    """`spam or not spam`"""
    return len(items) == 2 and items[1].strip().casefold() == f"not {items[0].strip().casefold()}"


def _split(row: str) -> list[str]:
    row = re.sub(r"\s*\([^()]*\)", "", row)  # remarks
    for separator in (";", "|", ","):
        if separator in row:
            items = [item.strip() for item in row.split(separator)]
            last = re.sub(r"^(?:or|and|and/or)\s+", "", items[-1])
            items[-1:] = re.split(r"\s+or\s+", last) if last == items[-1] else [last]
            return [item for item in items if item]
    for separator in (r"\s+or\s+", r"\s*/\s*", r"\s+and\s+"):
        items = re.split(separator, row)
        if len(items) > 1:
            return items
    return [row]
