"""Whom to ask next: the set of models that is worth most for what it costs, each member of which is asked in turn.

`value(S) = E[best q of S] - lambda * E[costs of S]`. A model's worth q is normal around its estimate until it has
answered, and a number from then on. Source: cascade routing (Dekoninck et al. 2024, arXiv:2410.10347), but for one
thing: members are asked in order of cost, and one counts only with the chance that those before it were not good
enough. With the plain sum of costs a small model in front of a large one hardly ever pays, however often it suffices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import erf
from operator import mul
from typing import NamedTuple

POINTS = 24  # of the integral over [0, 1]; with a sigma of 0.04 or more its error is below 1e-3
LEAST_SIGMA = 0.02  # below, a worth counts as known
MOST = 4  # models to choose from
WIDTH = 1 / POINTS
MIDDLES = tuple((i + 0.5) * WIDTH for i in range(POINTS))
ALL_BELOW = (1.0,) * POINTS
ROOT_2 = math.sqrt(2)
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Option:
    """One model as the rule sees it. `p`, `sigma`: of its worth, in [0, 1]; `cost`: in the unit of the budget. `sigma`
    is how far its answer will move what is thought of it: 0 where nothing judges it."""

    key: str
    p: float
    sigma: float
    cost: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The set that is worth most, and who of it is asked next: None where all of it has answered."""

    members: frozenset[str]
    next: str | None
    value: float
    quality: float
    lambda_: float


@dataclass(frozen=True, slots=True)
class Rate:
    """What quality is worth. `lambda_`: chance of a good answer, in [0, 1], that a unit of cost must bring; None: it
    follows from `quality`, the chance to be had for as little as possible."""

    lambda_: float | None = 1.0
    quality: float | None = None


def choose(options: Sequence[Option], answered: Mapping[str, float], rate: Rate) -> Choice:
    """Args: `answered` has what the answers of models asked before are worth, by key; `options` are all models that
    have answered or can still be asked, four at most."""
    left = sorted((option for option in options if option.key not in answered), key=_order)
    sets = _sets(left, max(answered.values()) if answered else None, rate)
    lambda_ = rate.lambda_ if rate.lambda_ is not None else lambda_for(sets, rate.quality or 0.0)
    best = max(sets, key=lambda one: (one.quality - lambda_ * one.cost, -one.cost, -one.members))
    members = [option for place, option in enumerate(left) if best.members >> place & 1]
    following = members[0].key if members else None
    keys = frozenset((*answered, *(option.key for option in members)))
    return Choice(keys, following, best.quality - lambda_ * best.cost, best.quality, lambda_)


class Priced(NamedTuple):
    """A set of those who can still be asked, beside those who have answered: a bit for each `members`, what the best
    of all their answers is worth, and what asking costs, as far as it comes to that."""

    members: int
    quality: float
    cost: float


def _order(option: Option) -> tuple[float, float]:
    return option.cost, -option.p


def _sets(left: Sequence[Option], floor: float | None, rate: Rate) -> list[Priced]:
    """All of them; the empty one where there is an answer, the best of which is worth `floor`. `left` in the order of
    asking."""
    start = _distribution(floor, 0.0) if floor is not None else ALL_BELOW
    found: list[tuple[int, Sequence[float], float]] = [(0, start, 0.0)]
    for place, option in enumerate(left):
        mine = _distribution(option.p, option.sigma)
        bit, one = 1 << place, option.cost
        enough = _point(rate.quality or 1.0 if rate.lambda_ is None else option.p - rate.lambda_ * one)
        for members, below, cost in found[:]:
            if members:
                needed = below[enough]
                found.append((members | bit, _followed(below, mine, enough, needed), cost + one * needed))
            else:
                found.append((bit, [*map(mul, below, mine)], cost + one))
    sets = found if floor is not None else found[1:]
    return [Priced(members, 1 - sum(below) * WIDTH, cost) for members, below, cost in sets]


def _followed(below: Sequence[float], mine: Sequence[float], enough: int, needed: float) -> list[float]:
    """Of the best answer, where one more is asked if those before are not good `enough`, with the chance `needed`."""
    out = [*map(mul, below[:enough], mine)]
    out += [before - needed + needed * own for before, own in zip(below[enough:], mine[enough:], strict=True)]
    return out


def _point(worth: float) -> int:
    """Where on the grid it lies."""
    return min(POINTS - 1, max(0, int(worth * POINTS)))


@lru_cache(256)  # the same ones at each hop of a request
def _distribution(p: float, sigma: float) -> tuple[float, ...]:
    """Chance that the worth, cut to [0, 1], is below each point. E[max] is 1 less the integral of their product."""
    if sigma < LEAST_SIGMA:  # a step, whose cell counts in part
        return tuple([min(1.0, max(0.0, (middle - p) / WIDTH + 0.5)) for middle in MIDDLES])
    scale = 1 / (sigma * ROOT_2)
    return tuple([0.5 + 0.5 * erf((middle - p) * scale) for middle in MIDDLES])


def lambda_for(sets: Sequence[Priced], quality: float) -> float:
    """The largest lambda under which the best set still reaches `quality`; the least sensible one where none does.

    Walks the hull of quality over cost from its good end towards its cheap one.
    """
    here = max(sets, key=lambda one: (one.quality, -one.cost))
    steepest = 0.0
    while True:
        best, cost = here.quality, here.cost
        slopes = [
            ((best - one.quality) / (cost - one.cost), place) for place, one in enumerate(sets) if one.cost < cost
        ]
        if not slopes:
            return steepest + TINY if steepest else 1.0
        slope, place = min(slopes)
        slope, following = max(slope, steepest), sets[place]
        if following.quality < quality - TINY:
            return (steepest + slope) / 2
        here, steepest = following, slope


def expected_best(options: Sequence[Option]) -> float:
    """E[max] of all of them, where each is asked whatever the others have said."""
    below: Sequence[float] = ALL_BELOW
    for option in options:
        below = [*map(mul, below, _distribution(option.p, option.sigma))]
    return 1 - sum(below) * WIDTH
