"""Ridge regression, with what it would have said of each row had it not seen it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MOST_LEVERAGE = 0.95


@dataclass(frozen=True)
class Fitted:
    """`weights`: shape (features + 1, targets), the intercept last. `held_out`: shape (rows, targets), what is said of
    each row by all others."""

    weights: Floats
    held_out: Floats


def fit(x: Floats, y: Floats, penalty: float) -> Fitted:
    """Args:
        x: shape (rows, features). y: shape (rows, targets). penalty: of a squared weight, in squared errors of a row.
    Source: leave-one-out in closed form (Allen 1974).
    """
    middle, level = x.mean(axis=0), y.mean(axis=0)
    z = x - middle
    gram = (z.T @ z).astype(np.float64)
    gram[np.diag_indices_from(gram)] += penalty
    inverse = np.linalg.inv(gram).astype(np.float32)
    weights = inverse @ (z.T @ (y - level))
    leverage = np.einsum("ij,ij->i", z @ inverse, z) + np.float32(1 / len(x))
    error = (y - (z @ weights + level)) / (1 - np.minimum(leverage, MOST_LEVERAGE))[:, None]
    held_out: Floats = y - error
    return Fitted(np.vstack([weights, level - middle @ weights]).astype(np.float32), held_out)
