from __future__ import annotations

from math import nan

import numpy as np
import pytest

from gateway.learning import ridge, router_fit
from tests.capability import questions


def test_a_model_that_was_asked_a_part_is_fitted_on_that_part() -> None:
    made = questions.make(300)
    half = [score if number % 3 else nan for number, score in enumerate(made.outcomes["tiny"])]
    router = router_fit.fit(made.texts, {"tiny": half, "big": made.outcomes["big"]}, made.vectors, labels=made.labels)
    fresh = questions.make(40, seed=1)
    said = [router.predict(t, v).p_right["tiny"] for t, v in zip(fresh.texts, fresh.vectors, strict=True)]
    assert max(said[::2]) < 0.5 < min(said[1::2])


def test_without_labels_there_are_no_topics() -> None:
    made = questions.make(100)
    router = router_fit.fit(made.texts, made.outcomes, made.vectors)
    assert router.topics == ()
    assert router.predict(made.texts[0], made.vectors[0]).topic is None


def test_few_outcomes_add_to_a_prior() -> None:
    made = questions.make(400)
    prior = router_fit.fit(made.texts, made.outcomes, made.vectors, labels=made.labels)
    few = questions.make(20, seed=5)
    other = {"mine": [1 - score for score in few.outcomes["tiny"]], "large": [1.0] * 20}
    small = {"mine": few.outcomes["tiny"], "large": few.outcomes["big"]}
    fresh = questions.make(40, seed=6)

    def apart(outcomes: dict[str, list[float]]) -> float:
        router = router_fit.fit(few.texts, outcomes, few.vectors, small={"mine"}, large={"large"}, prior=prior)
        assert router.topics == prior.topics
        said = [router.predict(t, v).p_right["mine"] for t, v in zip(fresh.texts, fresh.vectors, strict=True)]
        return float(np.mean(said[1::2]) - np.mean(said[::2]))

    assert apart(small) > 0.5  # it agrees with the prior, which alone would not give way in 20 outcomes
    assert apart(other) < apart(small) - 0.2


def test_tiers_are_told_apart_by_their_outcomes() -> None:
    made = questions.make(100)
    router = router_fit.fit(made.texts, made.outcomes, labels=made.labels)
    assert router.base_rate == pytest.approx(1 - float(np.mean(made.outcomes["tiny"])), abs=1e-5)


@pytest.mark.parametrize("outcomes", [{}, {"a": [nan, nan]}, {"a": [1.0]}], ids=["none", "never asked", "too few"])
def test_nothing_to_fit_is_refused(outcomes: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="outcomes want"):
        router_fit.fit(["one", "two"], outcomes)


def test_a_missing_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="vector for each"):
        router_fit.fit(["one", "two"], {"a": [1.0, 0.0]}, [b""])


def test_one_prompt_is_enough_not_to_fail() -> None:
    router = router_fit.fit(["one prompt"], {"a": [1.0]}, questions.make(2).vectors[:1], labels=["x/y"])
    assert 0 <= router.predict("another").difficulty <= 1


def test_held_out_predictions_are_those_of_a_fit_without_the_row() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4)).astype(np.float32)
    y = (x @ rng.normal(size=(4, 2)) + rng.normal(scale=0.1, size=(30, 2))).astype(np.float32)
    fitted = ridge.fit(x, y, 1e-4)
    for row in (0, 7, 29):
        others = np.arange(30) != row
        weights = ridge.fit(x[others], y[others], 1e-4).weights
        assert fitted.held_out[row] == pytest.approx(x[row] @ weights[:-1] + weights[-1], abs=1e-3)
