"""Is a chance of 0.8 right in 8 of 10? How far off it is, and a monotone map that puts it right."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DIGITS = 6
SMOOTHING = 1.0  # labels of the average kind that each step is given beside its own


@dataclass(frozen=True)
class Isotonic:
    """A rising, piecewise linear map. It keeps the order of what it maps, up to its ends and its level stretches."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]

    def __call__(self, x: float) -> float:
        xs, ys = self.xs, self.ys
        if x <= xs[0]:
            return ys[0]
        if x >= xs[-1]:
            return ys[-1]
        place = bisect_right(xs, x)
        left, right = xs[place - 1], xs[place]
        return ys[place - 1] + (ys[place] - ys[place - 1]) * (x - left) / (right - left)

    def as_json(self) -> dict[str, list[float]]:
        return {"x": [round(x, DIGITS) for x in self.xs], "y": [round(y, DIGITS) for y in self.ys]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Isotonic:
        """Raises: ValueError."""
        xs, ys = (tuple(float(value) for value in data[axis]) for axis in "xy")
        is_map = xs and len(xs) == len(ys) and all(map(math.isfinite, xs + ys))
        if not (is_map and list(xs) == sorted(set(xs)) and list(ys) == sorted(ys)):
            raise ValueError("an isotonic map has rising x, and y that do not fall")
        return cls(xs, ys)


def fit_isotonic(xs: Sequence[float], labels: Sequence[float], weights: Sequence[float] | None = None) -> Isotonic:
    """The rising map that is nearest to the labels, by pooling adjacent violators; drawn through the middle of each
    step, so that it tells apart what a step would make equal."""
    if not xs:
        raise ValueError("nothing to fit")
    weights = weights if weights is not None else [1.0] * len(xs)
    total = sum(weights)
    average = sum(label * weight for label, weight in zip(labels, weights, strict=True)) / total
    steps: list[list[float]] = []  # sums of weight, of x and of labels
    for x, label, weight in sorted(zip(xs, labels, weights, strict=True)):
        steps.append([weight, weight * x, weight * label])
        while len(steps) > 1 and _is_out_of_order(steps[-2], steps[-1]):
            last = steps.pop()
            steps[-1] = [a + b for a, b in zip(steps[-1], last, strict=True)]
    middles = [step[1] / step[0] for step in steps]
    heights = [(step[2] + SMOOTHING * average) / (step[0] + SMOOTHING) for step in steps]
    for place in range(1, len(heights)):  # smoothing may have bent it
        heights[place] = max(heights[place], heights[place - 1])
    return Isotonic(*_rounded(middles, heights))


def _is_out_of_order(before: Sequence[float], after: Sequence[float]) -> bool:
    is_same = round(before[1] / before[0], DIGITS) >= round(after[1] / after[0], DIGITS)
    return is_same or before[2] / before[0] >= after[2] / after[0]


def _rounded(xs: Sequence[float], ys: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(round(x, DIGITS) for x in xs), tuple(round(y, DIGITS) for y in ys)


def ece(
    chances: Sequence[float], labels: Sequence[float], weights: Sequence[float] | None = None, bins: int = 10
) -> float:
    """Expected calibration error: how far the chances are from what came true, by bins of equal width."""
    weights = weights if weights is not None else [1.0] * len(chances)
    sums = [[0.0, 0.0] for _ in range(bins)]
    for chance, label, weight in zip(chances, labels, weights, strict=True):
        one = sums[min(bins - 1, int(chance * bins))]
        one[0] += weight * chance
        one[1] += weight * label
    total = sum(weights)
    return sum(abs(said - true) for said, true in sums) / total if total else 0.0


def auroc(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """The chance that one that is right scores above one that is not; None where all are of one kind."""
    ranked = sorted(zip(scores, labels, strict=True))
    right = sum(1 for label in labels if label > 0.5)
    wrong = len(ranked) - right
    if not right or not wrong:
        return None
    ranks, place = 0.0, 0
    while place < len(ranked):
        end = place
        while end < len(ranked) and ranked[end][0] == ranked[place][0]:
            end += 1
        ranks += (place + end + 1) / 2 * sum(1 for _, label in ranked[place:end] if label > 0.5)
        place = end
    return (ranks - right * (right + 1) / 2) / (right * wrong)
