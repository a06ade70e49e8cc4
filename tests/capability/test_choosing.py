"""The rule that says whom to ask next."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from gateway.capability.choosing import Option, Rate, choose, expected_best

WEAK = Option("weak", 0.5, 0.4, 0.001)
STRONG = Option("strong", 0.9, 0.1, 0.2)


def test_the_expected_best_of_several_is_what_sampling_gives() -> None:
    rng = np.random.default_rng(11)
    for count in (1, 2, 3, 4):
        for _ in range(8):
            options = [Option(str(i), rng.uniform(0.02, 0.98), rng.uniform(0, 0.45), 0.0) for i in range(count)]
            drawn = rng.normal([o.p for o in options], [o.sigma for o in options], (100_000, count))
            assert expected_best(options) == pytest.approx(np.clip(drawn, 0, 1).max(axis=1).mean(), abs=5e-3)


def test_the_cheap_one_is_asked_first_where_its_answer_may_do() -> None:
    first = choose([STRONG, WEAK], {}, Rate(1.0))
    assert first.members == {"weak", "strong"} and first.next == "weak"


def test_a_sure_answer_ends_it_and_a_bad_one_goes_on() -> None:
    options = [WEAK, STRONG]
    assert choose(options, {"weak": 0.95}, Rate(1.0)).next is None
    assert choose(options, {"weak": 0.0}, Rate(1.0)).next == "strong"
    assert choose(options, {"weak": 0.0, "strong": 0.9}, Rate(1.0)).next is None


def test_what_quality_is_worth_decides() -> None:
    options = [WEAK, STRONG]
    assert choose(options, {}, Rate(100.0)).members == {"weak"}
    assert choose(options, {"weak": 0.3}, Rate(100.0)).next is None
    assert choose([Option("a", 0.9, 0.0, 0.0), Option("b", 0.2, 0.0, 0.1)], {}, Rate(1.0)).members == {"a"}


def test_a_hopeless_cheap_model_is_passed_over() -> None:
    assert choose([Option("weak", 0.05, 0.05, 0.02), STRONG], {}, Rate(1.0)).members == {"strong"}


def test_a_target_is_reached_for_as_little_as_possible() -> None:
    options = [Option("a", 0.5, 0.0, 1.0), Option("b", 0.8, 0.0, 3.0), Option("c", 0.95, 0.0, 10.0)]
    picks = {target: choose(options, {}, Rate(None, target)) for target in (0.4, 0.7, 0.9, 0.99)}
    assert [sorted(pick.members) for pick in picks.values()] == [["a"], ["b"], ["c"], ["c"]]
    assert picks[0.4].lambda_ > picks[0.7].lambda_ > picks[0.9].lambda_


def test_a_small_model_is_asked_first_where_it_often_suffices() -> None:
    small, large = Option("small", 0.6, 0.3, 0.002), Option("large", 0.85, 0.0, 0.01)
    assert choose([small, large], {}, Rate(None, 0.75)).next == "small"
    assert choose([Option("small", 0.2, 0.2, 0.002), large], {}, Rate(None, 0.75)).next == "large"


def test_who_is_not_judged_is_not_asked_beside_a_better_one() -> None:
    assert choose([Option("a", 0.6, 0.0, 0.0), Option("b", 0.8, 0.0, 0.001)], {}, Rate(1.0)).members == {"b"}


def test_a_target_that_an_answer_reaches_ends_it() -> None:
    options = [WEAK, STRONG]
    assert choose(options, {"weak": 0.85}, Rate(None, 0.8)).next is None
    assert choose(options, {"weak": 0.6}, Rate(None, 0.8)).next == "strong"


def brute(options: list[Option], answered: dict[str, float], lambda_: float) -> float:
    """The best set's value, by drawing what its members' answers are worth."""
    rng = np.random.default_rng(1)
    left = sorted((option for option in options if option.key not in answered), key=lambda option: option.cost)
    floor, values = max(answered.values(), default=0.0), []
    for count in range(0 if answered else 1, len(left) + 1):
        for members in itertools.combinations(left, count):
            best, cost = np.full(20_000, floor), 0.0
            for place, option in enumerate(members):
                needed = best < option.p - lambda_ * option.cost
                cost += option.cost * (needed.mean() if place else 1.0)
                found = np.clip(rng.normal(option.p, option.sigma, best.shape), 0, 1)
                best = np.maximum(best, found) if not place else np.where(needed, np.maximum(best, found), best)
            values.append(float(best.mean()) - lambda_ * cost)
    return max(values)


def test_no_set_is_worth_more_than_the_one_chosen() -> None:
    rng = random.Random(4)
    for _ in range(60):
        options = [Option(str(i), rng.random(), rng.random() * 0.4, rng.random() / 4) for i in range(rng.randint(1, 4))]
        answered = {option.key: rng.random() for option in options if rng.random() < 0.3}
        choice = choose(options, answered, Rate(1.0))
        assert choice.value == pytest.approx(brute(options, answered, 1.0), abs=0.02)
        assert choice.members >= set(answered)
        assert (choice.next is None) == (choice.members == set(answered))
