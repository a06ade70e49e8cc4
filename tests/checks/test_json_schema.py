"""An answer matches the operator's schema, or the client's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.chat import ChatRequest
from gateway.checks.json_schema import JsonSchema
from tests.checks.drafts import asking, calls, can_fail_prefix, judged, passes, prefix, whole

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def asking_for(schema: Any) -> ChatRequest:
    spec = {"name": "answer", "strict": True, "schema": schema}
    return asking("Where is the Louvre?", response_format={"type": "json_schema", "json_schema": spec})


@pytest.mark.parametrize("text", ['{"city": "Paris"}', ' {"city": "Paris", "country": "France"}\n'])
def test_what_matches_passes(text: str) -> None:
    assert passes(JsonSchema(schema=CITY), whole(text))
    assert passes(JsonSchema(), whole(text), asking_for(CITY))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"city": 7}', 'does not match the schema: city: value is not of type "string"'),
        ("{}", 'does not match the schema: "city" is a required property'),
        ("[]", 'does not match the schema: value is not of type "object"'),
        ("Paris", "not JSON: "),
        ("", "not JSON: "),
        (None, "not JSON: "),
        ('```json\n{"city": "Paris"}\n```', "not JSON: "),
        ('{"city": "Par', "not JSON: "),
    ],
)
def test_what_does_not_match_fails(text: str | None, reason: str) -> None:
    for check, request in ((JsonSchema(schema=CITY), asking("?")), (JsonSchema(), asking_for(CITY))):
        verdict = judged(check, whole(text), request)
        assert not verdict.passed and verdict.reason.startswith(reason)


def test_the_operators_schema_goes_before_the_clients() -> None:
    assert not passes(JsonSchema(schema=CITY), whole("7"), asking_for({"type": "integer"}))
    assert passes(JsonSchema(schema=True), whole("7"), asking_for(CITY))


@pytest.mark.parametrize("asked", [None, {"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}])
def test_without_a_schema_everything_passes(asked: Any) -> None:
    assert passes(JsonSchema(), whole("Paris"), asking("?", response_format=asked))


@pytest.mark.parametrize(
    "schema", [{"type": "strin"}, {"$ref": "http://127.0.0.1:9/x"}, {"$ref": "file:///etc/passwd"}, {"pattern": "["}]
)
def test_a_schema_that_is_none_fails_the_answer_or_the_start(schema: dict[str, Any]) -> None:
    verdict = judged(JsonSchema(), whole("{}"), asking_for(schema))
    assert not verdict.passed and verdict.reason.startswith("schema is not valid JSON Schema: ")
    with pytest.raises(ValidationError, match="schema is not valid JSON Schema"):
        JsonSchema(schema=schema)


def test_every_choice_is_judged() -> None:
    verdict = judged(JsonSchema(schema=CITY), whole('{"city": "Paris"}', "{}"))
    assert not verdict.passed and verdict.reason.startswith("choice 1: does not match")
    assert not passes(JsonSchema(schema=CITY), whole())


def test_calls_and_prefixes_are_not_judged() -> None:
    assert not can_fail_prefix(JsonSchema)
    assert passes(JsonSchema(schema=CITY), whole(calls(("now", "{}"))))
    assert not passes(JsonSchema(schema=CITY), whole(calls(("now", "{}"), content="Let me see.")))
    assert passes(JsonSchema(schema=CITY), prefix("Paris"))


@given(st.text())
def test_any_text_can_be_judged(text: str) -> None:
    judged(JsonSchema(schema=CITY), whole(text))
