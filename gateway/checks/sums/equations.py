"""Equations between numbers that a text states: "12 * 7 = 84", "3 apples + 4 apples is 7 apples."

One pass over its tokens, in linear time. Whatever may mean something else (variables, functions, mixed units, dates,
scales such as "dozen") is left alone: a right answer must not be called wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from gateway.checks.sums.arithmetic import NotArithmetic, is_rounded, value_of

MAX_CHARS = 10_000
ROUGHLY = Fraction(1, 20)  # of the value, where it is said to be rough
FLOAT_NOISE = Fraction(1, 10**9)
FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
REWRITTEN = (
    (re.compile(r"\\(?:left|right|quad|[,;!()\[\]])"), " "),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\boxed\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:times|cdot|ast)\b|[×·∙⋅✕]"), "*"),
    (re.compile(r"\\div\b|÷"), "/"),
    (re.compile(r"\\approx\b"), "≈"),
    (re.compile(r"−"), "-"),
    (re.compile(r"\^\{(-?\d+)\}"), r"**\1"),
    (re.compile(r"\^"), "**"),
    (re.compile(r"(?<![\w)])\*\*(?=\S)|(?<=\S)\*\*(?![\w(-])"), " "),  # bold
    (re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\?[$€£¥]|`"), " "),
    (re.compile(r"\\%|(?<=\d)\s+percent\b"), "%"),
    (re.compile(r"(?<=[\d)])\s*x\s*(?=[\d(])"), " * "),
    (re.compile(r"(?<=[\d)%])\s+(?:times|multiplied by)\s+(?=[\d(])", re.IGNORECASE), " * "),
    (re.compile(r"(?<=[\d)%])\s+divided by\s+(?=[\d(])", re.IGNORECASE), " / "),
    (re.compile(r"(?<=[\d)%])\s+plus\s+(?=[\d(])", re.IGNORECASE), " + "),
    (re.compile(r"(?<=[\d)%])\s+minus\s+(?=[\d(])", re.IGNORECASE), " - "),
    (re.compile(r"(?<![\d.])(\d{1,15}(?:\.\d{1,15})?)\s?%\s+of\s+(?=[\d(])", re.IGNORECASE), r"(\1/100) * "),
    (re.compile(r"^[ \t]*+(?:[-*•]|\(?\d{1,3}[.):])[ \t]++", re.MULTILINE), " ; "),  # of lists
)
TOKEN = re.compile(
    r"(?P<odd>\d+(?:[:/-]\d+){2,}|\d+:\d+|\d{4}-\d{1,4}(?!\d)|\d+(?:\.\d+){2,}|\d+(?:,\d+)+(?:\.\d+)?)"
    r"|(?P<number>\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<word>[^\W\d_][\w'’]*)"
    r"|(?P<equal>≈|(?<![<>!=+*/:~%&|-])=(?![=>]))"
    r"|(?P<operator>\*\*|[-+*/])"
    r"|(?P<open>\()|(?P<close>\))|(?P<percent>%)|(?P<end>\n|[.!?](?=\s|$))|(?P<other>\S)"
)
SAYS = frozenset("is are equals equal makes gives totals".split())
RESULTS = frozenset("total sum result product difference answer it that which this cost".split())
SHORT_UNITS = frozenset("kg km cm mm ml mg lb lbs oz ft hr hrs min gb mb kb usd eur".split())
STOPS = frozenset(
    "a an and as at because but for from he if in into is it left more less of on or she so than that the then there"
    " they this to we when where which who with you are was were each total altogether equals".split()
)
UNSURE = frozenset("about approximately around roughly almost nearly circa".split())
SCALES = frozenset(
    "dozen dozens hundred thousand million billion trillion half third quarter pair pairs score remainder rest rem"
    " binary base mod modulo hex octal".split()
)
BEFORE = frozenset("mod modulo choose over of by to than log ln sqrt sin cos tan exp max min twice double half".split())
OPENERS = frozenset(",;:\"'“”‘’[{—–…|>")
DENIED = re.compile(
    r"\b(?:wrong|incorrect|false|not|isn't|mistake|error|binary|base|mod|rounded|round)\b", re.IGNORECASE
)


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Side:
    """`text`: what `value_of` takes; `shown`: a bare number, as it is written."""

    text: str
    units: frozenset[str]
    operators: frozenset[str]
    percents: int
    numbers: int
    shown: str | None = None
    is_rough: bool = False

    @property
    def is_mixed(self) -> bool:
        """Units that are added, or percents of something that is not said."""
        adds = bool(self.operators & {"+", "-"})
        return adds and (len(self.units) > 1 or 0 < self.percents < self.numbers)


@dataclass(frozen=True)
class Equation:
    text: str
    is_right: bool
    values: tuple[Fraction, ...] = field(default=(), compare=False)


def rewritten(text: str) -> str:
    """Without code; signs of LaTeX, money and Markdown as plain arithmetic."""
    text = FENCED.sub("\n", text[:MAX_CHARS])
    for pattern, plain in REWRITTEN:
        text = pattern.sub(plain, text)
    return text


def equations_in(text: str, *, claimed: bool = True) -> Iterator[Equation]:
    """Args: `text` is `rewritten`. `claimed`: not those in questions, nor such as are said to be wrong."""
    tokens = [Token(found.lastgroup or "", found[0], found.start(), found.end()) for found in TOKEN.finditer(text)]
    for place, token in enumerate(tokens):
        is_said = token.kind == "word" and token.text.lower() in SAYS
        if not is_said and token.kind != "equal":
            continue
        left = _left_of(tokens, place, is_said=is_said)
        right = _right_of(tokens, place)
        if left is None or right is None or (is_said and not (left.operators and right.shown)):
            continue
        if claimed and _is_doubted(text, tokens, place):
            continue
        is_rough = token.text == "≈" or left.is_rough or right.is_rough
        equation = _judged(left, right, is_rough=is_rough)
        if equation is not None:
            yield equation


def _judged(left: Side, right: Side, *, is_rough: bool) -> Equation | None:
    """None where it says nothing that could be worked out."""
    if not (left.operators or right.operators) or left.is_mixed or right.is_mixed:
        return None
    if left.units and right.units and not (right.units <= left.units or left.units <= right.units):
        return None
    try:
        values = value_of(left.text), value_of(right.text)
    except NotArithmetic:
        return None
    ways = {(one, other) for one in _meanings(values[0], left) for other in _meanings(values[1], right)}
    is_right = any(_agree(one, other, left, right, is_rough=is_rough) for one, other in ways)
    return Equation(f"{left.text} = {right.text}", is_right, values)


def _meanings(value: Fraction, side: Side) -> tuple[Fraction, ...]:
    return (value, value / 100) if side.percents else (value,)


def _agree(one: Fraction, other: Fraction, left: Side, right: Side, *, is_rough: bool) -> bool:
    if one == other or abs(one - other) <= FLOAT_NOISE * abs(one):
        return True
    if is_rough:
        return abs(one - other) <= ROUGHLY * max(abs(one), abs(other))
    for exact, said, shown in ((one, other, right.shown), (other, one, left.shown)):
        if shown is not None and said == Fraction(shown) and is_rounded(exact, shown):
            return True
        if shown is not None and said == Fraction(shown) / 100 and is_rounded(exact * 100, shown):
            return True
    return False


def _is_doubted(text: str, tokens: Sequence[Token], place: int) -> bool:
    """Is its sentence a question, or does it say that something is wrong?"""
    start = end = place
    while start > 0 and tokens[start - 1].kind != "end" and place - start < 60:
        start -= 1
    while end < len(tokens) - 1 and tokens[end].kind != "end" and end - place < 60:
        end += 1
    sentence = text[tokens[start].start : tokens[end].end]
    return tokens[end].text == "?" or DENIED.search(sentence) is not None


def _left_of(tokens: Sequence[Token], place: int, *, is_said: bool) -> Side | None:
    """The expression that ends before `place`, or before "so the total" there."""
    last = place - 1
    if is_said and last >= 0 and tokens[last].text.lower() in RESULTS:
        while last >= 0 and place - last < 10 and (tokens[last].kind == "word" or tokens[last].text == ","):
            last -= 1
    first = _first_of(tokens, last)
    return None if first is None else _side(tokens[first : last + 1])


def _first_of(tokens: Sequence[Token], last: int) -> int | None:
    """Where the expression that ends at `last` begins; None where it is part of something else."""
    place, depth = last, 0
    while True:
        while place >= 0 and tokens[place].kind in ("word", "percent") and depth == 0 and last - place < 80:
            place -= 1  # units of the term before them
        if place < 0 or tokens[place].kind not in ("number", "close"):
            return None
        if tokens[place].kind == "close":
            depth = 0
            while place >= 0:
                depth += {"close": 1, "open": -1}.get(tokens[place].kind, 0)
                if depth == 0:
                    break
                place -= 1
            if place < 0:
                return None
        before = tokens[place - 1] if place > 0 else None
        if before is not None and before.kind == "operator":
            sign = _sign_at(tokens, place - 1)
            if sign == "unary":
                return place - 1
            if sign == "bullet":
                return place
            place -= 2
            continue
        return place if _may_begin(tokens, place) else None


def _sign_at(tokens: Sequence[Token], place: int) -> str:
    """What an operator is: between two terms, the sign of the first, or something else."""
    before = tokens[place - 1] if place > 0 else None
    if before is not None and before.kind in ("number", "close", "percent", "word"):
        return "binary"
    if tokens[place].text in "+-" and (before is None or before.kind in ("end", "equal", "open", "other")):
        return "unary" if tokens[place + 1].start == tokens[place].end else "bullet"
    return "binary"


def _may_begin(tokens: Sequence[Token], place: int) -> bool:
    """Not behind a letter, a sign such as √, a function's name or "half of"."""
    if place == 0:
        return True
    before, is_next = tokens[place - 1], tokens[place - 1].end == tokens[place].start
    if before.kind == "word":
        return not is_next and before.text.lower() not in BEFORE
    if before.kind == "other":
        return not is_next or before.text in OPENERS
    if before.kind == "open":
        return place < 2 or tokens[place - 2].kind != "word" or tokens[place - 2].end != before.start
    return before.kind in ("end", "equal") or (before.kind == "close" and not is_next)


