from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.evals import routing_metrics as metrics

WEAK = np.array([1.0, 0.0, 0.0, 1.0])
STRONG = np.array([1.0, 1.0, 0.0, 1.0])


def test_a_router_that_knows_nothing_recovers_half_of_the_gap() -> None:
    assert metrics.apgr(np.zeros(4), WEAK, STRONG) == pytest.approx(0.5)


def test_a_router_that_asks_where_it_helps_recovers_more() -> None:
    assert metrics.apgr(STRONG - WEAK, WEAK, STRONG) == pytest.approx(0.875)
    assert metrics.apgr(WEAK - STRONG, WEAK, STRONG) == pytest.approx(0.125)


def test_equal_models_leave_nothing_to_recover() -> None:
    assert math.isnan(metrics.apgr(np.arange(4.0), WEAK, WEAK))


def test_the_curve_ends_at_both_models() -> None:
    curve = metrics.curve(np.array([3.0, 1.0, 1.0, 0.0]), WEAK, STRONG)
    assert curve.tolist() == [0.5, 0.5, 0.625, 0.75, 0.75]


def test_calibration_error_is_how_far_what_is_said_is_from_what_was() -> None:
    right = np.array([1.0, 0.0, 1.0, 0.0])
    assert metrics.calibration_error(np.full(4, 0.5), right) == 0
    assert metrics.calibration_error(np.full(4, 0.9), right) == pytest.approx(0.4)


def test_the_hull_leaves_out_what_is_dear_and_worse() -> None:
    points = np.array([[1.0, 0.5], [2.0, 0.4], [3.0, 0.6], [4.0, 0.9]])
    assert metrics.hull(points).tolist() == [[1.0, 0.5], [4.0, 0.9]]


def test_a_router_that_knows_saves_most_of_the_dear_models_price() -> None:
    quality = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    cost = np.tile([0.0, 4.0], (4, 1))
    assert metrics.saved(metrics.routed(quality, quality, cost), quality, cost).usd == pytest.approx(0.76, abs=0.01)
    assert metrics.saved(metrics.singles(quality, cost), quality, cost).usd == pytest.approx(0.04, abs=0.01)


def test_what_is_never_reached_is_not_a_number() -> None:
    assert math.isnan(metrics.first_reach(np.array([0.0, 1.0]), np.array([0.0, 0.5]), 0.6))
    assert metrics.first_reach(np.array([0.0, 1.0]), np.array([0.0, 0.5]), 0.25) == pytest.approx(0.5)
