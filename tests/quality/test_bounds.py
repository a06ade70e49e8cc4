"""Bounds hold for every sample size, and the exact ones are exact."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quality.bounds import (
    BETS_ONCE,
    betting_upper,
    binomial_lower,
    binomial_tail,
    binomial_upper,
    labels_needed,
    labels_needed_by_betting,
    log_capital,
)


def exact_tail(losses: int, count: int, share: Fraction) -> Fraction:
    return sum(
        (math.comb(count, n) * share**n * (1 - share) ** (count - n) for n in range(losses + 1)), start=Fraction(0)
    )


@given(st.integers(1, 60), st.data())
def test_the_tail_is_that_of_exact_arithmetic(count: int, data: st.DataObject) -> None:
    losses = data.draw(st.integers(0, count))
    share = Fraction(data.draw(st.integers(1, 999)), 1000)
    assert binomial_tail(losses, count, float(share)) == pytest.approx(
        float(exact_tail(losses, count, share)), abs=1e-10
    )


@pytest.mark.parametrize("count", [5, 30, 120])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_the_exact_bound_is_below_the_share_in_no_more_than_delta_of_samples(
    count: int, share: float, delta: float
) -> None:
    chances = [math.comb(count, n) * share**n * (1 - share) ** (count - n) for n in range(count + 1)]
    wrong = sum(chance for n, chance in enumerate(chances) if binomial_upper(n, count, delta) < share)
    assert wrong <= delta
    assert sum(chance for n, chance in enumerate(chances) if binomial_lower(n, count, delta) > share) <= delta


def test_ends_and_nonsense() -> None:
    assert binomial_upper(0, 0, 0.05) == binomial_upper(3, 3, 0.05) == 1.0
    assert binomial_lower(0, 10, 0.05) == 0.0
    assert binomial_upper(0, 299, 0.05) == pytest.approx(1 - 0.05 ** (1 / 299))
    for losses, count, delta in ((4, 3, 0.05), (-1, 3, 0.05), (1, 3, 0.0)):
        with pytest.raises(ValueError):
            binomial_upper(losses, count, delta)
    with pytest.raises(ValueError):
        labels_needed(0, 0.05)


@pytest.mark.parametrize(
    ("allowed", "needed"),
    [
        (0.01, [299, 473, 628, 1049]),
        (0.02, [149, 236, 313, 523]),
        (0.05, [59, 93, 124, 208]),
        (0.1, [29, 46, 61, 103]),
    ],
)
def test_labels_needed_are_those_of_the_tables(allowed: float, needed: list[int]) -> None:
    assert [labels_needed(allowed, 0.05, losses) for losses in (0, 1, 2, 5)] == needed


def test_looking_at_any_time_needs_half_as_many_labels_again() -> None:
    assert [labels_needed_by_betting(allowed, 0.05) for allowed in (0.01, 0.02, 0.05, 0.1)] == [435, 217, 85, 42]


@given(
    st.dictionaries(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), st.integers(0, 400), min_size=1),
    st.floats(0.01, 0.5),
)
def test_the_betting_bound_is_where_capital_reaches_what_is_wanted(counts: dict[float, int], delta: float) -> None:
    bound = betting_upper(counts, delta, lowest=-1.0)
    total = sum(counts.values())
    assert -1 <= bound <= 1
    if total and bound < 0.99:
        assert bound >= sum(value * count for value, count in counts.items()) / total - 1e-9
        assert log_capital(counts, bound + 1e-6) >= -math.log(delta) - 1e-6


def test_more_losses_never_lower_the_bound_and_more_clean_labels_never_raise_it() -> None:
    bounds = [betting_upper({0.0: 300 - losses, 1.0: losses}, 0.05) for losses in range(0, 300, 20)]
    assert bounds == sorted(bounds)
    clean = [betting_upper({0.0: count, 1.0: 2}, 0.05) for count in range(50, 1000, 50)]
    assert clean == sorted(clean, reverse=True)


@pytest.mark.parametrize(("values", "mean"), [((0.0, 1.0), 0.02), ((-1.0, 0.0, 1.0), 0.1), ((0.0, 0.3, 1.0), 0.1)])
def test_looking_as_labels_come_is_wrong_in_no_more_than_delta_of_runs(values: tuple[float, ...], mean: float) -> None:
    rng, runs, wrong = random.Random(4), 200, 0
    weights = weights_with(values, mean)
    for _ in range(runs):
        counts: Counter[float] = Counter()
        for number, drawn in enumerate(rng.choices(values, weights, k=400)):
            counts[drawn] += 1
            if number % 5 == 0 and log_capital(counts, mean) >= -math.log(0.05):
                wrong += 1
                break
    assert wrong <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)


def weights_with(values: tuple[float, ...], mean: float) -> list[float]:
    """Chances of these values that give this mean; others than 0 and 1 come in one of ten."""
    rare = [value for value in values if value not in (0.0, 1.0)]
    ones = mean - sum(0.1 * value for value in rare)
    return [0.1 if value in rare else ones if value == 1.0 else 1 - ones - 0.1 * len(rare) for value in values]


def test_few_bettors_bound_few_losses_better() -> None:
    counts = {0.0: 1206, 1.0: 6, -1.0: 4}
    assert 2 / 1216 < betting_upper(counts, 0.05, -1.0, BETS_ONCE) < 0.9 * betting_upper(counts, 0.05, -1.0)


@pytest.mark.parametrize(("better", "worse"), [(0.0, 0.01), (0.02, 0.03), (0.01, 0.05)])
def test_few_bettors_bound_the_mean_in_all_but_delta_of_samples(better: float, worse: float) -> None:
    rng, wrong, runs = random.Random(5), 0, 400
    for _ in range(runs):
        counts = Counter(rng.choices((-1.0, 1.0, 0.0), (better, worse, 1 - better - worse), k=300))
        wrong += betting_upper(counts, 0.05, -1.0, BETS_ONCE) < worse - better
    assert binomial_lower(wrong, runs, 0.01) <= 0.05
