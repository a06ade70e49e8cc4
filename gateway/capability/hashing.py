"""A text as numbers without a model: hashed words and pairs of words, and statistics of its form."""

from __future__ import annotations

import math
import re
import string
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

BUCKETS = 4096  # a power of two
MOST_WORDS = 400
HEAD_CHARS, TAIL_CHARS = 2400, 1200  # looked at, of a long text
ASKED_CHARS = 280  # from the beginning and the end of a long question: about 64 tokens each
WORD = re.compile(rb"[a-z]+|[0-9]|[\x80-\xff]+|[^\sa-z0-9]")
OPTION = re.compile(r"\n[A-J][.)] ")
SHORTEST_QUESTION = 10
CODES, BEYOND, DIGITS_FROM = 128, 127, ord("0")
FOLDED = np.array([ord(chr(code).lower()) for code in range(CODES)], np.int64)
NOISE_SEEN = 200.0  # pairs of noise that every row is taken to have seen
MOST_ODDS, NOISY, DIGITS_ODDS = 3.0, 14.0, 0.15
FEWEST_SIGNS = 8
REPEATS, LONGEST_UNIT = 4, 80
MARK = 4  # characters that tell where a run might begin anew
DIGIT = re.compile(r"[0-9]")
PAIR, SHIFT, LAST_BUCKET = np.uint32(0x9E3779B1), np.uint32(15), np.uint32(BUCKETS - 1)
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

OPERATORS = tuple(b"=+-*/^<>")
DIGITS, UPPER = slice(ord("0"), ord("9") + 1), slice(ord("A"), ord("Z") + 1)
BEYOND_ASCII = slice(0xC0, 256)  # first byte of each character
STATISTICS = 25


def pair_odds(texts: Iterable[str]) -> Floats:
    """How much likelier a character is after another in these texts than in noise: logs, shape (CODES, CODES)."""
    counts = np.zeros(CODES * CODES)
    for text in texts:
        codes = _codes(text[:HEAD_CHARS])
        counts += np.bincount(codes[:-1] * CODES + codes[1:], minlength=CODES * CODES)
    noise = _noise()
    seen = counts.reshape(CODES, CODES) + NOISE_SEEN * noise
    odds = np.clip(np.log(seen / seen.sum(axis=1, keepdims=True) / noise), -MOST_ODDS, MOST_ODDS)
    odds[DIGITS_FROM : DIGITS_FROM + 10, DIGITS_FROM : DIGITS_FROM + 10] = -DIGITS_ODDS  # any is as likely as another
    odds[BEYOND, :] = odds[:, BEYOND] = 0.0  # other scripts are never noise
    found: Floats = odds.astype(np.float32)
    return found


def _noise() -> NDArray[np.float64]:
    """Half of it any sign, half of it of the same kind as the one before."""
    kinds = np.full(CODES, -1)
    for kind, signs in enumerate((string.ascii_lowercase, string.digits)):
        kinds[[ord(sign) for sign in signs]] = kind
    alike = (kinds[:, None] == kinds) & (kinds >= 0)
    noise: NDArray[np.float64] = 0.5 / len(string.printable) + 0.5 * alike / np.maximum(1, alike.sum(axis=1)[:, None])
    return noise


def _codes(text: str) -> Ids:
    codes: Ids = FOLDED[np.minimum(np.frombuffer(text.encode("utf-32-le", "replace"), "<u4"), BEYOND)]
    return codes


def readable(text: str, odds: Floats | None = None) -> str:
    """What is looked at: beginning and end of a long text, without noise or what repeats itself at its end.

    A caller could append text that means nothing to a model and everything to a router (arXiv:2501.01818).

    Args: odds: `pair_odds` of ordinary texts; None: those of the router that is shipped.
    """
    if odds is None:
        from gateway.capability.router import shipped

        odds = shipped().reading.pairs
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        text = f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
    text = _without_run(text.rstrip())
    return _without_run(_without_noise(text, odds))


