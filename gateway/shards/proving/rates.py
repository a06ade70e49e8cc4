"""What passes and fails say of a rate, and of the difference of two, with the standard library's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable

Z95 = 1.959963984540054
TINY = 1e-300
PRECISION = 1e-12
STEPS = 256
WIDTHS = 8.0  # standard deviations beside the mean that are looked at


def log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def mean_and_sd(a: float, b: float) -> tuple[float, float]:
    mean = a / (a + b)
    return mean, math.sqrt(mean * (1.0 - mean) / (a + b + 1.0))


def cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta(a, b))
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1.0 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b), by Lentz's method (NIST Digital Library 8.17.22)."""
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value, step = d, 0.0
    m = 0
    while abs(step - 1.0) > PRECISION:
        m += 1
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            step *= d * c
        value *= step
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY


def quantile(share: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    while high - low > PRECISION:
        middle = (low + high) / 2.0
        low, high = (middle, high) if cdf(middle, a, b) < share else (low, middle)
    return (low + high) / 2.0


def chance_above(first: tuple[float, float], second: tuple[float, float]) -> float:
    """The chance that a draw of the first is above one of the second, within 0.001. All parameters are at least 1."""
    moments = (mean_and_sd(*first), mean_and_sd(*second))
    low = max(0.0, min(mean - WIDTHS * sd for mean, sd in moments))
    high = min(1.0, max(mean + WIDTHS * sd for mean, sd in moments))
    width = (high - low) / STEPS
    below = total = won = 0.0
    norms = log_beta(*first), log_beta(*second)
    for step in range(STEPS):
        x = low + (step + 0.5) * width
        here, there = _density(x, first, norms[0]), _density(x, second, norms[1])
        won += here * (below + there / 2.0)
        below += there
        total += here
    return won / (total * below)


def _density(x: float, shape: tuple[float, float], norm: float) -> float:
    return math.exp((shape[0] - 1.0) * math.log(x) + (shape[1] - 1.0) * math.log1p(-x) - norm)


def upper_bound(hits: int, of: int, confidence: float = 0.95) -> float:
    """Of a rate, one-sided and exact (Clopper and Pearson 1934); 1 where nothing was tried."""
    return 1.0 if hits >= of else quantile(confidence, hits + 1.0, float(of - hits))


def chance_of_lift(gained: int, lost: int) -> float:
    """That a case is likelier gained than lost, given these.

    Prior: all shares of (gained, lost, unchanged) are alike likely, so gained / (gained + lost) is Beta(1 + gained,
    1 + lost). Its mass above a half is a sum of binomials.
    """
    total = gained + lost + 1
    return sum(math.comb(total, k) for k in range(gained + 1)) / 2.0**total


def exact_p_value(gained: int, lost: int) -> float:
    """McNemar's exact test, two-sided."""
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2.0**changed
    return min(1.0, 2.0 * tail)


def paired_interval(gained: int, lost: int, cases: int, z: float = Z95) -> tuple[float, float]:
    """Tango's score interval of the share gained less the share lost."""
    if cases == 0:
        return -1.0, 1.0
    estimate = (gained - lost) / cases
    low = _crossing(-1.0, estimate, lambda lift: _score(gained, lost, cases, lift) > z)
    high = _crossing(estimate, 1.0, lambda lift: _score(gained, lost, cases, lift) > -z)
    return low, high


def _crossing(low: float, high: float, is_before: Callable[[float], bool]) -> float:
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if is_before(middle) else (low, middle)
    return (low + high) / 2.0


def _score(gained: int, lost: int, cases: int, lift: float) -> float:
    """How many standard errors the cases are above this lift, the share lost being the likeliest under it."""
    b = (2 * cases - gained + lost) * lift - gained - lost
    root = math.sqrt(max(0.0, b * b + 8.0 * cases * lost * lift * (1.0 - lift)))
    share_lost = (root - b) / (4.0 * cases)
    variance = cases * (2.0 * share_lost + lift * (1.0 - lift))
    distance = gained - lost - cases * lift
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def lot_lower_bound(hits: int, sample: int, lot: int, confidence: float = 0.95) -> int:
    """How many of a lot are hits at least, by a random sample of it: one-sided and exact (hypergeometric)."""
    low, high = 0, lot - (sample - hits)
    while low < high:  # the least number of hits in the lot that would not make this sample a surprise
        middle = (low + high) // 2
        low, high = (low, middle) if lot_tail(hits, sample, middle, lot) > 1.0 - confidence else (middle + 1, high)
    return low


def lot_tail(hits: int, sample: int, hits_in_lot: int, lot: int) -> float:
    """The chance of at least so many hits in a sample without replacement."""
    misses = lot - hits_in_lot
    ways = sum(math.comb(hits_in_lot, k) * math.comb(misses, sample - k) for k in range(hits, sample + 1))
    return ways / math.comb(lot, sample)
