"""Words that make a question another one, however alike the rest is: numbers, names, negations, opposites, days."""

from __future__ import annotations

import re
import unicodedata

import orjson

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]", re.UNICODE)
NUMBER = re.compile(r"[+-]?\d+(?:[.,:/]\d+)*\s*%?")
NUMBER_WORDS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve hundred thousand million billion half double "
    "twice first second third last".split()
)
NEGATIONS = frozenset(
    "no not never none nothing nobody neither nor without cannot except unless nicht kein keine keinen nie ohne "
    "ne pas jamais sans nunca jamás sin non mai senza".split()
)
OPPOSED = frozenset(
    "before after above below more less most least min max minimum maximum increase decrease increasing decreasing add "
    "remove enable disable start stop open close buy sell down off left right true false best worst north south east "
    "west allow deny import export encrypt decrypt encode decode ascending descending shortest longest smallest "
    "largest highest lowest".split()
)
DAYS = frozenset(
    "today tomorrow yesterday monday tuesday wednesday thursday friday saturday sunday january february march april "
    "may june july august september october november december".split()
)
TELLING = NUMBER_WORDS | NEGATIONS | OPPOSED | DAYS
STANDARD = re.compile(r"\b(?:from|than)\s+(?:(?:the|a|an|my|our|your)\s+)?(\w+)")
"""From where, and than what: those two are easily changed about."""
STARTERS = frozenset(
    "a an and are as at be but can could describe did do does explain for from give had has have hello hey hi how i if "
    "in is it its list may me must my now of on or our please shall should show so summarize tell than thanks that the "
    "their then there these they this those to translate was we were what what's when where which who whom whose why "
    "will with would write you your".split()
)
"""Words with a capital that are no names: they begin sentences."""


def signature(text: str) -> bytes:
    """Texts whose signatures differ never mean the same; those of equal ones may."""
    plain = unicodedata.normalize("NFKC", text)
    numbers = [re.sub(r"\s", "", found) for found in NUMBER.findall(plain)]
    words = WORD.findall(plain)
    names = [word for word in words if word[0].isupper() and word.lower() not in STARTERS]
    lower = [word.lower().replace("’", "'") for word in words]
    telling = [word for word in lower if word in TELLING]
    negated = sum(word.endswith("n't") for word in lower)
    return orjson.dumps([numbers, names, telling, negated, STANDARD.findall(plain.lower())])
