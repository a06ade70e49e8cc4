"""The nearest of some vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def nearest(vector: bytes, known: Mapping[bytes, bytes]) -> tuple[bytes, float] | None:
    """(key, cosine) of the one of `known` that is most like it; all are float32 and of unit length."""
    own = np.frombuffer(vector, np.float32)
    same = [(key, one) for key, one in known.items() if len(one) == len(vector)]
    if not same:
        return None
    cosines = np.frombuffer(b"".join(one for _, one in same), np.float32).reshape(-1, len(own)) @ own
    best = int(cosines.argmax())
    return same[best][0], float(cosines[best])