def _right_of(tokens: Sequence[Token], place: int) -> Side | None:
    """The longest expression that begins behind `place`."""
    start = place + 1
    is_rough = start < len(tokens) and tokens[start].text.lower() in UNSURE
    start += is_rough
    end, depth, wants_term = start, 0, True
    complete = start
    while end < len(tokens) and end - start < 80:
        token = tokens[end]
        if wants_term and (token.kind == "open" or (token.kind == "operator" and token.text in "+-")):
            depth += token.kind == "open"
        elif wants_term and token.kind == "number":
            wants_term = False
            end = _units_end(tokens, end + 1) - 1
        elif not wants_term and token.kind == "close" and depth:
            depth -= 1
        elif not wants_term and token.kind == "operator":
            wants_term = True
        else:
            break
        end += 1
        if depth == 0 and not wants_term:
            complete = end
    if complete == start or not _may_end(tokens, complete, is_said=tokens[place].kind == "word"):
        return None
    side = _side(tokens[start:complete])
    return None if side is None else Side(**{**side.__dict__, "is_rough": is_rough})


def _units_end(tokens: Sequence[Token], place: int) -> int:
    """Behind a number: percent signs, and up to three words that are no other part of the sentence."""
    end = place
    while end < len(tokens) and end - place < 3:
        token = tokens[end]
        if token.kind == "percent" or (token.kind == "word" and token.text.lower() not in STOPS):
            end += 1
        else:
            break
    return end


