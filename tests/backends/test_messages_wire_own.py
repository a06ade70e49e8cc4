"""Requests that came in Anthropic's Messages API, to models that speak it: sent as they came, all that they say."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from gateway.api.messages import parse_messages
from gateway.backends.messages import MessagesWire
from gateway.chat import ChatRequest
from tests.backends.wires import meeting
from tests.conftest import Serve
from tests.vendors import Anthropic, Json

WIRE = MessagesWire()
ENTRY = "speaks: messages, model: claude-sonnet-4-5"
NEW = "claude-opus-5"
PNG = base64.b64encode(b"\x89PNG").decode()


def said(text: str, role: str = "user") -> Json:
    return {"role": role, "content": text}


def block(text: str) -> Json:
    return {"type": "text", "text": text}


LIKE_CLAUDE_CODE: Json = {
    "model": "auto",
    "max_tokens": 32000,
    "system": [
        {"type": "text", "text": "You are a coder."},
        {"type": "text", "text": "Rules: …", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "messages": [
        {"role": "user", "content": "look"},
        {"role": "system", "content": "a reminder"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig+/="},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a\u2028é", "n": 1.0}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "is_error": True,
                    "content": [
                        {"type": "text", "text": "no"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    ],
                },
                {"type": "text", "text": "again", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ],
    "tools": [
        {"name": "Read", "input_schema": {"type": "object", "properties": {}}, "defer_loading": True, "odd": [1]},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
    "thinking": {"type": "enabled", "budget_tokens": 31999},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
    "metadata": {"user_id": "u" * 150},
    "never_heard_of": {"a": [1, 2]},
}
BETA = {"anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14", "anthropic-version": "2026-10-21"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_in_its_own_dialect_goes_through_unchanged(serve: Serve, stream: bool) -> None:
    async with meeting(serve, Anthropic, ENTRY) as (client, server):
        body = {**LIKE_CLAUDE_CODE, "stream": stream}
        headers = {**BETA, "x-api-key": "sk-of-the-client", "authorization": "Bearer sk-of-the-client"}
        reply = await client.call("POST", "/v1/messages?beta=true", body, headers)
        assert reply.status == 200, reply.body
        assert "x-gateway-dropped" not in reply.headers
        assert orjson.dumps(server.requests[0]) == orjson.dumps({**body, "model": "claude-sonnet-4-5"})
        assert server.paths == ["/v1/messages"]
        seen = server.headers[0]
        assert {name: seen[name] for name in BETA} == BETA
        assert "sk-of-the-client" not in str(seen) and "sk-of-the-gateway" in str(seen)


async def test_a_chat_is_sent_with_the_version_that_it_was_translated_for(serve: Serve) -> None:
    async with meeting(serve, Anthropic, ENTRY) as (client, server):
        await client.chat(headers=BETA)
        assert server.headers[0]["anthropic-version"] == "2023-06-01" and "anthropic-beta" not in server.headers[0]


def native(body: Json, **chat: Any) -> tuple[ChatRequest, Json]:
    request = parse_messages(orjson.dumps(body), {}, None)
    return request, {**request.body, **chat}


def test_messages_that_were_added_leave_the_others_as_they_came() -> None:
    request, _ = native(LIKE_CLAUDE_CODE)
    first, *rest = request.messages
    facts = {"role": "system", "content": f"{first['content']}\n\nParis is in France."}
    example = [said("2+2?"), said("4", "assistant")]
    changed = request.with_body(messages=[facts, *example, *rest])
    body, lost = WIRE.ask({**changed.body, "model": "up"}, changed)
    assert body["system"] == [*LIKE_CLAUDE_CODE["system"], block("Paris is in France.")]
    (two, four, look, reminder, answer, results) = body["messages"]
    assert (two["content"], four["content"], look["content"]) == ([block("2+2?")], [block("4")], [block("look")])
    assert reminder == {"role": "system", "content": [block("a reminder")]}
    assert (answer, results) == tuple(LIKE_CLAUDE_CODE["messages"][2:])
    others = LIKE_CLAUDE_CODE.keys() - {"system", "messages", "model"}
    assert {name: body[name] for name in others} == {name: LIKE_CLAUDE_CODE[name] for name in others} and lost == ()


def test_a_system_message_that_was_left_out_or_written_anew() -> None:
    request, _ = native(LIKE_CLAUDE_CODE)
    changed = request.with_body(messages=request.messages[1:])
    assert "system" not in WIRE.ask({**changed.body, "model": "up"}, changed)[0]
    changed = request.with_body(messages=[said("be kind", "system"), *request.messages])
    body = WIRE.ask({**changed.body, "model": "up"}, changed)[0]
    assert body["system"] == [block("be kind"), *LIKE_CLAUDE_CODE["system"]]
    changed = request.with_body(messages=[said("other rules", "system"), *request.messages[1:]])
    assert WIRE.ask({**changed.body, "model": "up"}, changed)[0]["system"] == [block("other rules")]


def test_defaults_fill_in_what_a_body_leaves_out() -> None:
    small: Json = {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
    request, chat = native(
        {**small, "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}
    )
    chat |= {"temperature": 0.5, "reasoning_effort": "low", "container": "c", "model": NEW}
    body, _ = WIRE.ask(chat, request)
    assert (body["temperature"], body["container"], body["max_tokens"]) == (0.5, "c", 100)
    assert body["output_config"]["effort"] == "low" and "format" in body["output_config"]
    assert body["thinking"] == {"type": "adaptive"}
    request, chat = native({**small, "temperature": 0.1, "thinking": {"type": "disabled"}})
    body, _ = WIRE.ask({**chat, "reasoning_effort": "low", "model": NEW}, request)
    assert (body["temperature"], body["thinking"]) == (0.1, {"type": "disabled"}), "the client's own word counts"


async def test_what_its_provider_refuses_is_left_out_of_its_own_dialect_too(serve: Serve) -> None:
    entry = "provider: anthropic, model: claude-opus-4-8, drop: [metadata]"
    async with meeting(serve, Anthropic, entry) as (client, server):
        body = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "temperature": 0.2}
        reply = await client.call("POST", "/v1/messages", {**body, "top_k": 4, "metadata": {"user_id": "u"}})
        assert reply.status == 200 and set(server.requests[0]) == {"model", "max_tokens", "messages", "metadata"}
        assert set(reply.headers["x-gateway-dropped"].split(",")) == {"temperature", "top_k"}
        await client.chat(temperature=0.2)
        assert "temperature" not in server.requests[1]
        assert server.headers[0]["x-api-key"] == "sk-of-the-gateway" and "authorization" not in server.headers[0]


def test_thoughts_of_other_models_are_not_sent() -> None:
    thoughts = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "thinking", "thinking": "so"}]
    answer = {"role": "assistant", "content": [*thoughts, block("yes")]}
    silent = {"role": "assistant", "content": thoughts}
    messages = [{"role": "user", "content": "a"}, answer, {"role": "user", "content": "b"}, silent]
    request, chat = native({"model": "auto", "max_tokens": 9, "messages": messages})
    body, _ = WIRE.ask(chat, request)
    assert body["messages"] == [messages[0], {"role": "assistant", "content": [block("yes")]}, messages[2]]
