"""Bounds on means from samples that hold for every sample size: exact ones for shares, and betting ones for values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

BETS = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.025)
"""How much of its capital each bettor stakes, as a share of what can be lost. One that stakes all of it does best where
there is no loss at all, one that stakes u of it where losses are 1 - u of what is allowed; the small ones are for
regrets that wins offset."""
BETS_ONCE = (0.65, 0.5)
"""For one look at some hundreds to thousands of values, few of them losses: fewer bettors own more each."""
HALVINGS = 60


def binomial_tail(losses: int, count: int, share: float) -> float:
    """P(at most `losses` in `count` draws), each one a loss with chance `share`."""
    if losses >= count or share <= 0:
        return 1.0
    return 0.0 if share >= 1 else _beta_share(count - losses, losses + 1, 1 - share)


@lru_cache(maxsize=1024)  # 60 halvings; a trial asks for the same one after every outcome
def binomial_upper(losses: int, count: int, delta: float) -> float:
    """Clopper and Pearson's upper bound on a share: it is wrong in at most `delta` of samples."""
    if not 0 <= losses <= count or not 0 < delta < 1:
        raise ValueError("losses are between 0 and count, and delta between 0 and 1")
    if losses == count:
        return 1.0
    return _bisect(lambda share: binomial_tail(losses, count, share) > delta, losses / count, 1.0)


def binomial_lower(losses: int, count: int, delta: float) -> float:
    return 1 - binomial_upper(count - losses, count, delta)


def labels_needed(allowed: float, delta: float, losses: int = 0) -> int:
    """The fewest labels with so many losses that bound a share below `allowed`: 299 for 1 % at 95 % with none."""
    if not 0 < allowed < 1:
        raise ValueError("allowed is between 0 and 1")
    return _least(losses, lambda count: binomial_tail(losses, count, allowed) <= delta)


def labels_needed_by_betting(allowed: float, delta: float) -> int:
    """As `labels_needed` without a loss, for `log_capital`, which may be looked at after every label: 435 for 1 % at
    95 %."""
    return _least(0, lambda count: log_capital({0.0: count}, allowed) >= -math.log(delta))


def _least(below: int, is_enough: Callable[[int], bool]) -> int:
    low, high = below, below + 1
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def log_capital(counts: Mapping[float, int], mean: float, bets: Sequence[float] = BETS) -> float:
    """Logarithm of what bettors who began with 1 own, who bet that the values' mean lies below `mean`.

    Where it does not, capital is not expected to grow, however long they play and whenever they stop: the chance that
    it ever reaches 1/delta is at most delta (Ville). Values may lie anywhere below 1: no more than 1 can be lost.
    Bets are a mixture, fixed beforehand: the capital depends on how often each value was seen, not on their order.

    Args:
        counts: how often each value was seen, all at most 1.
        mean: below 1.
    Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting (arXiv:2010.09686).
    """
    rooms = [(count, (mean - value) / (1 - mean)) for value, count in counts.items() if count]
    capitals = []
    for bet in bets:
        capital = 0.0
        for count, room in rooms:
            factor = 1 + bet * room
            if factor <= 0:
                capital = -math.inf
                break
            capital += count * math.log(factor)
        capitals.append(capital)
    most = max(capitals)
    return most + math.log(sum(math.exp(capital - most) for capital in capitals) / len(bets))


def betting_upper(
    counts: Mapping[float, int], delta: float, lowest: float = 0.0, bets: Sequence[float] = BETS
) -> float:
    """Upper bound on the mean of values in [lowest, 1]. It holds at all sample sizes at once: the chance that it is
    ever below the mean, however often one looks, is at most `delta`."""
    wanted = -math.log(delta)
    return _bisect(lambda mean: log_capital(counts, mean, bets) < wanted, lowest, 1 - 1e-12)


def _bisect(is_below: Callable[[float], bool], low: float, high: float) -> float:
    """Where `is_below` turns false, from above."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return high


def _beta_share(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1), tiny)
    fraction, m = d, 0
    while True:
        m += 1
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + term * d, tiny)
            c = _away_from_zero(1 + term / c, tiny)
            fraction *= c * d
        if abs(c * d - 1) < 1e-14 or m > 10_000:
            return math.exp(log_front) * fraction / a


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
