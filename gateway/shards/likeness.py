"""How alike texts are, by their vectors."""

from __future__ import annotations

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


def nearest(vector: bytes, others: Sequence[bytes | None]) -> list[int]:
    """Places of the others, the most alike first; those without a vector last."""
    known = [place for place, other in enumerate(others) if other is not None]
    found = dict(zip(known, cosines(vector, [other for other in others if other is not None]), strict=True))
    return sorted(range(len(others)), key=lambda place: -found.get(place, -1.0))
