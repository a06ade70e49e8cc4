"""An answer says something or calls a tool."""

import pytest

from gateway.checks.not_empty import NotEmpty
from tests.checks.drafts import calls, judged, passes, prefix, prefix_words, whole


@pytest.mark.parametrize("text", ["Yes.", "0", " . ", "春", "\n\nAn answer"])
def test_words_pass(text: str) -> None:
    assert passes(NotEmpty(), whole(text))


@pytest.mark.parametrize("text", ["", "   ", "\n\n\t", "\u3000", None])
def test_nothing_fails(text: str | None) -> None:
    verdict = judged(NotEmpty(), whole(text))
    assert (verdict.passed, verdict.reason) == (False, "empty")


def test_a_call_a_refusal_or_sound_is_an_answer() -> None:
    assert passes(NotEmpty(), whole(calls(("now", "{}"))))
    assert passes(NotEmpty(), whole({"message": {"content": None, "refusal": "No."}}))
    assert passes(NotEmpty(), whole({"message": {"content": None, "audio": {"id": "audio_1", "data": ""}}}))
    assert passes(NotEmpty(), whole({"message": {"content": None, "function_call": {"name": "now"}}}))


def test_reasoning_alone_is_no_answer() -> None:
    assert not passes(NotEmpty(), whole({"message": {"content": "", "reasoning_content": "Let me think."}}))


def test_every_choice_is_judged() -> None:
    verdict = judged(NotEmpty(), whole("Yes.", "  "))
    assert (verdict.passed, verdict.reason) == (False, "choice 1: empty")


def test_no_choices_fail() -> None:
    assert (judged(NotEmpty(), whole())).reason == "no choices"


def test_a_prefix_is_not_judged() -> None:
    assert prefix_words(NotEmpty) == 1
    assert passes(NotEmpty(), prefix(""))