def _without_noise(text: str, odds: Floats) -> str:
    """Cut where what follows is likeliest to be noise, if that is likely; all of it where nothing else is there."""
    codes = _codes(text)
    if len(codes) < FEWEST_SIGNS:
        return text
    from_end = np.cumsum(odds.ravel().take(codes[:-1] * CODES + codes[1:])[::-1])
    place = int(from_end.argmin())
    if from_end[place] > -NOISY:
        return text
    cut = len(text) - 1 - place
    space = max(text.rfind(" ", 0, cut + 2), text.rfind("\n", 0, cut + 2))
    kept = text[: max(space, 0)].rstrip()
    return kept if len(kept) >= FEWEST_SIGNS else text


def _without_run(text: str) -> str:
    """Of what repeats itself at the end, once is left."""
    mark = text[-MARK:]
    place = text.rfind(mark, 0, -1) if len(mark) == MARK else -1
    while place >= 0 and (length := len(text) - MARK - place) <= LONGEST_UNIT:
        unit = text[-length:]
        if text.endswith(unit * REPEATS) and unit.strip(". _-"):
            while text.endswith(unit + unit):
                text = text[:-length]
            return text.rstrip()
        place = text.rfind(mark, 0, place + MARK - 1)
    return text


def question(text: str) -> str:
    """What stands before the options of a multiple-choice question; else all of it."""
    first = OPTION.search(text)
    return text[: first.start()] if first and first.start() > SHORTEST_QUESTION else text


def asked(text: str) -> str:
    """What is embedded: the question, beginning and end of a long one."""
    told = question(text).strip()
    return told if len(told) <= 2 * ASKED_CHARS else f"{told[:ASKED_CHARS]} … {told[-ASKED_CHARS:]}"


def grams(text: str) -> Ids:
    """Buckets of its words, then of its pairs of words, as often as they are there. Digits stand alone."""
    words = WORD.findall(text.lower().encode("utf-8", "replace"))[:MOST_WORDS]
    codes = np.fromiter(map(zlib.crc32, words), np.uint32, len(words))
    pairs = (codes[:-1] * PAIR) ^ codes[1:]
    return (np.concatenate([codes, pairs ^ (pairs >> SHIFT)]) & LAST_BUCKET).astype(np.int64)


def statistics(text: str) -> Floats:
    """Lengths, digits, options, formulas and code: shape (STATISTICS,)."""
    told = question(text)
    rest = text[len(told) :]
    options = OPTION.split(rest)[1:]
    lengths = [len(one) for one in options] or [0]
    mean = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
    size, words = max(1, len(told)), told.split()
    signs, others = _signs(told), _signs(rest)
    return np.array(
        [
            math.log1p(len(told)),
            math.log1p(len(rest)),
            len(options) / 10,
            math.log1p(mean),
            math.log1p(max(lengths)),
            spread / (1 + mean),
            sum(signs[DIGITS]) / size,
            sum(others[DIGITS]) / max(1, len(rest)),
            signs[ord("\\")] / size,
            signs[ord("$")] / size,
            sum([signs[code] for code in OPERATORS]) / size,
            sum(signs[UPPER]) / size,
            signs[ord("\n")] / size,
            "?" in told,
            "___" in told,
            "def " in told,
            "NOT" in text or "EXCEPT" in text or " not " in told,
            "Statement 1" in told or "(i)" in told or "(I)" in told,
            sum(DIGIT.search(one) is not None for one in options) / max(1, len(options)),
            "above" in rest or "Above" in rest,
            told.rstrip().endswith(":"),
            len("".join(words)) / max(1, len(words)),
            sum(signs[BEYOND_ASCII]) / size,
            len(told) < 60,
            len(told) > 600,
        ],
        np.float32,
    )


def _signs(text: str) -> list[int]:
    """How often each byte is there."""
    counts: list[int] = np.bincount(np.frombuffer(text.encode("utf-8", "replace"), np.uint8), minlength=256).tolist()
    return counts
