"""Paired differences with their intervals."""

import random

import pytest

from gateway.learning.paired import difference, mean_of


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(5)
    held = 0
    for trial in range(200):
        found = mean_of([float(rng.random() < 0.3) for _ in range(80)], seed=trial)
        held += found.low <= 0.3 <= found.high
    assert 180 <= held <= 199


def test_a_paired_difference_is_sharper_than_two_means() -> None:
    rng = random.Random(1)
    theirs = [rng.random() for _ in range(300)]
    ours = [value + 0.01 + 0.001 * rng.random() for value in theirs]
    found = difference(ours, theirs)
    assert found.is_above_zero and found.high - found.low < 0.001
    assert mean_of(ours).high - mean_of(ours).low > 0.03


def test_what_is_always_the_same_has_no_width() -> None:
    assert mean_of([0.5] * 10) == mean_of([0.5])
    assert mean_of([0.5]).low == mean_of([0.5]).high == 0.5


def test_of_nothing_there_is_no_mean() -> None:
    with pytest.raises(ValueError, match="mean of nothing"):
        mean_of([])
    with pytest.raises(ValueError):
        difference([1.0], [1.0, 2.0])
