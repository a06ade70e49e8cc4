"""Schemas for Anthropic's API that are made to grow while they are translated."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from gateway.backends.dialects import Lost
from gateway.backends.messages_fields import MAX_SCHEMA_BYTES, fields_of
from gateway.backends.messages_schema import closed_schema
from gateway.closed.schemas import values_of
from gateway.errors import InvalidRequest


def doubling(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": ["object", "object"], "properties": {"a": schema}}
    return schema


def test_a_type_that_is_said_again_and_again_is_said_once() -> None:
    began = time.monotonic()
    closed = closed_schema(doubling(60))
    assert time.monotonic() - began < 1
    assert [one["type"] for one in closed["anyOf"]] == ["object"]
    assert len(orjson.dumps(closed)) < 10_000
    assert closed_schema({"type": [["a"], 1, "null", "string", None]})["anyOf"] == [
        {"type": "string"},
        {"type": "null"},
    ]


def test_a_schema_that_is_large_is_refused() -> None:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(MAX_SCHEMA_BYTES // 20)}}
    body = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
    with pytest.raises(InvalidRequest) as caught:
        fields_of(body, frozenset(), Lost())
    assert caught.value.param == "response_format.json_schema.schema"


def test_options_that_refer_to_a_thousand_others_are_not_counted_out() -> None:
    many = 1000
    definitions = {
        "a": {"anyOf": [{"$ref": "#/$defs/b"}] * many},
        "b": {"anyOf": [{"const": n} for n in range(many)]},
    }
    began = time.monotonic()
    assert values_of({"anyOf": [{"$ref": "#/$defs/a"}] * many, "$defs": definitions}) == []
    assert time.monotonic() - began < 1
    assert values_of({"anyOf": [{"const": 1}, {"$ref": "#/$defs/c"}], "$defs": {"c": {"enum": [2, 3]}}}) == [1, 2, 3]
