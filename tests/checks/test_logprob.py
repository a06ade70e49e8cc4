"""The model must have been sure of its words."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.checks import CHECKS
from gateway.checks.logprob import Logprob
from tests.checks.drafts import calls, can_fail_prefix, judged, passes, prefix, whole


def sure(*logprobs: float | None) -> dict[str, Any]:
    tokens: list[dict[str, Any]] = [{"token": "x", "logprob": logprob, "top_logprobs": []} for logprob in logprobs]
    return {"message": {"content": "x" * len(tokens)}, "logprobs": {"content": tokens, "refusal": None}}


def test_the_mean_must_be_above_its_floor() -> None:
    check = Logprob(mean_above=-0.9)
    assert passes(check, whole(sure(-0.1, -1.5)))
    verdict = judged(check, whole(sure(-0.5, -1.5)))
    assert (verdict.passed, verdict.reason, verdict.score) == (False, "mean logprob -1.00, not above -0.9", -1.0)


def test_the_lowest_must_be_above_its_floor() -> None:
    check = Logprob(min_above=-2)
    assert passes(check, whole(sure(-0.1, -1.9)))
    assert (judged(check, whole(sure(-0.1, -2.5)))).reason == "lowest logprob -2.50, not above -2"


def test_both_must_hold() -> None:
    check = Logprob(mean_above=-1, min_above=-2)
    assert passes(check, whole(sure(-0.5, -0.5)))
    assert not passes(check, whole(sure(-0.0, -0.0, -0.0, -2.5)))
    assert not passes(check, whole(sure(-1.5, -1.5)))


def test_the_score_is_the_mean_of_the_least_sure_choice() -> None:
    assert (judged(Logprob(mean_above=-2), whole(sure(-0.5, -0.7)))).score == pytest.approx(-0.6)
    verdict = judged(Logprob(mean_above=-2), whole(sure(-0.1), sure(-3.0)))
    assert (verdict.passed, verdict.score) == (False, -3.0)
    assert verdict.reason.startswith("choice 1: ")


@pytest.mark.parametrize("logprobs", [None, {"content": None}, {"content": []}, {"content": [{"token": "x"}]}])
def test_no_logprobs_fail(logprobs: Any) -> None:
    verdict = judged(Logprob(mean_above=-1), whole({"message": {"content": "x"}, "logprobs": logprobs}))
    assert (verdict.passed, verdict.reason, verdict.score) == (False, "no logprobs from the model", None)


def test_what_is_not_a_number_is_left_out() -> None:
    assert (judged(Logprob(mean_above=-1), whole(sure(-0.5, None, float("-inf"))))).score == -0.5


def test_calls_have_none() -> None:
    verdict = judged(Logprob(mean_above=-1), whole(calls(("now", "{}"))))
    assert (verdict.passed, verdict.score) == (True, None)


def test_logprobs_are_asked_for_and_a_prefix_is_not_judged() -> None:
    assert CHECKS["logprob"].asks == {"logprobs": True}
    assert not can_fail_prefix(Logprob)
    assert passes(Logprob(mean_above=-1), prefix("x"))


@pytest.mark.parametrize(
    "floors", [{}, {"mean_above": 0.5}, {"mean_above": 0.0}, {"min_above": float("nan")}, {"mean_above": "high"}]
)
def test_floors_must_be_logarithms_of_probabilities(floors: Any) -> None:
    with pytest.raises(ValidationError):
        Logprob(**floors)
