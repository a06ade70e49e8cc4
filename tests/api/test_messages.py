"""Anthropic's Messages API, read: what comes to a chat, what is left out and named, what is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.errors import InvalidRequest
from tests.api.test_messages_input import CALL, HI, lost, read, result
from tests.asgi import Client
from tests.conftest import Serve
from tests.messages_shaped import TOOL, body, claude_code
from tests.upstream import SINGLE, pointing_at, upstream
from tests.vendors import Anthropic, Say, vendor

# -- fields ----------------------------------------------------------------------------------------------------------


def test_fields_that_a_chat_has_too() -> None:
    request = read(stop_sequences=["END"], temperature=0.5, top_p=0.9, top_k=5, stream=True, metadata={"user_id": "u1"})
    rest = {name: value for name, value in request.body.items() if name != "messages"}
    assert rest == {
        "model": "auto",
        "max_tokens": 100,
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stream": True,
        "user": "u1",
    }
    assert lost(request) == set() and request.stream


def test_a_long_user_is_told_by_its_hash() -> None:
    users = {read(metadata={"user_id": "u" * length}).body["user"] for length in (64, 65, 66)}
    assert len(users) == 3 and {len(user) for user in users} == {64}
    assert read(metadata={"user_id": "u" * 65}).body["user"] in users, "the same each time"


def test_fields_that_a_chat_has_no_place_for_are_named() -> None:
    fields = {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {},
        "mcp_servers": [],
        "container": "c",
        "service_tier": "auto",
        "betas": ["x"],
        "cache_control": {"type": "ephemeral"},
        "something_new": 1,
    }
    request = read(**fields, metadata={"user_id": None, "team": "a"}, inference_geo=None)
    assert lost(request) == {*fields, "metadata.team"}
    assert set(request.body) == {"model", "max_tokens", "messages"}


@pytest.mark.parametrize(
    ("effort", "sent"), [("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "high"), ("max", "high")]
)
def test_effort(effort: str, sent: str) -> None:
    assert read(output_config={"effort": effort}).body["reasoning_effort"] == sent


def test_an_effort_that_nobody_knows_is_named() -> None:
    request = read(output_config={"effort": "heroic", "other": 1})
    assert "reasoning_effort" not in request.body
    assert lost(request) == {"output_config.effort", "output_config.other"}


@pytest.mark.parametrize("where", ["output_config", "output_format"])
@pytest.mark.parametrize("is_strict", [True, False])
def test_a_schema_for_the_answer(where: str, is_strict: bool) -> None:
    inner = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    schema = {**inner, "properties": {"a": {"type": "array", "items": inner if is_strict else {"type": "object"}}}}
    form = {"type": "json_schema", "schema": schema}
    request = read(**{where: form if where == "output_format" else {"format": form}})
    wanted = {"name": "output", "schema": schema, **({"strict": True} if is_strict else {})}
    assert request.body["response_format"] == {"type": "json_schema", "json_schema": wanted}
    assert request.json_schema == schema and lost(request) == set()


def test_tools() -> None:
    dressed = {
        **TOOL,
        "type": "custom",
        "strict": True,
        "cache_control": {},
        "defer_loading": True,
        "input_examples": [{}],
    }
    request = read(tools=[TOOL, dressed, {"type": "web_search_20250305", "name": "web_search"}])
    function = {"name": "weather", "description": "Of a city.", "parameters": TOOL["input_schema"]}
    assert request.body["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": {**function, "strict": True}},
    ]
    assert lost(request) == {
        "cache_control", "tools[].defer_loading", "tools[].input_examples", "tools[].web_search_20250305",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "weather"}, {"tool_choice": {"type": "function", "function": {"name": "weather"}}}),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"tool_choice": "auto", "parallel_tool_calls": False}),
    ],
)
def test_tool_choice(choice: dict[str, Any], sent: dict[str, Any]) -> None:
    request = read(tools=[TOOL], tool_choice=choice)
    assert {name: request.body.get(name) for name in sent} == sent
    assert ("parallel_tool_calls" in request.body) == ("parallel_tool_calls" in sent)


def test_a_choice_among_tools_that_were_left_out_is_left_out_too() -> None:
    request = read(tools=[{"type": "bash_20250124", "name": "bash"}], tool_choice={"type": "tool", "name": "bash"})
    assert not {"tools", "tool_choice"} & set(request.body)
    assert lost(request) == {"tools[].bash_20250124", "tool_choice"}


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"stream": "yes"}, "stream"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"metadata": "m"}, "metadata"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
        ({"output_config": []}, "output_config"),
        ({"output_config": {"format": "json"}}, "output_config.format"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        ({"system": 5}, "system"),
        ({"system": ["be brief"]}, "system.0"),
        ({"system": [{"type": "text"}]}, "system.0.text"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"messages": [*HI, {"role": "robot", "content": "hi"}]}, "messages.1.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}]},
            "messages.0.content.0.source.media_type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "ftp"}}]}]},
            "messages.0.content.0.source.type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages.0.content.0.tool_use_id"),
        ({"messages": [{"role": "user", "content": [result(["x"])]}]}, "messages.0.content.0.content.0"),
        ({"messages": [{"role": "assistant", "content": [{**CALL, "input": "x"}]}]}, "messages.0.content.0.input"),
        ({"messages": [{"role": "assistant", "content": [{**CALL, "id": None}]}]}, "messages.0.content.0.id"),
        ({"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": 1}]}]}, "messages.0.content"),
        ({"tools": {}}, "tools"),
        ({"tools": ["weather"]}, "tools.0"),
        ({"tools": [{"name": "weather"}]}, "tools.0.input_schema"),
        ({"tools": [{**TOOL, "name": 5}]}, "tools.0.name"),
        ({"tools": [{**TOOL, "input_schema": []}]}, "tools.0.input_schema"),
        ({"tools": [{**TOOL, "strict": "yes"}]}, "tools.0.strict"),
        ({"tools": [{"type": 5}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "all"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ],
)
def test_what_cannot_be_read_is_400_and_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    assert caught.value.status == 400 and caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")


# -- through the gateway ---------------------------------------------------------------------------------------------


async def test_what_a_chat_model_is_not_told_is_named(serve: Serve) -> None:
    async with upstream({"text": "hi"}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        fields = {"thinking": {"type": "adaptive"}, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
        reply = await client.call("POST", "/v1/messages?beta=true", body(**fields))
        assert reply.status == 200
        assert reply.headers["x-gateway-dropped"] == "tools[].web_search_20250305,thinking"
        assert reply.gateway["dropped"] == ["tools[].web_search_20250305", "thinking"]
        assert not {"thinking", "tools"} & set(up.script.requests[0])


async def test_names_that_a_client_chose_cannot_break_a_header(serve: Serve) -> None:
    async with upstream({"text": "hi"}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.call("POST", "/v1/messages", body(**{f"a\r\nset-cookie: {n}€": 1 for n in range(500)}))
        assert reply.status == 200
        dropped = reply.headers["x-gateway-dropped"]
        assert dropped.isascii() and dropped.isprintable() and len(dropped) < 4096


@pytest.mark.parametrize("stream", [True, False])
async def test_claude_codes_request(serve: Serve, stream: bool) -> None:
    sent = claude_code(stream=stream)
    assert 45_000 < len(orjson.dumps(sent)) < 60_000
    policy = SINGLE.replace("routes:", "serves: [auto, claude-sonnet-5-5, claude-haiku-4-5-20251001]\nroutes:")
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,oauth-2025-04-20"}
    async with upstream({"text": "a.py"}) as up:
        client = await serve(pointing_at(up), default=policy)
        reply = await client.call("POST", "/v1/messages?beta=true", sent, headers)
        assert reply.status == 200 and reply.headers["x-gateway-policy"] == "default"
        (asked,) = up.script.requests
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "system"]
    assert asked["messages"][0]["content"].startswith("x-anthropic-billing-header") and len(asked["tools"]) == 20
    assert asked["messages"][1]["content"].endswith("What is in src?")
    assert (asked["max_tokens"], asked["reasoning_effort"]) == (32000, "high") and len(asked["user"]) == 64
    assert not {"thinking", "context_management", "output_config", "metadata", "system"} & set(asked)
    assert set(reply.headers.get("x-gateway-dropped", "").split(",")) == {
        "cache_control", "context_management", "thinking", "tools[].defer_loading",
    }  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_speaks_the_same_is_sent_what_came(serve: Serve, stream: bool) -> None:
    sent = claude_code(model="auto", stream=stream)
    headers = {"anthropic-version": "2026-10-21", "anthropic-beta": "context-management-2025-06-27"}
    async with vendor(Anthropic, Say()) as server:
        models = f"models: {{m1: {{engine: openai, speaks: messages, base_url: '{server.url}/v1', model: up}}}}"
        client = await serve(models, default=SINGLE)
        reply = await client.call("POST", "/v1/messages?beta=true", sent, headers)
        assert reply.status == 200 and "x-gateway-dropped" not in reply.headers
    asked = server.requests[0]
    assert asked.pop("stream", False) is stream
    del sent["stream"]
    assert asked == {**sent, "model": "up"}
    assert {name: server.headers[0][name] for name in headers} == headers


MODELS = "models: {m1: {engine: scripted, replies: [{text: hi}]}}"


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(MODELS, default=SINGLE.replace("routes:", "serves: [auto]\nroutes:"))


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "kind", "names"),
    [
        ("POST", "/v1/messages", b"{", 400, "invalid_request_error", "JSON"),
        ("POST", "/v1/messages", b'{"model": "auto", "x": NaN}', 400, "invalid_request_error", "JSON"),
        ("POST", "/v1/messages", body(max_tokens=None), 400, "invalid_request_error", "max_tokens: Field required"),
        ("POST", "/v1/messages", body(model="claude-9"), 404, "not_found_error", "claude-9"),
        ("GET", "/v1/messages", None, 405, "invalid_request_error", "POST"),
        ("GET", "/v1/messages/count_tokens", None, 405, "invalid_request_error", ""),
        ("POST", "/v1/messages/batches", {}, 404, "not_found_error", "batches"),
        ("POST", "/v1/messages/count_tokens", body(messages=[]), 400, "invalid_request_error", "messages"),
    ],
)
async def test_errors_come_in_anthropics_envelope(
    client: Client, method: str, path: str, sent: Any, status: int, kind: str, names: str
) -> None:
    reply = await client.call(method, path, sent)
    assert reply.status == status
    assert set(reply.json) == {"type", "error"} and reply.json["type"] == "error"
    assert set(reply.error) == {"type", "message"}
    assert reply.error["type"] == kind and names in reply.error["message"]


async def test_what_is_too_long_is_told_in_anthropics_words(serve: Serve) -> None:
    models = "models: {m1: {engine: scripted, context: 64, replies: [{text: hi}]}}"
    client = await serve(models, default=SINGLE)
    reply = await client.call("POST", "/v1/messages", body("word " * 5000))
    assert reply.status == 400 and reply.error["message"].startswith("prompt is too long: ")


async def test_tokens_are_counted_without_an_answer(client: Client) -> None:
    short = await client.call("POST", "/v1/messages/count_tokens", {**body(), "max_tokens": None})
    long = await client.call("POST", "/v1/messages/count_tokens", body("word " * 100, system="be brief", tools=[TOOL]))
    assert short.status == long.status == 200
    assert 0 < short.json["input_tokens"] < 20 and long.json["input_tokens"] > 100
    assert (await client.call("POST", "/v1/messages/count_tokens", body(model="nope"))).status == 404


async def test_models_are_listed_as_the_client_knows_them(client: Client) -> None:
    version = {"anthropic-version": "2026-10-21"}
    listed = await client.call("GET", "/v1/models?limit=1000", headers=version)
    assert {"auto", "m1"} <= {entry["id"] for entry in listed.json["data"]}
    assert listed.json["has_more"] is False
    assert (listed.json["first_id"], listed.json["last_id"]) == ("default", "m1")
    one = await client.call("GET", "/v1/models/m1", headers=version)
    assert one.json["type"] == "model" and one.json["display_name"] == "m1"
    assert one.json["created_at"].endswith("Z") and one.json in listed.json["data"]
    assert (await client.call("GET", "/v1/models")).json["object"] == "list"
    assert (await client.call("GET", "/v1/models/nope", headers=version)).status == 404
