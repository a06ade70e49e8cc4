"""Plain text split into sentences, by rules: where a full stop ends one, and where it stands in an abbreviation, an
initial, a number, a quotation or brackets. For English and languages that write alike; what it is unsure of it leaves
whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_WORDS = 40  # of a sentence, before it is split at its semicolons
MIN_PART_WORDS = 5
MAX_QUOTE_CHARS = 800  # a longer quotation is split inside
MAX_BRACKETS_CHARS = 300

# Never the end: a name or a number follows.
TITLES = frozenset(
    """mr mrs ms mx dr prof gen col lt sgt cpl pvt capt maj cmdr adm rev fr hon sen rep gov pres supt insp mt ft
    messrs mme mlle vs v e.g i.e eg ie cf viz c ca circa approx resp incl excl fl r b d op cit al. m.r""".split()
)
# Only before a number.
NUMBERED = frozenset("no nos vol vols p pp fig figs ch chap sec secs sect eq eqs art arts para ver ed eds".split())
# Only after a number.
UNITS = frozenset("in ft lb lbs oz min mins sec secs hr hrs mi yd yds gal sq cu kg km cm mm".split())
# The end only where what follows begins like a sentence.
AMBIGUOUS = frozenset(
    """inc ltd co corp llc plc bros dept univ assn intl govt st ave blvd rd sq jr sr esq etc al ibid est approx esp
    ext jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri sat sun calif mass conn penn
    wash
    ph.d m.d b.a m.a b.sc m.sc d.phil ll.b a.m p.m a.d b.c b.c.e c.e u.s u.k u.n e.u d.c
    l.a n.y u.s.a u.s.s.r""".split()
)
# What opens a sentence far more often than it is part of a name.
STARTERS = frozenset(
    """the a an this that these those it its he she they we you i his her their our my in on at by for from with without
    after before during since until when while where as if although though because however moreover furthermore thus
    therefore hence then there here some many most more much several few all both each every no not one two three
    another other such according despite unlike like today currently also but and or so yet still even only its what
    which who how why to among between under over about around through within following due given instead nevertheless
    meanwhile later early once""".split()
)
# After these a single letter is a word of its own: "vitamin C.", "World War I."
LETTERED = frozenset(
    """vitamin vitamins plan type class group grade hepatitis schedule appendix section figure table part phase team war
    title act chapter channel series model point level category option step hypothesis problem
    conjecture theorem machine set field variable matrix vector grammar language program""".split()
)
TIME_ZONES = re.compile(
    r"(?:[ECMP][SD]?T|GMT|UTC|CES?T|BST|IST|JST)\b|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|"
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
)

CLOSERS = ('"', "”", "’", "»", ")", "]")
_STOP = re.compile(r"(?:\.{2,}|…|[.!?]+|[。！？]+)(?P<close>[\"'”’»)\]*_]*)(?P<space>\s+|$|(?<=[。！？]))")
_WORD_BEFORE = re.compile(r"(?:^|[\s(\[\"“'‘—–/-])([^\s(\[\"“'‘—–/]*)$")
_PREVIOUS_WORD = re.compile(r"(\S+)\s+\S*$")
_NEXT_WORD = re.compile(r"[\"“‘'«(\[*_]*([^\s]+)")
_ROMAN = re.compile(r"[IVXLCDM]+\b")
_BRAND = re.compile(r"[a-z]{1,2}[A-Z]|[a-z]+_[a-z]")  # and names in code
_INNER_DOTS = re.compile(r"[A-Za-z](?:\.[A-Za-z]{1,3})+$")
_HAS_VERB = re.compile(
    r"\b(?:is|are|was|were|be|been|has|have|had|do|does|did|can|could|will|would|shall|should|may|might|must|became|"
    r"becomes|began|made|makes|took|takes|gave|gives|led|leads|won|held|holds|\w{3,}ed)\b",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """The sentences of one paragraph, in order, with their white space made single. Nothing is lost: joined with
    spaces they are the paragraph."""
    text = " ".join(text.split())
    out, start = [], 0
    for end in _ends(text):
        out.append(text[start:end].strip())
        start = end
    out.append(text[start:].strip())
    return [sentence for sentence in out if sentence]


def split_long(sentence: str, max_words: int = MAX_WORDS) -> list[str]:
    """A sentence of more words than that as its parts between semicolons, each made a sentence; whole where a part
    would be none, as in a list of names."""
    if len(sentence.split()) <= max_words or ";" not in sentence:
        return [sentence]
    closed = _closed_spans(sentence)
    cuts = [n for n, char in enumerate(sentence) if char == ";" and not _inside(closed, n)]
    edges = [-1, *cuts, len(sentence)]
    parts = [sentence[a + 1 : b].strip() for a, b in zip(edges, edges[1:], strict=False)]
    if len(parts) < 2 or not all(len(part.split()) >= MIN_PART_WORDS and _HAS_VERB.search(part) for part in parts):
        return [sentence]
    last = parts.pop()
    return [*(_as_sentence(part) + "." for part in parts), _as_sentence(last)]


def _as_sentence(part: str) -> str:
    part = re.sub(r"^(?:and|but)\s+", "", part)
    return part[:1].upper() + part[1:] if part[:2].islower() or part[:2] == "a " else part


def _ends(text: str) -> Iterator[int]:
    closed = _closed_spans(text)
    start = at = 0
    for found in _STOP.finditer(text):
        while at < len(closed) and closed[at][1] <= found.start():
            at += 1
        is_inside = at < len(closed) and closed[at][0] <= found.start() and found.end("close") < closed[at][1]
        if found.end() < len(text) and not is_inside and _is_end(text, start, found):
            start = found.end()
            yield start


def _is_end(text: str, start: int, found: re.Match[str]) -> bool:
    after = _NEXT_WORD.match(text, found.end())
    if after is None:
        return False
    following, mark = after.group(1), found.group()[0]
    if mark in "。！？":
        return True
    if following[0].islower() and not _BRAND.match(following):
        return False
    if not following[0].isalnum() and following[0] not in "$€£#@&¿¡":
        return False
    if mark in "!?" or found.group("close"):
        return True
    if mark == "…" or found.group().startswith(".."):
        return following[0].isupper()
    return not _is_abbreviation(text[max(start, found.start() - 80) : found.start()], following)


def _is_abbreviation(before: str, following: str) -> bool:
    """Is the full stop between these part of what stands before it?"""
    if before[-1:].isspace() or before.endswith(CLOSERS):
        return False
    word_found = _WORD_BEFORE.search(before)
    word = word_found.group(1) if word_found else before
    lower, starts = word.lower(), _starts_sentence(following)
    previous = _PREVIOUS_WORD.search(before)
    if not word or word.isdigit() and previous is None and before.strip() == word:
        return True  # the number of a list's item
    if lower in NUMBERED and (lower == word or word.istitle()):
        return following[0].isdigit() or bool(_ROMAN.match(following)) or word.istitle() and not starts
    if lower in TITLES and not (len(word) == 1 and word.isupper()):
        return True
    if lower in UNITS:
        return previous is not None and previous.group(1)[-1:].isdigit() and not starts
    if len(word) == 1 and word.isupper():
        return not _stands_alone(previous, starts)
    if lower in ("a.m", "p.m"):
        return following[0].isdigit() or bool(TIME_ZONES.match(following))
    if lower in AMBIGUOUS or _INNER_DOTS.fullmatch(word):
        is_word = lower in ("mar", "sat", "sun", "mass", "wash", "est") and word.islower()
        return not starts and not is_word
    return False


def _stands_alone(previous: re.Match[str] | None, starts: bool) -> bool:
    """Is a single letter a word, rather than the initial of a name?"""
    return starts or (previous is not None and previous.group(1).lower() in LETTERED)


def _starts_sentence(following: str) -> bool:
    if following.startswith("A."):
        return False  # an initial
    return following[0].isupper() and following.rstrip(".,;:!?").lower() in STARTERS


def _closed_spans(text: str) -> list[tuple[int, int]]:
    """(from, to) of quotations and brackets that are closed again soon, apart from one another, in order."""
    spans: list[tuple[int, int]] = []
    quote = curly = -1
    brackets: list[int] = []
    for n, char in enumerate(text):
        if char == '"':
            before = text[n - 1] if n else " "
            if quote < 0 and (before.isspace() or before in "([—–-"):
                quote = n
            elif quote >= 0 and not before.isspace():
                _add(spans, quote, n + 1, MAX_QUOTE_CHARS)
                quote = -1
        elif char in "“«":
            curly = n
        elif char in "”»" and curly >= 0:
            _add(spans, curly, n + 1, MAX_QUOTE_CHARS)
            curly = -1
        elif char in "([":
            brackets.append(n)
        elif char in ")]" and brackets:
            _add(spans, brackets.pop(), n + 1, MAX_BRACKETS_CHARS)
        if quote >= 0 and n - quote > MAX_QUOTE_CHARS:
            quote = -1  # an inch sign, or one that was forgotten
    return spans


def _add(spans: list[tuple[int, int]], start: int, end: int, most: int) -> None:
    if end - start > most:
        return
    while spans and spans[-1][0] >= start:
        spans.pop()
    if not spans or spans[-1][1] <= start:
        spans.append((start, end))
    else:  # they overlap: a quotation that opens inside brackets and closes behind them
        spans[-1] = (spans[-1][0], end)


def _inside(spans: list[tuple[int, int]], place: int) -> bool:
    return any(start <= place < end for start, end in spans)
