"""An answer is JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.checks.json import Json
from tests.checks.drafts import calls, judged, passes, prefix, whole


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null]}', "[]", "42", '"春"', "  true\n", '{\n "a": "```json"\n}'])
async def test_json_passes(text: str) -> None:
    assert await passes(Json(), whole(text))
    assert await passes(Json(fenced=True), whole(text))


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
async def test_what_is_not_json_fails(text: str | None) -> None:
    verdict = await judged(Json(), whole(text))
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
async def test_one_fence_around_it_passes_where_allowed(text: str) -> None:
    assert not await passes(Json(), whole(text))
    assert await passes(Json(fenced=True), whole(text))


@pytest.mark.parametrize(
    "text",
    ["```json\n{}", "Here:\n```json\n{}\n```", "```python\n{}\n```", "```json\n{}\n```\n```json\n{}\n```", "``````"],
)
async def test_other_fences_fail(text: str) -> None:
    assert not await passes(Json(fenced=True), whole(text))


async def test_every_choice_is_judged() -> None:
    assert (await judged(Json(), whole("{}", "no"))).reason.startswith("choice 1: not JSON")


async def test_calls_and_prefixes_are_not_judged() -> None:
    assert not Json.can_fail_prefix
    assert await passes(Json(), whole(calls(("now", "{}"))))
    assert await passes(Json(), prefix("Here"))


async def test_the_reason_does_not_hold_the_answer() -> None:
    assert "secret" not in (await judged(Json(), whole("my secret"))).reason


@given(st.text())
async def test_any_text_can_be_judged(text: str) -> None:
    await judged(Json(fenced=True), whole(text))
