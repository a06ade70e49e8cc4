"""Does a draft tell what another model's answer tells? For labels: which drafts would have been as good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from gateway.quality.same import NUMBER, Said, number_of, plain, same_answer, says, text_of

MAX_SENTENCE_WORDS = 40  # of a draft in which a terse answer may stand
MAX_TERSE_WORDS = 8  # of an answer that a sentence may hold
MONTHS = {
    name: number
    for number, names in enumerate(
        ("jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july", "aug august")
        + ("sep sept september", "oct october", "nov november", "dec december"),
        start=1,
    )
    for name in names.split()
}
_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
MONTH_FIRST = re.compile(rf"\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+(\d{{4}})\b)?", re.IGNORECASE)
DAY_FIRST = re.compile(
    rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTH}|this month)\b\.?(?:,?\s+(\d{{4}})\b)?", re.IGNORECASE
)
ABBREVIATION = re.compile(r"[A-Z]{2,5}")
NAME = re.compile(r"[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)+")
LETTERS_LEFT = 1  # of an abbreviation that the words of its name do not begin with: NYC, LAX
TIME = re.compile(r"\b(\d{1,2})(?::(\d{2}))?\s*(am|pm|a\.m\.|p\.m\.)|\b(\d{1,2}):(\d{2})\b", re.IGNORECASE)


class Date(NamedTuple):
    """0 where it is not said."""

    year: int
    month: int
    day: int


def agrees(draft: Said, reference: Said) -> bool:
    """As `same_answer`; moreover an answer of a few words may stand in a sentence, and dates and times of day are
    compared as such, whichever way they are written: "March 12th" and "2019-03-12" agree; so do a name and its
    abbreviation."""
    if same_answer(draft, reference):
        return True
    said, wanted = text_of(draft), text_of(reference)
    if not said or not wanted or len(plain(wanted).split()) > MAX_TERSE_WORDS:
        return False
    if len(plain(said).split()) > MAX_SENTENCE_WORDS:
        return False
    for read in (dates_in, times_in):
        asked = list(dict.fromkeys(read(wanted)))
        if len(asked) == 1 and _is_all(wanted, read is dates_in):
            found = list(dict.fromkeys(read(said)))
            return len(found) == 1 and _is_compatible(found[0], asked[0])
    if NUMBER.fullmatch(wanted.strip()):
        return {number_of(number) for number in NUMBER.findall(said)} == {number_of(wanted.strip())}
    return says(said, wanted) or _is_short_for(wanted, said) or _is_short_for(said, wanted)


def dates_in(text: str) -> Iterator[Date]:
    for year, month, day in ISO.findall(text):
        yield Date(int(year), int(month), int(day))
    for name, day, year in MONTH_FIRST.findall(text):
        yield Date(int(year or 0), MONTHS[name.lower()], int(day))
    for day, name, year in DAY_FIRST.findall(text):
        yield Date(int(year or 0), MONTHS.get(name.lower(), 0), int(day))


def times_in(text: str) -> Iterator[tuple[int, int]]:
    """(hour, minute) of times of day."""
    for hour, minute, half, hour_of_day, its_minute in TIME.findall(text):
        if half:
            yield int(hour) % 12 + (12 if half.lower().startswith("p") else 0), int(minute or 0)
        else:
            yield int(hour_of_day), int(its_minute)


def _is_short_for(text: str, other: str) -> bool:
    """Is it an abbreviation, and nothing else, of a name in the other?"""
    short = text.strip().rstrip(".")
    if ABBREVIATION.fullmatch(short) is None:
        return False
    for found in NAME.findall(other):
        initials = "".join(word[0] for word in found.split())
        for begin in range(len(initials) - 1):  # a sentence may begin with a word that is not of the name
            own = initials[begin : begin + len(short)]
            if len(own) > 1 and short.startswith(own) and len(short) - len(own) <= LETTERS_LEFT:
                return True
    return False


def _is_all(text: str, is_date: bool) -> bool:
    """Nothing else is said."""
    patterns = (ISO, MONTH_FIRST, DAY_FIRST) if is_date else (TIME,)
    rest = text
    for pattern in patterns:
        rest = pattern.sub(" ", rest)
    return not plain(rest)


def _is_compatible(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """What one of them leaves open, the other may say."""
    if isinstance(one, Date):
        return all(a == b or not a or not b for a, b in zip(one, other, strict=True))
    return one == other
