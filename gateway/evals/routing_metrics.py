"""What a router is worth, by the measures of RouteLLM (APGR) and RouterBench (cost against quality)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
LAMBDAS = np.concatenate([[0.0], np.logspace(-4, 3, 141)])
BINS = 15
WITHIN = 0.99  # of the best single model's quality
NEAR = 1e-12


def curve(score: Doubles, weak: Doubles, strong: Doubles) -> Doubles:
    """Mean quality when the k highest scores go to the strong model, k = 0 … n; equal scores share their gain."""
    order = np.argsort(-score, kind="stable")
    gain, sorted_scores = (strong - weak)[order], score[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(sorted_scores) != 0) + 1])
    ends = np.append(starts[1:], len(score))
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    means = (sums[ends] - sums[starts]) / (ends - starts)
    steps = np.repeat(means, ends - starts)
    quality: Doubles = (weak.sum() + np.concatenate([[0.0], np.cumsum(steps)])) / len(score)
    return quality


def apgr(score: Doubles, weak: Doubles, strong: Doubles) -> float:
    """Average performance gap recovered (Ong et al. 2024, arXiv:2406.18665): 0.5 for a router that knows nothing."""
    gap = strong.mean() - weak.mean()
    if not gap:
        return math.nan
    recovered = (curve(score, weak, strong) - weak.mean()) / gap
    return float((recovered[1:] + recovered[:-1]).sum() / 2 / len(score))


def calibration_error(chances: Doubles, right: Doubles) -> float:
    """Expected calibration error over 15 bins."""
    bins = np.minimum((np.clip(chances, 0, 1) * BINS).astype(int), BINS - 1)
    said, was = np.bincount(bins, chances, BINS), np.bincount(bins, right, BINS)
    return float(np.abs(said - was).sum() / len(chances))


def first_reach(x: Doubles, y: Doubles, wanted: float) -> float:
    """The smallest x where y reaches what is wanted, linear in between; NaN if it never does."""
    places = np.flatnonzero(y >= wanted - NEAR)
    if not len(places):
        return math.nan
    k = int(places[0])
    if k == 0:
        return float(x[0])
    return float(x[k - 1] + (wanted - y[k - 1]) / (y[k] - y[k - 1]) * (x[k] - x[k - 1]))


def hull(points: Doubles) -> Doubles:
    """Upper convex hull of (cost, quality) that never falls, cheapest first."""
    out: list[tuple[float, float]] = []
    for cost, quality in points[np.lexsort((-points[:, 1], points[:, 0]))].tolist():
        if out and quality <= max(one[1] for one in out):
            continue
        while len(out) >= 2 and _slope(out[-2], out[-1]) <= _slope(out[-1], (cost, quality)):
            out.pop()
        if out and out[-1][0] == cost:
            out.pop()
        out.append((cost, quality))
    return np.array(out)


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0]) if right[0] > left[0] else math.inf


def routed(predicted: Doubles, quality: Doubles, cost: Doubles, known_cost: Doubles | None = None) -> Doubles:
    """(mean cost, mean quality) of the choices that weigh quality against cost in every way.

    Args:
        predicted, quality, cost: shape (prompts, models). known_cost: before the call; None: each model's mean.
    """
    known = np.broadcast_to(cost.mean(axis=0), cost.shape) if known_cost is None else known_cost
    rows = np.arange(len(quality))
    points = []
    for price in LAMBDAS / known.mean():
        chosen = np.argmax(predicted - price * known, axis=1)
        points.append((cost[rows, chosen].mean(), quality[rows, chosen].mean()))
    return np.array(points)


@dataclass(frozen=True)
class Saved:
    """`usd`: share saved at 99 % of the best single model's quality, NaN if it is never reached; `most`: quality."""

    usd: float
    most: float


def saved(points: Doubles, quality: Doubles, cost: Doubles) -> Saved:
    line = hull(points)
    best = int(quality.mean(axis=0).argmax())
    reached = first_reach(line[:, 0], line[:, 1], WITHIN * float(quality[:, best].mean()))
    return Saved(1 - reached / float(cost[:, best].mean()), float(line[:, 1].max()))


def singles(quality: Doubles, cost: Doubles) -> Doubles:
    """(mean cost, mean quality) of each model by itself."""
    return np.stack([cost.mean(axis=0), quality.mean(axis=0)], axis=1)


def random_spread(count: int, weak: Doubles, strong: Doubles, draws: int = 40) -> float:
    """Standard deviation of the APGR of scores that know nothing."""
    rng = np.random.default_rng(0)
    found: Sequence[float] = [apgr(rng.random(count), weak, strong) for _ in range(draws)]
    return float(np.nanstd(found))
