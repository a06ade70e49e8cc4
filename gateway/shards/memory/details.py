"""The details that people agree on when something is booked, found in a sentence: days, times, numbers, places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Detail(StrEnum):
    DATE = "date"
    TIME = "time"
    END_DATE = "end date"
    END_TIME = "end time"
    PEOPLE = "people"
    ROOMS = "rooms"
    TICKETS = "tickets"
    DAYS = "days"
    PRICE = "price"
    CLASS = "class"
    CARRIER = "carrier"
    ORIGIN = "origin"
    DESTINATION = "destination"
    PLACE = "place"
    VENUE = "venue"
    CITY = "city"
    PHONE = "phone"
    SORT = "sort"


@dataclass(frozen=True)
class Found:
    kind: Detail
    text: str
    start: int
    end: int


NUMBER = r"(?:\d{1,4}|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|a couple of)"
COUNT = r"(?:\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
ORDINAL = r"\d{1,2}(?:st|nd|rd|th)"
DAY = re.compile(
    rf"\b(?:(?:the )?day after tomorrow|today|tonight|tomorrow(?: (?:morning|afternoon|evening|night))?"
    rf"|(?:{WEEKDAY},? )?{MONTH} (?:the )?\d{{1,2}}(?:st|nd|rd|th)?(?!:)(?:,? (?:19|20)\d\d)?"
    rf"|(?:{WEEKDAY},? )?(?:the )?{ORDINAL}(?: of)? (?:this month|next month|{MONTH})(?:,? (?:19|20)\d\d)?"
    rf"|\d{{1,2}} {MONTH}(?! \d)(?:,? (?:19|20)\d\d)?"
    rf"|(?:19|20)\d\d-\d\d-\d\d|\d{{1,2}}/\d{{1,2}}(?:/(?:\d\d){{1,2}})?"
    rf"|(?:(?:this|next|coming|on) (?:coming )?)?{WEEKDAY}(?: (?:this|next) week)?(?: (?:morning|"
    rf"afternoon|evening|night))?"
    rf"|(?:this|next) (?:week|month|weekend)|the {ORDINAL}(?! (?:street|avenue|floor|st\b|ave\b)))\b",
    re.IGNORECASE,
)
HOUR = re.compile(
    r"\b(?:(?:half|quarter) (?:past|to) \w+(?: in the (?:morning|afternoon|evening))?"
    r"|(?:morning|afternoon|evening|night) (?:at )?\d{1,2}(?::\d\d)?"
    r"|\d{1,2}(?::\d\d)? ?(?:a\.?m\b\.?|p\.?m\b\.?|o['\" ]?clock(?: in the (?:morning|afternoon|"
    r"evening))?|in the (?:morning|afternoon|evening))"
    r"|\d{1,2}:\d\d(?! ?%)(?: in the (?:morning|afternoon|evening))?"
    r"|(?:at )(?:noon|midnight))",
    re.IGNORECASE,
)
ENDS = re.compile(
    r"\b(?:check(?:s|ing|ed)?(?: (?:me|us|you))?[- ]?out|checkout|return\w*|until|till|through|"
    r"drop\w*(?:[- ]off)?|back|ends?|ending|leave there|inbound)\b",
    re.IGNORECASE,
)
BEGINS = re.compile(
    r"\b(?:check(?:s|ing|ed)?(?: (?:me|us|you))?[- ]?in(?:to)?|depart\w*|leav(?:e|es|ing)|"
    r"onward|outbound|pick(?:ed|ing)?[- ]?up|starts?|starting|from|arriv\w*|begin\w*|outgoing)\b(?! "
    r"back)",
    re.IGNORECASE,
)
COMES = re.compile(r"\barriv|\bcheck\w*(?: \w+)?[- ]?in", re.IGNORECASE)
LEAVES = re.compile(r"leav|start|from|arriv|begin", re.IGNORECASE)
MONEY = re.compile(r"(?:[$€£]\s?\d[\d,]*(?:\.\d\d)?|\b\d[\d,]*(?:\.\d\d)? (?:dollars|euros|pounds))")
TELEPHONE = re.compile(r"(?:\+\d{1,3}[ -]?)?(?:\(?\d{2,4}\)?[ -])\d{3,4}[ -]\d{3,4}\b|\+\d[\d -]{8,16}\d\b")
SEAT = re.compile(r"\b(?:premium economy|economy|business|first)(?: class)?(?= |[.,?!]|$)", re.IGNORECASE)
AIRLINE = re.compile(
    r"\b(?:[A-Z][\w&'-]*\s){1,3}?(?:[Aa]irlines?|[Aa]irways|[Aa]ir [Ll]ines)\b|\b(?:Air [A-Z]\w+|"
    r"Lufthansa|Ryanair|EasyJet|KLM|JetBlue|Greyhound|Amtrak|Megabus|FlixBus|Eurostar)\b"
)
UNITS: tuple[tuple[Detail, str], ...] = (
    (Detail.ROOMS, r"(?:bed)?rooms?"),
    (Detail.DAYS, r"(?:days?|nights?|weeks?)"),
    (Detail.TICKETS, r"(?:tickets?|seats?)"),
    (
        Detail.PEOPLE,
        r"(?:people|persons?|guests?|passengers?|adults?|travell?ers?|diners?|riders?|of us|"
        r"friends|your ?self|individuals?)",
    ),
)
NAME_WORD = r"(?:(?:Dr|Mr|Mrs|Ms|Prof|St|Mt)\.|[A-Z][\w'’.&+-]*\w|[A-Z]|\d+[A-Za-z]*(?![\w:]))"
JOINT = r"(?:&|-|–|of|the|and|by|de|del|la|le|les|du|des|von|da|do|y|e|for the)"
NAME = re.compile(
    rf"(?:[Tt]he )?{NAME_WORD}(?:,? ?(?:{JOINT} )?(?<=[ ]){NAME_WORD}|\s(?:{JOINT}\s){{1,2}}{NAME_WORD}|"
    rf"\s{NAME_WORD})*(?:, [A-Z]{{2}}\b)?"
)
BEFORE = re.compile(r"(?P<word>[\w']+)[ :]*(?P<article>(?:the|a|an|your|my|its?) )?(?:[\"“] ?)?$", re.IGNORECASE)
NOT_NAMES = frozenset(
    "i i'm i'd i've ok okay yes no sure great perfect please thank thanks what which when "
    "where who how is are do does so just and the this that it there "
    "here you your yours a an in at on to for of with would could can will right correct also "
    "my we economy business premium monday tuesday "
    "wednesday thursday friday saturday sunday january february march april may june july "
    "august september october november december today "
    "tomorrow let let's alright good nice awesome excellent confirm confirming booking reservation "
    "reserving table flight hotel restaurant room "
    "ticket tickets passenger departure return arrival anything have enjoy hello hi bye not "
    "but or if they he she one two three four five".split()
)  # fmt: skip
PLACE_NOUN = re.compile(
    r"\b(?:restaurant|hotel|diner|cafe|salon|clinic|hospital|dentist|doctor|dr|event|concert|"
    r"show|movie|film|game|match|venue|"
    r"theat(?:er|re)|museum|apartments?|property|shop|song|album|band|bar|stylist|therapist)\b",
    re.IGNORECASE,
)
CITY_BEFORE = frozenset(("in", "near", "around"))
PLACE_BEFORE = frozenset("at into with called named visit see is for watch attend play".split())
STREET = re.compile(
    r"\b\d+[\w-]* (?:[A-Z][\w.'-]*\.? ){0,4}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|"
    r"Drive|Dr|Lane|Ln|Way|Court|Ct|Place|Plaza|Square|Highway)\b\.?"
)


def details_in(sentence: str) -> list[Found]:
    """In the order they stand there. What a name stands for follows from the word before it."""
    found: list[Found] = []
    masked = sentence

    def take(kind: Detail, start: int, end: int) -> None:
        nonlocal masked
        found.append(Found(kind, sentence[start:end].strip(" ,."), start, end))
        masked = masked[:start] + "\x00" * (end - start) + masked[end:]

    for kind, pattern in ((Detail.PHONE, TELEPHONE), (Detail.PRICE, MONEY), (Detail.TIME, HOUR), (Detail.DATE, DAY)):
        for match in pattern.finditer(masked):
            take(kind, match.start(), match.end())
    for kind, unit in UNITS:
        for match in re.finditer(
            rf"\b({COUNT}|an?|single)[ -]+(?:(?:{SEAT.pattern}|\w+) )?{unit}\b", masked, re.IGNORECASE
        ):
            if match[1].lower() not in ("a", "an") or kind in (Detail.ROOMS, Detail.TICKETS):
                take(kind, match.start(), match.end())
                found += _class_within(sentence, match)
        for match in re.finditer(rf"\bnumber of {unit}(?: \w+)? (?:is|as|to|:) ?({COUNT})\b", masked, re.IGNORECASE):
            unit_named = _unit_named(match.group())
            one = f"{match[1]} {unit_named[:-1] if match[1] in ('1', 'one') else unit_named}"
            found.append(Found(kind, one, match.start(), match.end()))
            masked = masked[: match.start()] + "\x00" * len(match.group()) + masked[match.end() :]
    for match in re.finditer(
        rf"\b(?:for|party of|group of|table of) (?P<n>{COUNT}|myself|yourself)\b(?!\x00| ?(?:\w+ "
        rf")?(?:days?|nights?|rooms?|hours?|%|st\b|th\b|stops?))",
        masked,
    ):
        number = "1" if match["n"].endswith("self") else match["n"]
        if not any(one.kind is Detail.PEOPLE for one in found):
            found.append(Found(Detail.PEOPLE, number, match.start(), match.end()))
            masked = masked[: match.start("n")] + "\x00" * len(match["n"]) + masked[match.end("n") :]
    for kind, pattern in ((Detail.CLASS, SEAT), (Detail.CARRIER, AIRLINE)):
        for match in pattern.finditer(masked):
            if (
                kind is not Detail.CLASS
                or match.group()[0].isupper()
                or "class" in match.group()
                or "economy" in match.group().lower()
            ):
                take(kind, match.start(), match.end())
    found += _names(sentence, masked)
    return _with_roles(sentence, sorted(found, key=lambda one: one.start))


def _class_within(sentence: str, match: re.Match[str]) -> Iterator[Found]:
    inner = SEAT.search(sentence, match.start(), match.end())
    if inner:
        yield Found(Detail.CLASS, inner.group(), inner.start(), inner.end())


def _unit_named(words: str) -> str:
    unit = re.search(r"of (\w+)", words)
    return unit[1] if unit else ""


def names_in(sentence: str) -> list[tuple[int, int]]:
    """Where names stand: runs of words with capitals, and numbers among them."""
    spans: list[tuple[int, int]] = []
    if sentence.isupper():
        return spans  # it tells no names
    for match in NAME.finditer(sentence):
        start, end = match.start(), match.end()
        words = sentence[start:end].split()
        is_first = not re.search(r"[\w\x00]\W? ?$", sentence[:start]) or sentence[:start].rstrip()[-1:] in ".?!:"
        while words and _is_no_name(words, is_first):
            start += len(words[0]) + 1
            words = words[1:]
            start += len(sentence[start:end]) - len(sentence[start:end].lstrip())
        if (
            words
            and any(char.isupper() for char in sentence[start:end])
            or re.fullmatch(r"\d{3,4}", sentence[start:end])
        ):
            spans.append((start, end))
    return spans


def _is_no_name(words: list[str], is_first: bool) -> bool:
    word = re.sub(r"['’]\w{1,2}$", "", words[0].lower().strip(".,'"))
    if word == "the":
        return len(words) == 1
    return word in NOT_NAMES if is_first or len(words) == 1 else word in ("i", "i'm", "i'd", "i've", "ok", "economy")


def _names(sentence: str, masked: str) -> list[Found]:
    found: list[Found] = []
    for start, end in names_in(masked):
        text = sentence[start:end].rstrip(" .'’").strip()
        before = BEFORE.search(masked[:start])
        word = before["word"].lower() if before else ""
        kind = _kind_of_name(masked, start, word)
        if kind is Detail.CITY and found and found[-1].kind is Detail.CITY:
            found[-1] = Found(Detail.PLACE, *(found[-1].text, found[-1].start, found[-1].end))
        if kind is not None and len(text) > 1:
            found.append(Found(kind, text, start, end))
    return found


def _kind_of_name(masked: str, start: int, word: str) -> Detail | None:
    near = masked[max(0, start - 40) : start].lower()
    if re.search(r"\b(?:with|by) (?:dr\.?|doctor)? ?$", near) or re.search(
        r"\b(?:at|called|named|name is|into|hotel is|restaurant is)(?: the| a| an)? ?$", near
    ):
        return Detail.DESTINATION if re.search(r"\barriv\w+ (?:at|in) $", near) else Detail.PLACE
    if re.search(
        r"\b(?:depart\w*|leav\w+|fly\w*|travel\w*|going|com\w+|pick\w*(?: up)?|start\w*|flight|"
        r"trip|bus|train|tickets?|seats?|journey|is|passengers?)?\b.{0,12}\bfrom (?:the )?$",
        near,
    ) or word in ("departing", "leaving"):
        return Detail.ORIGIN
    if re.search(r"\bto (?:the )?$", near) or re.search(
        r"\b(?:arriv|land)\w* (?:in|at) $|\bdestination(?: is| city is|:)? ?$", near
    ):
        return Detail.DESTINATION
    if word in CITY_BEFORE:
        return Detail.CITY
    if re.search(rf"{PLACE_NOUN.pattern}[ ,:]*(?:\w+ )?$", near, re.IGNORECASE) or word in PLACE_BEFORE:
        return Detail.PLACE
    if not masked[:start].strip(" \"'") and re.match(r"\S+(?: \S+)* in [A-Z]", masked[start:]):
        return Detail.PLACE
    return None


def _with_roles(sentence: str, found: list[Found]) -> list[Found]:
    """Days and times of an end (check-out, return) told from those of a beginning, by the words since the last one."""
    out: list[Found] = []
    is_end, has_come, since = False, False, 0
    for one in found:
        if one.kind in (Detail.DATE, Detail.TIME):
            gap = sentence[since : one.start]
            marks = [(match.start(), False) for match in BEGINS.finditer(gap)] + [
                (match.start(), True) for match in ENDS.finditer(gap)
            ]
            weak = any(is_end for _, is_end in marks)  # a return flight that leaves
            marks = [mark for mark in marks if mark[1] or not (weak and LEAVES.match(gap, mark[0]))]
            if marks:
                is_end = max(marks)[1] or (has_come and "leav" in gap.lower())
            has_come = has_come or bool(COMES.search(gap))
            since = one.end
            if is_end:
                one = Found(
                    Detail.END_DATE if one.kind is Detail.DATE else Detail.END_TIME, one.text, one.start, one.end
                )
        out.append(one)
    return out
