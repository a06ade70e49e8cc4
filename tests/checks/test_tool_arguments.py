"""Calls are of the request's tools, with arguments that fit them, and are there where they must be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat import ChatRequest
from gateway.checks.tool_arguments import ToolArguments
from gateway.draft import Draft
from tests.checks.drafts import asking, calls, can_fail_prefix, judged, passes, prefix, whole

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
NOW = {"name": "now"}
CHECK = ToolArguments()


def tools(*functions: dict[str, Any], **body: Any) -> ChatRequest:
    return asking("What is the weather?", tools=[{"type": "function", "function": f} for f in functions], **body)


ASKED = tools(WEATHER, NOW)
PARIS = ("get_weather", '{"city": "Paris"}')


def test_a_call_that_fits_passes() -> None:
    assert passes(CHECK, whole(calls(PARIS)), ASKED)
    assert passes(CHECK, whole(calls(PARIS, ("now", "{}"))), ASKED)
    assert passes(CHECK, whole(calls(("now", '{"any": ["thing"]}'))), ASKED)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("get_time", "{}", "a call of a tool that the request does not have"),
        ("", "{}", "a call of a tool that the request does not have"),
        ("get_weather", '{"city": "Par', "arguments of get_weather are not JSON: "),
        ("get_weather", "", "arguments of get_weather are not JSON: "),
        ("get_weather", "city=Paris", "arguments of get_weather are not JSON: "),
        ("get_weather", '"Paris"', "arguments of get_weather are not a JSON object"),
        ("get_weather", "null", "arguments of get_weather are not a JSON object"),
        ("get_weather", "{}", 'arguments of get_weather: does not match the schema: "city" is a required property'),
        ("get_weather", '{"city": 7}', "arguments of get_weather: does not match the schema: city: "),
        (
            "get_weather",
            '{"city": "Paris", "unit": "K"}',
            "arguments of get_weather: does not match the schema: unit: ",
        ),
        ("get_weather", '{"city": "Paris", "day": 1}', "arguments of get_weather: does not match the schema"),
        ("now", "[]", "arguments of now are not a JSON object"),
    ],
)
def test_a_call_that_does_not_fit_fails(name: str, arguments: str, reason: str) -> None:
    verdict = judged(CHECK, whole(calls(PARIS, (name, arguments))), ASKED)
    assert not verdict.passed and verdict.reason.startswith(reason)


def test_a_call_put_together_from_a_stream() -> None:
    draft = Draft()
    for function in ({"name": "get_weather", "arguments": ""}, {"arguments": '{"city"'}, {"arguments": ': "Paris"}'}):
        piece = {"index": 0, "id": "call_0", "type": "function", "function": function}
        draft.add({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]})
        assert passes(CHECK, draft, ASKED)
    draft.complete = True
    assert passes(CHECK, draft, ASKED)


def test_without_tools_there_are_no_calls() -> None:
    for request in (asking("?"), asking("?", tools=None), asking("?", tools=[])):
        assert passes(CHECK, whole("It is sunny."), request)
        assert not passes(CHECK, whole(calls(PARIS)), request)


def test_a_tool_need_not_be_called() -> None:
    for choice in (None, "auto", "none"):
        assert passes(CHECK, whole("It is sunny."), tools(WEATHER, tool_choice=choice))


def test_unless_one_is_required() -> None:
    request = tools(WEATHER, NOW, tool_choice="required")
    assert (judged(CHECK, whole("It is sunny."), request)).reason == "no tool call, though one is required"
    assert passes(CHECK, whole(calls(PARIS)), request)
    assert not passes(CHECK, whole(calls(("get_weather", "{}"))), request)


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "get_weather"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"function": {"name": "get_weather"}}]},
        },
    ],
)
def test_or_a_certain_one(choice: Any) -> None:
    request = tools(WEATHER, NOW, tool_choice=choice)
    assert (judged(CHECK, whole(calls(("now", "{}"))), request)).reason == "no call to get_weather"
    assert not passes(CHECK, whole("It is sunny."), request)
    assert passes(CHECK, whole(calls(("now", "{}"), PARIS)), request)


def test_tools_that_are_only_allowed_need_no_call() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "now"}}]}}
    assert passes(CHECK, whole("It is sunny."), tools(WEATHER, NOW, tool_choice=allowed))


def test_legacy_functions() -> None:
    request = asking("?", functions=[WEATHER], function_call={"name": "get_weather"})
    call = {"function_call": {"name": "get_weather", "arguments": '{"city": "Paris"}'}, "content": None}
    assert passes(CHECK, whole({"message": call}), request)
    assert not passes(CHECK, whole({"message": {**call, "function_call": {"name": "now"}}}), request)
    assert not passes(CHECK, whole("It is sunny."), request)
    assert passes(CHECK, whole("It is sunny."), asking("?", functions=[WEATHER], function_call="auto"))


def test_custom_tools_take_any_text() -> None:
    request = asking("?", tools=[{"type": "custom", "custom": {"name": "shell"}}])
    call = {"id": "call_0", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    assert passes(CHECK, whole({"message": {"content": None, "tool_calls": [call]}}), request)
    call = {**call, "custom": {"name": "python", "input": "1"}}
    assert not passes(CHECK, whole({"message": {"content": None, "tool_calls": [call]}}), request)


@pytest.mark.parametrize("parameters", [{"type": "objec"}, {"$ref": "http://127.0.0.1:9/x"}, {"$ref": "#/nowhere"}])
def test_parameters_that_are_no_schema_fail(parameters: Any) -> None:
    verdict = judged(CHECK, whole(calls(("f", "{}"))), tools({"name": "f", "parameters": parameters}))
    assert not verdict.passed and verdict.reason.startswith("f: schema is not valid JSON Schema: ")


def test_every_choice_is_judged() -> None:
    verdict = judged(CHECK, whole("It is sunny.", calls(("get_time", "{}"))), ASKED)
    assert (verdict.passed, verdict.reason) == (False, "choice 1: a call of a tool that the request does not have")


def test_a_prefix_is_not_judged() -> None:
    assert not can_fail_prefix(ToolArguments)
    assert passes(CHECK, prefix("Let me"), tools(WEATHER, tool_choice="required"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "function", "name", "tools"]), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.text(), st.text(), json_values)
def test_any_call_can_be_judged(name: str, arguments: str, value: Any) -> None:
    draft = whole(calls((name, arguments), ("get_weather", arguments)))
    judged(CHECK, draft, tools(WEATHER, tool_choice=value))
    judged(CHECK, draft, asking("?", tools=value, functions=value, function_call=value))
    judged(CHECK, draft, asking("?", tool_choice={"type": "allowed_tools", "allowed_tools": value}))
