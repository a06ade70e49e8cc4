"""How alike texts are, by their vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence


def cosine(one: bytes, other: bytes) -> float:
    """Of two unit vectors in float32."""
    return cosines(one, [other])[0]


def cosines(vector: bytes, others: Sequence[bytes]) -> list[float]:
    import numpy as np

    if not others:
        return []
    rows = np.frombuffer(b"".join(others), "<f4").reshape(len(others), -1)
    found: list[float] = (rows @ np.frombuffer(vector, "<f4")).tolist()
    return found


FORM_COUNTS = 0.5  # beside the cosine
TOKEN = re.compile(r"\S+")


def forms_of(text: str) -> frozenset[str]:
    """Its words, and of codes, dates and numbers the form: what a task of copying or converting goes by."""
    words = (word.strip(".,;:!?()\"'").lower() for word in TOKEN.findall(text))
    return frozenset(
        re.sub(r"[a-z]+", "a", re.sub(r"\d", "9", word)) if any(map(str.isdigit, word)) else word
        for word in words
        if word
    )


def same_form(one: frozenset[str], other: frozenset[str]) -> float:
    """In [0, 1]."""
    return len(one & other) / min(len(one), len(other)) if one and other else 0.0


def nearest(text: str, vector: bytes, others: Sequence[tuple[str, bytes | None]]) -> list[int]:
    """Places of the others (text and vector), the most alike first; those without a vector last."""
    found = likenesses(text, vector, others)
    return sorted(range(len(others)), key=lambda place: -found[place])


def likenesses(text: str, vector: bytes, others: Sequence[tuple[str, bytes | None]]) -> list[float]:
    """To each of the others (text and vector), in meaning and form: at most 1.5, and -1 to one without a vector."""
    known = [place for place, (_, other) in enumerate(others) if other is not None]
    found = dict(zip(known, cosines(vector, [other for _, other in others if other is not None]), strict=True))
    form = forms_of(text)
    for place in known:
        found[place] += FORM_COUNTS * same_form(form, forms_of(others[place][0]))
    return [found.get(place, -1.0) for place in range(len(others))]
