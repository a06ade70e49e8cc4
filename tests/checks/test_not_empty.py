"""An answer says something or calls a tool."""

import pytest

from gateway.checks.not_empty import NotEmpty
from tests.checks.drafts import calls, judged, passes, prefix, whole


@pytest.mark.parametrize("text", ["Yes.", "0", " . ", "春", "\n\nAn answer"])
async def test_words_pass(text: str) -> None:
    assert await passes(NotEmpty(), whole(text))


@pytest.mark.parametrize("text", ["", "   ", "\n\n\t", "\u3000", None])
async def test_nothing_fails(text: str | None) -> None:
    verdict = await judged(NotEmpty(), whole(text))
    assert (verdict.passed, verdict.reason) == (False, "empty")


async def test_a_call_a_refusal_or_sound_is_an_answer() -> None:
    assert await passes(NotEmpty(), whole(calls(("now", "{}"))))
    assert await passes(NotEmpty(), whole({"message": {"content": None, "refusal": "No."}}))
    assert await passes(NotEmpty(), whole({"message": {"content": None, "audio": {"id": "audio_1", "data": ""}}}))
    assert await passes(NotEmpty(), whole({"message": {"content": None, "function_call": {"name": "now"}}}))


async def test_reasoning_alone_is_no_answer() -> None:
    assert not await passes(NotEmpty(), whole({"message": {"content": "", "reasoning_content": "Let me think."}}))


async def test_every_choice_is_judged() -> None:
    verdict = await judged(NotEmpty(), whole("Yes.", "  "))
    assert (verdict.passed, verdict.reason) == (False, "choice 1: empty")


async def test_no_choices_fail() -> None:
    assert (await judged(NotEmpty(), whole())).reason == "no choices"


async def test_a_prefix_is_not_judged() -> None:
    assert NotEmpty.prefix_words == 1
    assert await passes(NotEmpty(), prefix(""))
