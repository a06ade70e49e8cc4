"""What of a request tells who should answer it: the user's own last words, without padding.

A caller can append text that means nothing to a model and everything to a router (arXiv:2501.01818), so what is
embedded for routing is cut to what an embedding model reads, and noise at its end is left out.
"""

from __future__ import annotations

import re

from gateway.chat import ChatRequest

HEAD_CHARS, TAIL_CHARS = 600, 400  # of a long text: about the 256 tokens that the built-in embedding model reads
LOOKED_AT_CHARS = 20_000  # of a text, from each end
LONGEST_UNIT = 80  # characters of a run that repeats itself
REPEATS = 3  # a unit is a run once it stands there oftener than this
FEWEST_NOISY = 3  # words: fewer at the end are typing errors, names or formulas
NOISY_SHARE = 0.6  # of the words of a padding
SHORTEST_WORD = 5  # that letters alone can make noisy
LONGEST_WORD = 30
VOWELS = frozenset("aeiouyAEIOUY")
RUN = re.compile(rf"\s*(.{{1,{LONGEST_UNIT}}}?)\1{{{REPEATS},}}", re.DOTALL)
CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}", re.IGNORECASE)
CLASSES = re.compile(r"[a-z]+|[A-Z]+|[0-9]+|[^A-Za-z0-9]+")
LINK_OR_PATH = re.compile(r"(?:https?://|www\.|\.{0,2}/|[A-Za-z]:\\)\S+|\S+@\S+\.\w+")
EDGES = "\"'`()[]{}<>.,;:!?*_-"


def telling_part(request: ChatRequest) -> str:
    """At most 1,000 characters: beginning and end of the last user text. "" where the user has said nothing."""
    text = request.last_user_text.strip()
    if len(text) > 2 * LOOKED_AT_CHARS:
        text = f"{text[:LOOKED_AT_CHARS]} {text[-LOOKED_AT_CHARS:]}"
    text = without_padding(text)
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS].rstrip()}\n{text[1 - TAIL_CHARS :].lstrip()}"


def without_padding(text: str) -> str:
    """Without runs that repeat themselves and without noise at its end; all of it where nothing else is there."""
    cut = text.rstrip()
    while True:
        shorter = _without_noise(_without_run(cut)).rstrip()
        if shorter == cut:
            return cut
        if not shorter:
            return text
        cut = shorter


def _without_run(text: str) -> str:
    """Of what repeats itself at the end, once is left."""
    found = RUN.match(text[::-1])
    if found is None or not found[1].strip():
        return text
    return text[: len(text) - found.end()] + found[1][::-1]


def _without_noise(text: str) -> str:
    """Cut before the longest end that is mostly noise, where that is longer than a slip."""
    noisy = words = 0
    cut = len(text)
    for match in reversed(list(re.finditer(r"\S+", text))):
        weight = FEWEST_NOISY if len(match[0]) > LONGEST_WORD else 1  # a long one is a padding by itself
        words += weight
        is_noisy = is_noise(match[0])
        noisy += weight * is_noisy
        if noisy < NOISY_SHARE * words and words > FEWEST_NOISY:
            break
        if is_noisy and noisy >= FEWEST_NOISY:
            cut = match.start()
    return text[:cut]


def is_noise(word: str) -> bool:
    """Is it no word, number, name or sign of any language? Other scripts than Latin are never taken for noise."""
    bare = word.strip(EDGES)
    if not bare or not bare.isascii() or LINK_OR_PATH.fullmatch(word):
        return not bare and len(word) > 4
    if len(bare) > LONGEST_WORD:
        return True
    classes = len(CLASSES.findall(bare[:1].lower() + bare[1:]))
    if classes >= 4:
        return True
    letters = bare.isalpha() and len(bare) >= SHORTEST_WORD
    return letters and (VOWELS.isdisjoint(bare) or CONSONANTS.search(bare) is not None)
