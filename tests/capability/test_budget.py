"""lambda, fitted on the past so that a budget is kept, and where it is stored."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.capability.budget import (
    FILE,
    Budget,
    Row,
    fit_lambda,
    fit_lambda_for_quality,
    read_lambdas,
    replay,
    write_lambdas,
)
from gateway.capability.choosing import Option
from gateway.capability.estimates import Estimate
from gateway.errors import ConfigError

RNG = random.Random(2)


def row() -> Row:
    ease = RNG.random()
    options = (Option("weak", ease * 0.8, 0.3, 0.001), Option("strong", 0.85, 0.1, 0.02 + RNG.random() * 0.02))
    is_right = RNG.random() < ease * 0.8
    return Row(options, {"weak": 0.9 if is_right else 0.0, "strong": 0.9}, {"weak": 0.001})


ROWS = [row() for _ in range(80)]


@pytest.mark.parametrize("budget", [0.005, 0.01, 0.02])
def test_a_request_costs_what_the_budget_allows(budget: float) -> None:
    lambda_ = fit_lambda(ROWS, budget)
    assert budget * 0.8 < replay(ROWS, lambda_).cost <= budget
    assert replay(ROWS, lambda_ * 0.8).cost > replay(ROWS, lambda_ * 1.25).cost


def test_more_money_buys_more_quality() -> None:
    found = [replay(ROWS, fit_lambda(ROWS, budget)).quality for budget in (0.003, 0.008, 0.015, 0.03)]
    assert found == sorted(found) and found[-1] - found[0] > 0.1


def test_a_target_is_reached_and_not_by_far() -> None:
    lambda_ = fit_lambda_for_quality(ROWS, 0.8)
    assert 0.8 <= replay(ROWS, lambda_).quality < 0.83
    assert replay(ROWS, lambda_ * 1.1).quality < replay(ROWS, lambda_ / 1.1).quality


def test_what_cannot_be_kept_comes_as_near_as_it_can() -> None:
    assert replay(ROWS, fit_lambda(ROWS, 1e-9)).cost == pytest.approx(0.001, rel=0.1)
    assert fit_lambda(ROWS, 100.0) == 1e-6
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_lambda([], 1.0)


def test_models_without_an_outcome_are_left_out() -> None:
    rows = [Row((Option("a", 0.5, 0.1, 1.0), Option("b", 0.9, 0.1, 1.0)), {"a": 0.5}, {})]
    assert replay(rows, 0.001) == replay([Row(rows[0].options[:1], {"a": 0.5}, {})], 0.001)


def test_each_budget_counts_its_own_unit() -> None:
    one, unpriced = Estimate(0.5, 0.1, 0, 1, 0.02, 3.0, 40.0), Estimate(0.5, 0.1, 0, 1, None, 1.0, 10.0)
    assert Budget("usd", None, 0.01).cost(one) == pytest.approx(0.05)
    assert Budget("seconds").cost(one) == 3.0 and Budget("joules").cost(one) == 40.0
    costs = {option.key: option.cost for option in Budget("usd").options({"a": one, "b": unpriced})}
    assert costs == {"a": pytest.approx(0.02), "b": pytest.approx(0.02)}  # as dear as the dearest
    (alone,) = Budget("usd").options({"b": unpriced})
    assert alone.cost > 0


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_lambdas(tmp_path) == {}
    write_lambdas(tmp_path, {"p/routes/0/answer": {"lambda": 12.3456789, "budget": 0.01, "cost": 0.0099}})
    assert read_lambdas(tmp_path) == {"p/routes/0/answer": 12.3457}


@pytest.mark.parametrize(
    "text", ["version: 2\nbudgets: {}", "[", "version: 1", "version: 1\nbudgets: {a: {lambda: -1}}", "x", ""]
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"budgets\.yaml"):
        read_lambdas(tmp_path)
