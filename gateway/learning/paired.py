"""Differences between two ways of doing the same requests, with how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 1000
CELLS_AT_ONCE = 2_000_000  # of a table of resamples by requests
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        return self.high < 0

    def as_json(self) -> dict[str, float]:
        return {name: float(f"{getattr(self, name):.6g}") for name in ("value", "low", "high")}


def mean_of(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of one number a request, by the percentile bootstrap.

    Raises: ValueError where there are none.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    import numpy as np

    if not len(values):
        raise ValueError("the mean of nothing")
    data = np.asarray(values, dtype=np.float64)
    if len(data) == 1 or (data == data[0]).all():  # resampled, they stay what they are
        return Interval(float(data.mean()), float(data.mean()), float(data.mean()))
    low, high = np.quantile(_means(data, np.random.default_rng(seed)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(data.mean()), float(low), float(high))


def difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Interval:
    """Mean of ours minus theirs, request by request. Raises: ValueError for none, or for unequal numbers of them."""
    return mean_of([a - b for a, b in zip(ours, theirs, strict=True)], seed)


def nearer(before: Sequence[float], after: Sequence[float], target: float, seed: int = 0) -> Interval:
    """How much nearer to the target the mean over the requests has come; below 0: it is farther from it now.

    Raises: ValueError for none, or for unequal numbers of them.
    """
    import numpy as np

    if not len(before) or len(before) != len(after):
        raise ValueError("wants as many before as after, and at least one")
    both = np.stack([np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)], axis=1)
    means = np.concatenate([_means(both, np.random.default_rng(seed)), both.mean(axis=0, keepdims=True)])
    gains = np.abs(means[:, 0] - target) - np.abs(means[:, 1] - target)
    low, high = np.quantile(gains[:-1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(gains[-1]), float(low), float(high))


def _means(data: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Of resampled requests; `data` has one a row."""
    import numpy as np

    rows = max(1, CELLS_AT_ONCE // data.size)
    parts = []
    for start in range(0, RESAMPLES, rows):
        drawn = rng.integers(0, len(data), size=(min(rows, RESAMPLES - start), len(data)))
        parts.append(data[drawn].mean(axis=1))
    return np.concatenate(parts)
