"""An answer must have come to its own end."""

from typing import Any

import pytest

from gateway.chat import Draft
from gateway.checks.finish_reason import FinishReason
from tests.checks.drafts import asking, judged, passes, prefix, whole


def ended(*reasons: str | None) -> Draft:
    return whole(*({"message": {"content": "Yes."}, "finish_reason": reason} for reason in reasons))


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call", "eos"])
async def test_an_end_passes(reason: str) -> None:
    assert await passes(FinishReason(), ended(reason))


@pytest.mark.parametrize("reason", ["content_filter", None])
async def test_a_filter_and_no_reason_fail(reason: str | None) -> None:
    verdict = await judged(FinishReason(), ended(reason))
    assert (verdict.passed, verdict.reason) == (False, reason or "no finish reason")


@pytest.mark.parametrize("limit", [{}, {"max_tokens": None}])
async def test_length_fails_where_the_client_set_no_limit(limit: dict[str, Any]) -> None:
    assert not await passes(FinishReason(), ended("length"), asking("?", **limit))


@pytest.mark.parametrize("limit", [{"max_tokens": 5}, {"max_completion_tokens": 5}])
async def test_length_passes_where_the_client_set_the_limit(limit: dict[str, Any]) -> None:
    assert await passes(FinishReason(), ended("length"), asking("?", **limit))


async def test_every_choice_is_judged() -> None:
    verdict = await judged(FinishReason(), ended("stop", "content_filter"))
    assert (verdict.passed, verdict.reason) == (False, "choice 1: content_filter")
    assert not await passes(FinishReason(), whole())


async def test_a_prefix_need_not_have_ended() -> None:
    assert not FinishReason.can_fail_prefix
    assert await passes(FinishReason(), prefix("The answer is"))
