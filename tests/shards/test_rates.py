"""The arithmetic of rates, against values of scipy 1.17 and of the published tables."""

from __future__ import annotations

import math
from itertools import product
from random import Random

import pytest

from gateway.shards.proving.rates import (
    cdf,
    chance_above,
    chance_of_lift,
    exact_p_value,
    lot_lower_bound,
    lot_tail,
    paired_interval,
    quantile,
    upper_bound,
)


@pytest.mark.parametrize(
    ("x", "a", "b", "expected"),
    [
        (0.3, 1.5, 2.5, 0.41568785229802524),
        (0.1, 5.0, 2.0, 5.5e-05),
        (0.95, 40.0, 3.0, 0.6489863906537717),
        (0.34, 700.0, 1300.0, 0.1743634846354671),
        (0.0, 2.0, 2.0, 0.0),
        (1.0, 2.0, 2.0, 1.0),
    ],
)
def test_the_beta_distribution_is_that_of_scipy(x: float, a: float, b: float, expected: float) -> None:
    assert cdf(x, a, b) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("share", "a", "b", "expected"),
    [
        (0.1, 1.5, 2.5, 0.10153732554750933),
        (0.1, 7.0, 1.0, 0.719685673001152),
        (0.1, 17.0, 5.0, 0.6547764776892344),
        (0.1, 700.0, 1300.0, 0.3363654276648561),
    ],
)
def test_its_quantiles_are_those_of_scipy(share: float, a: float, b: float, expected: float) -> None:
    assert quantile(share, a, b) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("hits", "of", "expected"),
    [
        (0, 8, 0.3123439780663678),
        (1, 10, 0.394163302436974),
        (3, 160, 0.047744666996476844),
        (0, 59, 0.04950760988832),
    ],
)
def test_upper_bounds_are_exact(hits: int, of: int, expected: float) -> None:
    assert upper_bound(hits, of) == pytest.approx(expected, abs=1e-8)


def test_a_rate_that_nobody_tried_may_be_anything() -> None:
    assert upper_bound(0, 0) == upper_bound(4, 4) == 1.0


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((3.890467120684754, 1.3008399992114166), (44.66359312445816, 60.432858173460176), 0.9409022341879463),
        ((1.1714586501603237, 1.002254049427153), (4.7660500238177566, 3.8622790133784988), 0.4959316356760148),
        ((1475.933781286042, 5.149473658140077), (2.194590547075604, 1.070833496373339), 0.9946583139473544),
    ],
)
def test_the_chance_that_one_rate_is_above_another(
    first: tuple[float, float], second: tuple[float, float], expected: float
) -> None:
    assert chance_above(first, second) == pytest.approx(expected, abs=0.002)
    assert chance_above(second, first) == pytest.approx(1.0 - expected, abs=0.002)


@pytest.mark.parametrize(
    ("gained", "lost", "cases", "expected"),
    [
        (7, 1, 21, (0.026003, 0.517232)),  # Fagerland, Lydersen and Laake 2013 give (0.026, 0.517)
        (40, 20, 160, (0.030865, 0.218064)),
        (5, 0, 6, (0.117720, 0.969947)),
        (3, 1, 12, (-0.188739, 0.485035)),
        (0, 2, 10, (-0.509838, 0.133039)),
        (0, 0, 8, (-0.324408, 0.324408)),
        (6, 0, 6, (0.219331, 1.0)),
        (0, 0, 0, (-1.0, 1.0)),
    ],
)
def test_the_interval_of_a_lift_is_tangos(gained: int, lost: int, cases: int, expected: tuple[float, float]) -> None:
    assert paired_interval(gained, lost, cases) == pytest.approx(expected, abs=2e-6)
    assert paired_interval(lost, gained, cases) == pytest.approx((-expected[1], -expected[0]), abs=2e-6)


def test_the_interval_of_a_lift_covers_it_even_with_twelve_cases() -> None:
    cases = 12
    for gain, loss in product((0.1, 0.3, 0.6), (0.02, 0.1, 0.25)):
        covered = 0.0
        for gained in range(cases + 1):
            for lost in range(cases + 1 - gained):
                low, high = paired_interval(gained, lost, cases)
                same = cases - gained - lost
                ways = math.comb(cases, gained) * math.comb(cases - gained, lost)
                chance = ways * gain**gained * loss**lost * (1.0 - gain - loss) ** same
                covered += chance * (low <= gain - loss <= high)
        assert covered > 0.92, (gain, loss, covered)


def test_mcnemars_test_is_the_sign_test_of_what_changed() -> None:
    pairs = ((5, 0), (7, 1), (3, 3), (0, 0))
    assert [exact_p_value(*pair) for pair in pairs] == pytest.approx([0.0625, 0.0703125, 1.0, 1.0])


def test_the_chance_of_a_lift_is_that_of_a_beta_above_a_half() -> None:
    for gained, lost in ((0, 0), (2, 0), (4, 0), (3, 1), (17, 9)):
        assert chance_of_lift(gained, lost) == pytest.approx(1.0 - cdf(0.5, 1.0 + gained, 1.0 + lost))


def test_bounds_of_a_lot_are_exact() -> None:
    assert lot_tail(17, 23, 500, 1000) == pytest.approx(0.016330341286023103)
    assert [lot_lower_bound(hits, 23, 1000) for hits in (17, 18, 23)] == [551, 599, 880]
    assert lot_lower_bound(3, 5, 5) == 3  # all were looked at


def test_the_bound_of_a_lot_is_too_high_in_no_more_than_one_of_twenty() -> None:
    random, lot, hits = Random(5), 60, 30
    members = [n < hits for n in range(lot)]
    wrong = sum(lot_lower_bound(sum(random.sample(members, 15)), 15, lot) > hits for _ in range(1000))
    assert wrong <= 60
