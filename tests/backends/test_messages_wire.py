"""Upstreams that speak Anthropic's Messages API: what they are sent, and what comes back of what they say."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.messages import MessagesWire
from gateway.backends.openai import OpenAIBackend
from gateway.backends.wire import CHAT, Wire
from gateway.chat import ChatRequest
from gateway.errors import ModalityRefused
from tests.backends.wires import asked
from tests.conftest import build_from
from tests.upstream import SINGLE
from tests.vendors import Json

WIRE = MessagesWire()
ENTRY = "speaks: messages, model: claude-sonnet-4-5"
OLD, NEW = "claude-sonnet-4-5", "claude-opus-5"
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
PNG, PDF = base64.b64encode(b"\x89PNG").decode(), base64.b64encode(b"%PDF").decode()


def sent(model: str = OLD, **chat: Any) -> Json:
    return asked(WIRE, model, **chat)[0]


def said(text: str, role: str = "user") -> Json:
    return {"role": role, "content": text}


def block(text: str) -> Json:
    return {"type": "text", "text": text}


def leaf(folder: Path, keys: str) -> OpenAIBackend:
    gateway, _ = build_from(folder, f"models: {{m1: {{engine: openai, {keys}}}}}", default=SINGLE)
    responder = gateway.models["m1"].responder
    assert isinstance(responder, OpenAIBackend)
    return responder


@pytest.mark.parametrize(
    ("keys", "wire"),
    [
        ("base_url: 'https://api.anthropic.com/v1', model: claude-opus-5", MessagesWire(32_000)),
        ("base_url: 'https://api.anthropic.com/v1', model: never-heard-of", MessagesWire(4096)),
        ("base_url: 'https://api.anthropic.com/v1', model: claude-opus-5, speaks: chat", CHAT),
        ("base_url: 'https://llm.example.com/v1', model: claude-opus-5, speaks: messages", MessagesWire(4096)),
        ("base_url: 'https://llm.example.com/v1', model: claude-opus-5", CHAT),
    ],
)
def test_who_is_asked_so(tmp_path: Path, keys: str, wire: Wire) -> None:
    responder = leaf(tmp_path, keys)
    assert responder.wire == wire
    assert ("audio" in responder.accepts) is (wire is CHAT)


def test_what_the_list_of_models_knows_of_one_counts(tmp_path: Path) -> None:
    responder = leaf(tmp_path, "base_url: 'https://api.anthropic.com/v1', model: claude-opus-5, accepts: [text]")
    assert responder.price is not None and responder.context and responder.accepts == {"text"}


# -- a chat, asked -------------------------------------------------------------------------------------------------


def test_a_conversation_with_tools() -> None:
    messages = [
        said("be brief", "system"),
        said("hello"),
        said("and more", "developer"),
        said("the weather?"),
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, {**CALL, "id": "functions.weather:1"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "functions.weather:1", "content": [block("rain")]},
        said("so?"),
    ]
    body = sent(messages=messages, tools=[TOOL])
    use = {"type": "tool_use", "name": "weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"}
    assert body["system"] == [block("be brief"), block("and more")]
    assert body["messages"] == [
        {"role": "user", "content": [block("hello"), block("the weather?")]},
        {
            "role": "assistant",
            "content": [block("I look."), {**use, "id": "call_1"}, {**use, "id": "functions_weather_1"}],
        },
        {
            "role": "user",
            "content": [
                result,
                {**result, "tool_use_id": "functions_weather_1", "content": [block("rain")]},
                block("so?"),
            ],
        },
    ]
    assert body["tools"] == [
        {"name": "weather", "description": "of a city", "input_schema": {"type": "object", "properties": {}}}
    ]
    assert "stream" not in body


@pytest.mark.parametrize(
    ("arguments", "there"),
    [("", {}), ('{"a": 1}', {"a": 1}), ("{oops", {"arguments": "{oops"}), ("[1]", {"arguments": [1]})],
)
def test_arguments_become_an_object(arguments: str, there: Json) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [said("x"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert sent(messages=messages)["messages"][1]["content"][0]["input"] == there


def test_texts_that_are_empty_are_not_sent_and_a_user_speaks_first() -> None:
    assert sent(messages=[said("a", "assistant"), said("b")])["messages"][0] == {
        "role": "user",
        "content": [block(".")],
    }
    assert sent(messages=[said("  ")])["messages"] == [{"role": "user", "content": [block(".")]}]
    body = sent(messages=[said("be brief", "system")])
    assert "system" not in body and body["messages"] == [{"role": "user", "content": [block("be brief")]}]
    messages = [said("a"), {"role": "assistant", "content": None}, {"role": "user", "content": [block(""), block("b")]}]
    assert sent(messages=messages)["messages"] == [{"role": "user", "content": [block("a"), block("b")]}]
    tool = {"role": "tool", "tool_call_id": "c", "content": ""}
    assert "content" not in sent(messages=[tool])["messages"][0]["content"][0]


def test_an_answer_that_is_begun_ends_in_a_word() -> None:
    assert sent(messages=[said("a"), said("It is ", "assistant")])["messages"][1]["content"] == [block("It is")]


def test_images_and_files() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpg;charset=x;base64,{PNG}"}},
        {"type": "image_url", "image_url": "https://example.com/a.png", "cache_control": {"type": "ephemeral"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        {"type": "file", "file": {"file_data": PDF}},
        {"type": "file", "file": {"file_data": f"data:text/plain;base64,{base64.b64encode('é'.encode()).decode()}"}},
        {"type": "file", "file": {"file_url": "https://example.com/a.pdf"}},
        {"type": "file", "file": {"file_id": "file_1"}},
    ]
    blocks = sent(messages=[{"role": "user", "content": content}])["messages"][0]["content"]
    sources = [block["source"] for block in blocks]
    pdf = {"type": "base64", "media_type": "application/pdf", "data": PDF}
    assert sources == [
        {"type": "base64", "media_type": "image/png", "data": PNG},
        {"type": "base64", "media_type": "image/jpeg", "data": PNG},
        {"type": "url", "url": "https://example.com/a.png"},
        pdf,
        pdf,
        {"type": "text", "media_type": "text/plain", "data": "é"},
        {"type": "url", "url": "https://example.com/a.pdf"},
        {"type": "file", "file_id": "file_1"},
    ]
    assert blocks[2]["cache_control"] == {"type": "ephemeral"} and blocks[3]["title"] == "a.pdf"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
        {"type": "image_url", "image_url": {"url": "data:image/svg+xml,<svg/>"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": 1},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,UEs="}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}},
        {"type": "file", "file": None},
    ],
)
def test_other_content_is_refused(part: Json) -> None:
    with pytest.raises(ModalityRefused):
        sent(messages=[{"role": "user", "content": [part]}])


def test_how_long_and_until_where() -> None:
    assert (
        sent()["max_tokens"] == 4096
        and MessagesWire(32_000).ask({"model": OLD}, ChatRequest({}))[0]["max_tokens"] == 32_000
    )
    assert sent(max_tokens=5)["max_tokens"] == 5 and sent(max_tokens=5, max_completion_tokens=7)["max_tokens"] == 7
    assert sent(stop="END")["stop_sequences"] == ["END"]
    body, lost = asked(WIRE, OLD, stop=["\n\n", "END"])
    assert body["stop_sequences"] == ["END"] and lost == ("stop",), "white space alone is refused there"


def test_what_a_message_has_no_place_for_is_named() -> None:
    body, lost = asked(
        WIRE,
        OLD,
        n=2,
        seed=7,
        logprobs=True,
        top_logprobs=2,
        logit_bias={"5": 1},
        presence_penalty=1,
        frequency_penalty=1,
        prediction={"type": "content", "content": "x"},
        store=True,
        min_p=0.1,
        metadata={"job": "a"},
        functions=[{"name": "f"}],
        response_format={"type": "json_object"},
        verbosity="low",
        service_tier="flex",
    )
    assert set(body) == {"model", "messages", "max_tokens"}
    assert set(lost) == {
        *("n", "seed", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty"),
        *("prediction", "store", "min_p", "metadata", "functions", "response_format", "verbosity", "service_tier"),
    }


def test_what_changes_nothing_is_not_named() -> None:
    nothing: Json = {"n": 1, "logprobs": False, "seed": None, "store": False, "presence_penalty": 0, "logit_bias": {}}
    body, lost = asked(
        WIRE,
        OLD,
        **nothing,
        modalities=["text"],
        response_format={"type": "text"},
        parallel_tool_calls=True,
        stream_options={"include_usage": True},
        stream=True,
    )
    assert lost == () and set(body) == {"model", "messages", "max_tokens", "stream"}


def test_its_own_fields_pass() -> None:
    own: Json = {
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "top_k": 40,
        "cache_control": {"type": "ephemeral"},
        "context_management": {"edits": []},
    }
    body, lost = asked(WIRE, OLD, **own)
    assert body["thinking"] == own["thinking"] and body["context_management"] == {"edits": []}
    assert "top_k" not in body and lost == ("top_k",), "nobody may say how a thinking model is to sample"
    assert asked(WIRE, OLD, top_k=40)[0]["top_k"] == 40


def test_sampling_and_user() -> None:
    body, lost = asked(WIRE, OLD, temperature=1.7, top_p=0.5, user="u1", service_tier="auto")
    assert (body["temperature"], body["metadata"], body["service_tier"]) == (1, {"user_id": "u1"}, "auto")
    assert "top_p" not in body and lost == ("top_p",), "of the two it takes one"
    assert sent(top_p=0.5)["top_p"] == 0.5
    assert asked(WIRE, OLD, metadata={"user_id": "u2"})[0]["metadata"] == {"user_id": "u2"}


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, {"type": "tool", "name": "weather"}),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_the_choice_of_a_tool(fields: Json, choice: Json | None) -> None:
    assert sent(tools=[TOOL], **fields).get("tool_choice") == choice


def test_tools_of_other_kinds() -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": None, "strict": True}}
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    custom = {"type": "custom", "custom": {"name": "patch"}}
    body, lost = asked(WIRE, OLD, tools=[{**TOOL, "cache_control": {"type": "ephemeral"}}, other, search, custom])
    assert [tool["name"] for tool in body["tools"]] == ["weather", "other", "web_search"]
    assert body["tools"][0]["cache_control"] == {"type": "ephemeral"} and body["tools"][2] == search
    assert body["tools"][1] == {"name": "other", "input_schema": {"type": "object", "properties": {}}}
    assert lost == ("tools[].strict", "tools[].custom")
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}}
    body = sent(tools=[TOOL, other], tool_choice=allowed)
    assert [tool["name"] for tool in body["tools"]] == ["weather"] and body["tool_choice"] == {"type": "any"}


def test_a_schema_is_said_in_the_words_that_it_knows() -> None:
    schema = {
        "$schema": "x",
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 2, "description": "where"},
            "when": {"type": ["string", "null"], "title": "W"},
            "list": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 3},
            "kind": {"enum": ["a", "b"]},
        },
        "required": ["city"],
        "$defs": {"a": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}},
    }
    body = sent(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    form = body["output_config"]["format"]
    assert form["type"] == "json_schema" and form["schema"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where\n\n{minLength: 2}"},
            "when": {"title": "W", "anyOf": [{"type": "string"}, {"type": "null"}]},
            "list": {"type": "array", "items": {"$ref": "#/$defs/a"}, "description": "{minItems: 3}"},
            "kind": {"enum": ["a", "b"]},
        },
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {
            "a": {
                "type": "object",
                "properties": {"n": {"type": "integer", "description": "{minimum: 1}"}},
                "additionalProperties": False,
            }
        },
    }


def test_other_shapes_of_a_schema() -> None:
    schema: Json = {
        "type": "object",
        "properties": {"a": {"oneOf": [{"type": "string"}, True]}, "b": {"type": "array", "items": {}, "minItems": 1}},
        "additionalProperties": {"type": "string"},
    }
    body = sent(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert body["output_config"]["format"]["schema"] == {
        "type": "object",
        "properties": {"a": {"anyOf": [{"type": "string"}, {}]}, "b": {"type": "array", "items": {}, "minItems": 1}},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("model", "fields", "thinking", "effort", "lost"),
    [
        (NEW, {"reasoning_effort": "minimal"}, {"type": "adaptive"}, "low", ()),
        (NEW, {"reasoning_effort": "xhigh"}, {"type": "adaptive"}, "xhigh", ()),
        ("claude-opus-4-6", {"reasoning_effort": "xhigh"}, {"type": "adaptive"}, "high", ()),
        (NEW, {"reasoning_effort": "none"}, {"type": "disabled"}, None, ()),
        (NEW, {"reasoning_effort": "high", "tools": [TOOL], "tool_choice": "required"}, None, "high", ()),
        (NEW, {"reasoning_effort": "odd"}, None, None, ("reasoning_effort",)),
        (OLD, {"reasoning_effort": "high", "max_tokens": 9000}, {"type": "enabled", "budget_tokens": 4500}, None, ()),
        (OLD, {"reasoning_effort": "low"}, {"type": "enabled", "budget_tokens": 1024}, None, ()),
        (OLD, {"reasoning_effort": "low", "max_tokens": 100}, None, None, ("reasoning_effort",)),
        (
            OLD,
            {"reasoning_effort": "low", "tools": [TOOL], "tool_choice": "required"},
            None,
            None,
            ("reasoning_effort",),
        ),
        ("claude-opus-4-20250514", {"reasoning_effort": "low"}, {"type": "enabled", "budget_tokens": 1024}, None, ()),
    ],
)
def test_how_much_is_to_be_thought(
    model: str, fields: Json, thinking: Json | None, effort: str | None, lost: tuple[str, ...]
) -> None:
    body, left_out = asked(WIRE, model, **fields)
    assert (body.get("thinking"), (body.get("output_config") or {}).get("effort"), left_out) == (thinking, effort, lost)


def test_in_the_midst_of_calls_without_a_thought_none_is_begun() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
    body, lost = asked(WIRE, OLD, messages=[said("a"), calls, result], reasoning_effort="low")
    assert "thinking" not in body and lost == ("reasoning_effort",)
    thought = {**calls, "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}
    assert "thinking" in sent(messages=[said("a"), thought, result], reasoning_effort="low")


def test_thoughts_go_back_to_whom_they_came_from() -> None:
    signed, hidden = (
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    )
    unsigned = {"type": "thinking", "thinking": "of a local model", "signature": ""}
    message = {
        "role": "assistant",
        "content": "yes",
        "reasoning_content": "hm",
        "thinking_blocks": [signed, unsigned, hidden],
        "reasoning_items": [{"type": "reasoning", "encrypted_content": "x"}],
    }
    body, lost = asked(WIRE, OLD, messages=[said("a"), message, said("b")])
    assert body["messages"][1]["content"] == [signed, hidden, block("yes")] and lost == ()
    plain = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    assert sent(messages=[said("a"), plain, said("b")])["messages"][1]["content"] == [block("yes")]


def test_what_the_entry_sets_is_sent_as_it_stands_there() -> None:
    defaults = {"new_field": {"a": 1}, "max_tokens": 99, "seed": 1, "reasoning_effort": "low"}
    body, lost = asked(WIRE, NEW, defaults=defaults)
    assert (body["new_field"], body["max_tokens"]) == ({"a": 1}, 99)
    assert body["output_config"] == {"effort": "low"} and "seed" not in body and lost == ("seed",)
