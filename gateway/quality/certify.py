"""Which threshold on a draft's score may be promised: a fixed-sequence test, from the strictest to the loosest.

Regret is what a user loses by a draft that is accepted: the larger model's quality less the draft's. It is a mean over
all traffic, 0 for what is escalated, so the sample must be uniform over all requests. Thresholds are tried in an order
fixed beforehand, and the first that cannot be shown to keep within what is allowed ends the test: so the chance that
one is certified which does not is at most delta, however many are tried.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gateway.quality.bounds import BETS_ONCE, betting_upper, binomial_upper, log_capital

Reading = Literal["strict", "net"]
"""`strict`: only losses count, what users feel. `net`: wins over the larger model offset them."""

STEPS = 100  # in which graded regrets are counted, rounded up
UNCERTIFIED = math.inf


def grid_of(count: int = 128, strictest: float = 0.999, loosest: float = 0.05) -> tuple[float, ...]:
    """Thresholds on a chance, evenly in its logit, strictest first."""
    first, last = (math.log(end / (1 - end)) for end in (strictest, loosest))
    logits = (first + (last - first) * step / (count - 1) for step in range(count))
    return tuple(round(1 / (1 + math.exp(-logit)), 6) for logit in logits)


GRID = grid_of()


class Audited(NamedTuple):
    """One request drawn uniformly from all traffic. `regret`: of its draft, had it been accepted, in [-1, 1]."""

    score: float
    regret: float


@dataclass(frozen=True)
class Certificate:
    """Args:
    threshold: drafts that score at least so much may be accepted; inf where nothing is certified.
    bound: on the mean regret over all traffic, with the confidence asked for.
    mean: regret in the sample.
    losses: accepted drafts of the sample that were worse.
    share: of the sample that is accepted.
    """

    threshold: float
    bound: float
    mean: float
    count: int
    losses: int
    share: float

    @property
    def is_certified(self) -> bool:
        return self.threshold < UNCERTIFIED


def certify(
    audited: Sequence[Audited],
    *,
    allowed_regret: float,
    confidence: float,
    grid: Sequence[float] = GRID,
    reading: Reading = "strict",
) -> Certificate:
    """The loosest threshold that a sample of a size fixed beforehand can show to be good enough.

    Exact where regrets are 0 or 1. To look again as labels come, use `Evidence`: this test holds for one look.
    """
    evidence = Evidence(grid, reading)
    for one in audited:
        evidence.add(*one)
    return evidence.look_once(allowed_regret, 1 - confidence)


def _exact_bound(counts: Mapping[float, int], delta: float, lowest: float = 0.0) -> float:
    return binomial_upper(counts.get(1.0, 0), sum(counts.values()), delta)


def _bound_once(counts: Mapping[float, int], delta: float, lowest: float = 0.0) -> float:
    return betting_upper(counts, delta, lowest, BETS_ONCE)


class Places:
    """Of a score: how many thresholds of a grid lie above it."""

    def __init__(self, grid: Sequence[float]) -> None:
        self._negated = [-threshold for threshold in grid]

    def __call__(self, score: float) -> int:
        return bisect_left(self._negated, -score)


class Evidence:
    """Audited regrets, by the place of their scores on a grid, and how far down the grid they certify.

    One may look after every label: capital won by betting against a threshold is what is tested, which stays below
    1/delta with chance 1 - delta for ever where the threshold is bad (see `log_capital`).
    """

    def __init__(self, grid: Sequence[float] = GRID, reading: Reading = "strict") -> None:
        if any(one <= other for one, other in zip(grid, grid[1:], strict=False)):
            raise ValueError("the grid goes from the strictest threshold to the loosest")
        self.grid = tuple(grid)
        self.reading = reading
        self.count = 0
        self.best = -1  # place of the loosest that is certified
        self.is_one_look = False
        self.place_of = Places(self.grid)
        self._cells: list[Counter[float]] = [Counter() for _ in range(len(self.grid) + 1)]

    @property
    def threshold(self) -> float:
        return self.grid[self.best] if self.best >= 0 else UNCERTIFIED

    def add(self, score: float, regret: float) -> None:
        if not -1 <= regret <= 1:
            raise ValueError("a regret lies between -1 and 1")
        if self.reading == "strict":
            regret = max(0.0, regret)
        self._cells[self.place_of(score)][math.ceil(regret * STEPS - 1e-9) / STEPS] += 1
        self.count += 1

    def values(self) -> set[float]:
        return {value for cell in self._cells for value in cell}

    def accepted(self, place: int) -> Counter[float]:
        """Regrets of those at or above the threshold at a place."""
        return _sum(self._cells[: place + 1])

    def escalated(self, place: int) -> Counter[float]:
        return _sum(self._cells[place + 1 :])

    def regrets(self, place: int) -> Counter[float]:
        """Of all, with the threshold at a place."""
        counts = self.accepted(place)
        counts[0.0] += self.count - counts.total()
        return counts

    def look(self, allowed_regret: float, delta: float) -> None:
        """Go on down the grid as far as the labels allow; back up from where they have come to speak against it."""
        self.is_one_look = False
        while self.best >= 0 and _mean(self.regrets(self.best)) > allowed_regret:
            self.best -= 1
        wanted = -math.log(delta)
        while self.best + 1 < len(self.grid) and log_capital(self.regrets(self.best + 1), allowed_regret) >= wanted:
            self.best += 1

    def look_once(self, allowed_regret: float, delta: float) -> Certificate:
        """At labels whose number was fixed beforehand."""
        self.is_one_look, self.best = True, -1
        for place in range(len(self.grid)):
            if self.certificate(place, delta).bound > allowed_regret:
                break
            self.best = place
        return self.certificate(self.best, delta)

    def certificate(self, place: int, delta: float) -> Certificate:
        bound: Callable[[Mapping[float, int], float, float], float] = betting_upper
        if self.is_one_look:
            bound = _exact_bound if self.values() <= {0.0, 1.0} else _bound_once
        lowest = 0.0 if self.reading == "strict" else -1.0
        regrets, accepted = self.regrets(place), self.accepted(place)
        losses = sum(count for value, count in accepted.items() if value > 0)
        share = accepted.total() / self.count if self.count else 0.0
        upper = bound(regrets, delta, lowest) if self.count else 1.0
        return Certificate(
            self.grid[place] if place >= 0 else UNCERTIFIED, upper, _mean(regrets), self.count, losses, share
        )

    def as_json(self) -> dict[str, Any]:
        cells = {
            str(place): {f"{value:g}": count for value, count in cell.items()}
            for place, cell in enumerate(self._cells)
            if cell
        }
        return {"best": self.best, "one_look": self.is_one_look, "cells": cells}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], grid: Sequence[float] = GRID, reading: Reading = "strict") -> Evidence:
        evidence = cls(grid, reading)
        evidence.best = max(-1, min(int(data["best"]), len(evidence.grid) - 1))
        evidence.is_one_look = bool(data.get("one_look", False))
        for place, cell in data["cells"].items():
            counts = Counter({float(value): int(count) for value, count in cell.items()})
            evidence._cells[int(place)] = counts
            evidence.count += counts.total()
        return evidence


def _sum(cells: Iterable[Counter[float]]) -> Counter[float]:
    total: Counter[float] = Counter()
    for cell in cells:
        for value, count in cell.items():
            total[value] += count
    return total


def _mean(counts: Mapping[float, int]) -> float:
    count = sum(counts.values())
    return sum(value * times for value, times in counts.items()) / count if count else 0.0
