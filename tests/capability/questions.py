"""Made-up questions of two kinds, what two models make of them, and vectors that know the kinds apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DIMENSIONS = 384
SUMS = "add subtract multiply divide the integers fraction polynomial matrix".split()
PLACES = "capital river mountain country city island desert lake border".split()
FILLING = "please what would be of and for this given question about it when".split()


class Questions(NamedTuple):
    texts: list[str]
    labels: list[str]
    outcomes: dict[str, list[float]]
    vectors: list[bytes]


def make(count: int, *, seed: int = 0) -> Questions:
    """Half sums, which the tiny model mostly gets wrong, half places, which it mostly gets right."""
    rng = random.Random(seed)
    kinds = [number % 2 for number in range(count)]
    texts = [text_of(kind, rng) for kind in kinds]
    labels = [("math/sums", "geography/places")[kind] for kind in kinds]
    tiny = [float(rng.random() < (0.15, 0.9)[kind]) for kind in kinds]
    big = [float(rng.random() < 0.95) for _ in kinds]
    return Questions(texts, labels, {"tiny": tiny, "big": big}, vectors_of(kinds, seed))


def text_of(kind: int, rng: random.Random) -> str:
    words = rng.choices((SUMS, PLACES)[kind], k=6) + rng.choices(FILLING, k=6)
    rng.shuffle(words)
    return f"{' '.join(words).capitalize()} {rng.randrange(10, 99)}?"


def vectors_of(kinds: Sequence[int], seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(scale=0.03, size=(len(kinds), DIMENSIONS))
    for row, kind in zip(rows, kinds, strict=True):
        row[kind] += 1
    return [(row / np.linalg.norm(row)).astype("<f4").tobytes() for row in rows]


def unlike() -> bytes:
    """A vector that is like none of them."""
    row = np.zeros(DIMENSIONS, "<f4")
    row[7] = 1
    return row.tobytes()
