"""An answer is JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.checks.json import Json
from tests.checks.drafts import calls, can_fail_prefix, judged, passes, prefix, whole


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null]}', "[]", "42", '"春"', "  true\n", '{\n "a": "```json"\n}'])
def test_json_passes(text: str) -> None:
    assert passes(Json(), whole(text))
    assert passes(Json(fenced=True), whole(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        "{",
        "{'a': 1}",
        '{"a": 1,}',
        "NaN",
        "Here it is: {}",
        '{"a": 1} Done.',
        "[" * 100_000,
        '"\ud800"',
        "1e999",
    ],
)
def test_what_is_not_json_fails(text: str | None) -> None:
    verdict = judged(Json(), whole(text))
    assert not verdict.passed and verdict.reason.startswith("not JSON: ")


@pytest.mark.parametrize(
    "text",
    [
        "```json\n{}\n```",
        "```\n[1]\n```",
        "\n```JSON \n{}\n```\n\n",
        "```json\r\n{}\r\n```",
        '```json\n{"a": "```"}\n```',
    ],
)
def test_one_fence_around_it_passes_where_allowed(text: str) -> None:
    assert not passes(Json(), whole(text))
    assert passes(Json(fenced=True), whole(text))


@pytest.mark.parametrize(
    "text",
    ["```json\n{}", "Here:\n```json\n{}\n```", "```python\n{}\n```", "```json\n{}\n```\n```json\n{}\n```", "``````"],
)
def test_other_fences_fail(text: str) -> None:
    assert not passes(Json(fenced=True), whole(text))


def test_every_choice_is_judged() -> None:
    assert (judged(Json(), whole("{}", "no"))).reason.startswith("choice 1: not JSON")


def test_calls_and_prefixes_are_not_judged() -> None:
    assert not can_fail_prefix(Json)
    assert passes(Json(), whole(calls(("now", "{}"))))
    assert passes(Json(), prefix("Here"))


def test_the_reason_does_not_hold_the_answer() -> None:
    assert "secret" not in (judged(Json(), whole("my secret"))).reason


@given(st.text())
def test_any_text_can_be_judged(text: str) -> None:
    judged(Json(fenced=True), whole(text))
