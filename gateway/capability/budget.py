"""What quality is worth under a budget: lambda, fitted on requests of the past so that they would have cost as much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from gateway.capability.choosing import Option, Rate, choose
from gateway.capability.estimates import Estimate
from gateway.learned_file import VERSION, parsed_file

FILE = Path("learned") / "budgets.yaml"
DIGITS = 6
ROUNDS = 24  # of bisection: lambda to a few millionths
LOWEST, HIGHEST = 1e-6, 1e9  # lambda
UNPRICED_USD = 0.01  # for a model whose price nobody knows, beside others of whom nobody does either
DEFAULT_LAMBDA = {"usd": 1.0, "seconds": 0.01, "joules": 1e-4}
"""Without a fitted one and without a `quality`: a good answer is worth a dollar, 100 seconds, 10 kJ."""

Unit = Literal["usd", "seconds", "joules"]


@dataclass(frozen=True)
class Budget:
    """So much of the unit a request, on average. `most` None: no limit, it only says what is counted."""

    unit: Unit = "usd"
    most: float | None = None
    latency_weight_usd_per_s: float = 0.0

    def cost(self, one: Estimate, dearest_usd: float = UNPRICED_USD) -> float:
        """In the unit. A model of unknown price counts as much as `dearest_usd`."""
        if self.unit == "seconds":
            return one.latency_s
        if self.unit == "joules":
            return one.joules
        return (dearest_usd if one.cost_usd is None else one.cost_usd) + self.latency_weight_usd_per_s * one.latency_s

    def options(self, estimates: Mapping[str, Estimate]) -> list[Option]:
        known = [one.cost_usd for one in estimates.values() if one.cost_usd is not None]
        dearest = max(known, default=0.0) or UNPRICED_USD
        return [Option(key, one.p, one.sigma, self.cost(one, dearest)) for key, one in estimates.items()]


@dataclass(frozen=True, slots=True)
class Row:
    """One request of the past.

    Args:
        options: as they were estimated before anybody was asked; costs in the unit of the budget.
        worth: by key, what the model's answer turned out to be worth by its checks, in [0, 1].
        costs: by key, what asking it did cost; where it is missing, as estimated.
    """

    options: tuple[Option, ...]
    worth: Mapping[str, float]
    costs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of replaying rows, on average: what a request would have cost, and what its answer would have been worth."""

    cost: float
    quality: float


def fit_lambda(rows: Sequence[Row], budget: float) -> float:
    """The smallest lambda with which a request costs no more than the budget on average.

    Where even the cheapest way costs more, the largest lambda that is tried. Raises: ValueError without rows.
    """
    return _smallest(rows, lambda outcome: outcome.cost <= budget)


def fit_lambda_for_quality(rows: Sequence[Row], target: float) -> float:
    """The largest lambda with which answers are worth the target on average; the smallest that is tried where none
    reaches it. Raises: ValueError without rows."""
    return _smallest(rows, lambda outcome: outcome.quality < target, below=True)


def _smallest(rows: Sequence[Row], holds: Any, *, below: bool = False) -> float:
    """Bisects, over its logarithm, for where `holds` becomes true; `below`: the last lambda before that."""
    if not rows:
        raise ValueError("there is nothing to fit lambda on")
    low, high = math.log(LOWEST), math.log(HIGHEST)
    if holds(replay(rows, LOWEST)):
        return LOWEST
    if not holds(replay(rows, HIGHEST)):
        return HIGHEST
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if holds(replay(rows, math.exp(middle))):
            high = middle
        else:
            low = middle
    return math.exp(low if below else high)


def replay(rows: Sequence[Row], lambda_: float) -> Outcome:
    """What would have come of the rows under the rule. Models that a row knows no outcome of are left out of it."""
    cost = quality = 0.0
    rate = Rate(lambda_)
    for row in rows:
        options = [option for option in row.options if option.key in row.worth]
        answered: dict[str, float] = {}
        estimated = {option.key: option.cost for option in options}
        while options and (following := choose(options, answered, rate).next) is not None:
            answered[following] = row.worth[following]
            cost += row.costs.get(following, estimated[following])
        quality += max(answered.values(), default=0.0)
    return Outcome(cost / len(rows), quality / len(rows))


def read_lambdas(home: Path) -> dict[str, float]:
    """By place, as `gateway learn` has fitted them; none where it has not. Raises: ConfigError naming the file."""
    return parsed_file(home / FILE, "budgets", _lambdas) or {}


def _lambdas(data: Mapping[str, Any]) -> dict[str, float]:
    found = {str(place): float(entry["lambda"]) for place, entry in data["budgets"].items()}
    if not all(math.isfinite(one) and one >= 0 for one in found.values()):
        raise ValueError("a lambda is a number from 0")
    return found


def write_lambdas(home: Path, found: Mapping[str, Mapping[str, float]]) -> None:
    """Args: `found` by place: `lambda`, and whatever numbers people may want to see beside it."""
    rounded = {
        place: {name: float(f"{value:.{DIGITS}g}") for name, value in numbers.items()}
        for place, numbers in sorted(found.items())
    }
    path = home / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"version": VERSION, "budgets": rounded}, sort_keys=False), "utf-8")
