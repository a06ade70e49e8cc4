"""Have drafts become worse since a threshold was certified? A detector that may be asked after every label.

It bets on worse alternatives, in the manner of CUSUM: each bet's wealth is multiplied as labels come and begins anew at
1 whenever it falls below. While nothing has become worse, the average of these is reached or passed `ALARM` once in
`ALARM` labels at the most, whatever the labels' order and however often one looks: Shin, Ramdas and Rinaldo,
E-detectors (arXiv:2203.03532). That is the worst case, with losses exactly at the levels; below them it is far rarer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.quality.bounds import binomial_upper

ALARM = 1000.0
DOUBT = 0.05  # that a level is taken too low


@dataclass(frozen=True)
class Levels:
    """What is no drift. `served`: mean loss over all audited requests, 0 for those escalated. `escalated`: mean loss of
    the drafts that were escalated, whose labels cost nothing. `overall`: the same over all requests, 0 for those
    accepted."""

    served: float
    escalated: float
    overall: float


@dataclass(frozen=True)
class Alternative:
    """By what the odds of a loss are multiplied; 1: no bet is made on these."""

    served: float = 1.0
    escalated: float = 1.0
    overall: float = 1.0


ALTERNATIVES = (
    Alternative(served=2),
    Alternative(served=4),
    Alternative(served=8),
    Alternative(escalated=1.5),
    Alternative(escalated=2.5),
    Alternative(served=4, escalated=1.5),
    Alternative(served=8, escalated=2),
    Alternative(overall=1.6),
    Alternative(overall=2.5),
)


def bet_on(level: float, odds: float) -> float:
    """What to stake on losses above a level, so that it pays best where their odds are so many times as high."""
    if odds == 1:
        return 0.0
    share = odds * level / (1 - level + odds * level)
    return (share - level) / (level * (1 - level))


class Past:
    """How many requests there were at each place of a grid, and of those that were escalated how many drafts were
    compared, and lost."""

    def __init__(self, places: int) -> None:
        self.requests = [0.0] * places
        self.labels = [0.0] * places
        self.losses = [0.0] * places

    def add(self, place: int, loss: float | None) -> None:
        self.requests[place] += 1
        if loss is not None:
            self.labels[place] += 1
            self.losses[place] += loss

    def levels(self, first: int) -> tuple[float, float]:
        """Bounds on `escalated` and `overall`, where all from a place on are escalated."""
        labels, losses = sum(self.labels[first:]), sum(self.losses[first:])
        requests, below = sum(self.requests), sum(self.requests[first:])
        if not labels:
            return 1.0, 1.0
        mean = losses / labels
        return upper_level(mean, labels), upper_level(mean * below / requests, labels * requests / below)

    def halve(self) -> None:
        for counts in (self.requests, self.labels, self.losses):
            counts[:] = [count / 2 for count in counts]

    def as_json(self) -> dict[str, Sequence[float]]:
        return {name: [round(count, 3) for count in counts] for name, counts in vars(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[float]], places: int) -> Past:
        past = cls(places)
        for name in vars(past):
            counts = [float(count) for count in data[name]]
            if len(counts) != places:
                raise ValueError(f"{places} places, and not {len(counts)}")
            setattr(past, name, counts)
        return past


def upper_level(mean: float, count: float) -> float:
    """Of a mean in [0, 1]: a little above what was seen."""
    whole = round(count)
    return binomial_upper(min(whole, round(mean * whole)), whole, DOUBT)


class Drift:
    def __init__(self, alarm: float = ALARM) -> None:
        self.alarm = alarm
        self.levels: Levels | None = None
        self.wealth = [1.0] * len(ALTERNATIVES)
        self._total = float(len(self.wealth))
        self._bets: list[tuple[float, float, float]] = []

    @property
    def suspicion(self) -> float:
        """1 where nothing speaks for a drift; the alarm is given at `alarm`."""
        return max(1.0, self._total / len(self.wealth))

    def anchor(self, levels: Levels) -> None:
        """Judge what comes from now on against these levels, each between 0 and 1."""
        self.levels = Levels(
            *(min(max(level, 1e-6), 1 - 1e-6) for level in (levels.served, levels.escalated, levels.overall))
        )
        self._bets = [
            (
                bet_on(self.levels.served, one.served),
                bet_on(self.levels.escalated, one.escalated),
                bet_on(self.levels.overall, one.overall),
            )
            for one in ALTERNATIVES
        ]

    def note(self, served: float | None, escalated: float | None, overall: float | None) -> bool:
        """Is it time to fall back? Losses in [0, 1] of one request, None where they are not known.

        Args:
            served: as it was answered, 0 where it was escalated; of audited requests only.
            escalated: of its draft; of requests that were escalated only.
            overall: of its draft, 0 where it was accepted; of all.
        """
        levels = self.levels
        if levels is None:
            return False
        above_served = 0.0 if served is None else served - levels.served
        above_escalated = 0.0 if escalated is None else escalated - levels.escalated
        above_overall = 0.0 if overall is None else overall - levels.overall
        total = 0.0
        for place, (on_served, on_escalated, on_overall) in enumerate(self._bets):
            factor = (1 + on_served * above_served) * (1 + on_escalated * above_escalated)
            wealth = max(1.0, self.wealth[place]) * factor * (1 + on_overall * above_overall)
            self.wealth[place] = wealth
            total += wealth
        self._total = total
        return total >= self.alarm * len(self.wealth)

    def as_json(self) -> dict[str, Any]:
        levels = list(vars(self.levels).values()) if self.levels else None
        return {"levels": levels, "wealth": [round(wealth, 6) for wealth in self.wealth]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], alarm: float = ALARM) -> Drift:
        drift = cls(alarm)
        if data["levels"]:
            drift.anchor(Levels(*map(float, data["levels"])))
        wealth = [float(one) for one in data["wealth"]]
        if len(wealth) == len(ALTERNATIVES):
            drift.wealth, drift._total = wealth, sum(wealth)
        return drift
