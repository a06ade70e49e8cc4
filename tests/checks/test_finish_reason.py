"""An answer must have come to its own end."""

from typing import Any

import pytest

from gateway.checks.finish_reason import FinishReason
from gateway.draft import Draft
from tests.checks.drafts import asking, can_fail_prefix, judged, passes, prefix, whole


def ended(*reasons: str | None) -> Draft:
    return whole(*({"message": {"content": "Yes."}, "finish_reason": reason} for reason in reasons))


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call", "eos"])
def test_an_end_passes(reason: str) -> None:
    assert passes(FinishReason(), ended(reason))


@pytest.mark.parametrize("reason", ["content_filter", None])
def test_a_filter_and_no_reason_fail(reason: str | None) -> None:
    verdict = judged(FinishReason(), ended(reason))
    assert (verdict.passed, verdict.reason) == (False, reason or "no finish reason")


@pytest.mark.parametrize("limit", [{}, {"max_tokens": None}])
def test_length_fails_where_the_client_set_no_limit(limit: dict[str, Any]) -> None:
    assert not passes(FinishReason(), ended("length"), asking("?", **limit))


@pytest.mark.parametrize("limit", [{"max_tokens": 5}, {"max_completion_tokens": 5}])
def test_length_passes_where_the_client_set_the_limit(limit: dict[str, Any]) -> None:
    assert passes(FinishReason(), ended("length"), asking("?", **limit))


def test_every_choice_is_judged() -> None:
    verdict = judged(FinishReason(), ended("stop", "content_filter"))
    assert (verdict.passed, verdict.reason) == (False, "choice 1: content_filter")
    assert not passes(FinishReason(), whole())


def test_a_prefix_need_not_have_ended() -> None:
    assert not can_fail_prefix(FinishReason)
    assert passes(FinishReason(), prefix("The answer is"))
