"""Responses through the gateway to upstreams that speak it, or Anthropic's Messages: reasoning finds its way back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.asgi import Client
from tests.conftest import Serve
from tests.responses_shaped import ResponsesShaped
from tests.upstream import SINGLE
from tests.vendors import Anthropic, Say, Vendor, vendor

Json = dict[str, Any]
SEALED = "reasoning.encrypted_content"
TOOLS = [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}]
THINKS = Say(words=(), thinking="let me see", call=("look_up", {"city": "Paris"}), stop="tool_use")


def models(server: Vendor, speaks: str) -> str:
    return f"models:\n  m1: {{engine: openai, speaks: {speaks}, base_url: '{server.url}', model: gpt-5, api_key: k}}\n"


async def ask(client: Client, input: Any, *, stream: bool, **fields: Any) -> Json:
    body = {"model": "auto", "input": input, "tools": TOOLS, "stream": stream, **fields}
    reply = await client.call("POST", "/v1/responses", body)
    assert reply.status == 200, reply.body
    if not stream:
        whole: Json = reply.json
        return whole
    last = [block for block in reply.body.decode().split("\n\n") if block][-1]
    assert last.startswith("event: response.completed\n")
    final: Json = orjson.loads(last.split("data: ", 1)[1])["response"]
    return final


async def second_turn(client: Client, *, stream: bool, stored: bool) -> Json:
    """Two turns: a call, and its output. Returns: the first response."""
    if stored:
        first = await ask(client, "weather?", stream=stream)
        assert "encrypted_content" not in first["output"][0]
    else:
        first = await ask(client, "weather?", stream=stream, store=False, include=[SEALED])
    call = first["output"][-1]
    answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    if stored:
        await ask(client, [answer], stream=stream, previous_response_id=first["id"])
    else:
        said = [{"role": "user", "content": "weather?"}, *first["output"], answer]
        await ask(client, said, stream=stream, store=False, include=[SEALED])
    return first


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_sealed_reasoning_is_sent_back_as_it_came(serve: Serve, stream: bool, stored: bool) -> None:
    async with vendor(ResponsesShaped, THINKS, Say()) as server:
        client = await serve(models(server, "responses"), default=SINGLE)
        first = await second_turn(client, stream=stream, stored=stored)
    assert [item["type"] for item in first["output"]] == ["reasoning", "function_call"]
    assert first["output"][0]["content"][0]["text"] == "let me see"
    thought, call, output = server.requests[-1]["input"][-3:]
    assert (thought["id"], thought["encrypted_content"]) == ("rs_1", "sealed")
    assert call["type"] == "function_call" and not call.get("id", "").startswith(first["output"][1]["id"])
    assert output["output"] == "sunny"
    assert "previous_response_id" not in server.requests[-1]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_signed_thinking_is_sent_back_as_it_came(serve: Serve, stream: bool, stored: bool) -> None:
    async with vendor(Anthropic, THINKS, Say()) as server:
        client = await serve(models(server, "messages"), default=SINGLE)
        await second_turn(client, stream=stream, stored=stored)
    turn = next(message for message in server.requests[-1]["messages"] if message["role"] == "assistant")
    assert turn["content"][0] == {"type": "thinking", "thinking": "let me see", "signature": "sig"}
    assert turn["content"][1]["type"] == "tool_use"


async def test_namespaced_calls_of_an_upstream_keep_their_namespace(serve: Serve) -> None:
    inner = {"type": "function", "name": "look_up", "parameters": {"type": "object"}}
    tools = [{"type": "namespace", "name": "mcp__web__", "description": "", "tools": [inner]}]
    async with vendor(ResponsesShaped, Say(words=(), call=("mcp__web__look_up", {}))) as server:
        client = await serve(models(server, "responses"), default=SINGLE)
        response = await ask(client, "?", stream=False, tools=tools)
    assert server.requests[0]["tools"] == tools  # as they came: nothing is lost
    assert (response["output"][0]["namespace"], response["output"][0]["name"]) == ("mcp__web__", "look_up")
    assert "dropped" not in response["gateway"]
