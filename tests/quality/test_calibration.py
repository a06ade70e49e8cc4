"""Chances are put right without putting drafts in another order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quality.calibration import Isotonic, auroc, ece, fit_isotonic

SCORES = st.floats(-5, 5, allow_nan=False)


@given(st.lists(st.tuples(SCORES, st.sampled_from([0.0, 1.0])), min_size=1, max_size=80))
def test_the_map_rises_and_stays_a_chance(rows: list[tuple[float, float]]) -> None:
    found = fit_isotonic([score for score, _ in rows], [label for _, label in rows])
    mapped = [found(score) for score in sorted(score for score, _ in rows)]
    assert all(0 <= chance <= 1 for chance in mapped)
    assert all(later >= earlier - 1e-12 for earlier, later in zip(mapped, mapped[1:], strict=False))
    assert Isotonic.from_json(found.as_json()) == found


def test_it_finds_the_truth_whatever_its_shape() -> None:
    rng = random.Random(1)
    scores = [rng.random() for _ in range(3000)]
    labels = [float(rng.random() < score**3) for score in scores]
    assert ece(scores, labels) > 0.2
    found = fit_isotonic(scores, labels)
    fresh = [rng.random() for _ in range(3000)]
    assert ece([found(score) for score in fresh], [float(rng.random() < score**3) for score in fresh]) < 0.04


def test_weights_count_as_so_many() -> None:
    twice = fit_isotonic([0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 1.0, 0.5])
    weighted = fit_isotonic([0.0, 1.0, 2.0], [0.0, 1.0, 0.5], [1.0, 2.0, 1.0])
    assert weighted(1.5) == pytest.approx(twice(1.5))
    assert ece([0.2, 0.8], [0.0, 1.0], [3.0, 1.0]) == pytest.approx(0.2)


def test_steps_are_joined_by_lines() -> None:
    found = Isotonic((0.0, 1.0), (0.2, 0.6))
    assert [found(x) for x in (-1.0, 0.0, 0.5, 1.0, 9.0)] == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])


@pytest.mark.parametrize(
    "data", [{"x": [], "y": []}, {"x": [1, 0], "y": [0, 1]}, {"x": [0, 1], "y": [1, 0]}, {"x": [0], "y": [0, 1]}]
)
def test_what_is_no_such_map_is_refused(data: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError):
        Isotonic.from_json(data)
    with pytest.raises(ValueError):
        fit_isotonic([], [])


def test_calibration_error_and_ranking() -> None:
    assert ece([], []) == 0
    assert ece([0.9] * 10, [1.0] * 9 + [0.0]) == pytest.approx(0)
    assert ece([1.0] * 4, [0.0] * 4) == 1
    assert auroc([0.1, 0.4, 0.8], [0, 0, 1]) == 1 and auroc([0.5, 0.5], [0, 1]) == 0.5
    assert auroc([0.1], [1]) is None