def _may_end(tokens: Sequence[Token], place: int, *, is_said: bool) -> bool:
    """Not in the middle of something that goes on: a power, a bracket, a factorial."""
    if place == len(tokens):
        return True
    after, is_next = tokens[place], tokens[place].start == tokens[place - 1].end
    if after.kind in ("end", "equal", "close"):
        return True
    if is_said:
        return after.kind == "other" and after.text in ",;"
    if after.kind == "other":
        return not is_next or after.text in OPENERS or after.text in ",;.]"
    return after.kind in ("word", "operator") and not is_next


def _side(tokens: Sequence[Token]) -> Side | None:
    """None where letters stand in it that may be variables, or words that scale."""
    units, operators, parts = set(), set(), []
    percents = numbers = 0
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else None
        if token.kind == "word":
            word, is_next = token.text.lower(), before is not None and before.end == token.start
            if len(word) < 2 or word in SCALES or (is_next and word not in SHORT_UNITS):
                return None
            if before is None or before.kind in ("operator", "open"):
                return None
            if word not in STOPS and word != "per":
                units.add(word.rstrip("s"))
        elif token.kind == "percent":
            percents += 1
        elif token.kind in ("number", "operator", "open", "close"):
            if token.kind == "number":
                numbers += 1
                if before is not None and before.kind in ("number", "word", "percent"):
                    return None
            if token.kind == "operator" and numbers:
                operators.add(token.text)
            if token.kind == "open" and before is not None and before.kind in ("number", "close"):
                parts.append("*")
                operators.add("*")
            parts.append(token.text)
        else:
            return None
    text = " ".join(parts)
    shown = "".join(parts) if len(parts) == 1 or (len(parts) == 2 and parts[0] == "-") else None
    return Side(text, frozenset(units), frozenset(operators), percents, numbers, shown) if numbers else None
