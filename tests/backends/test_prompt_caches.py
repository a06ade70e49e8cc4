"""What asks a provider to keep what it has read of a prompt passes through, and so does what it says of that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.backends import litellm
from tests.asgi import Client
from tests.conftest import Serve
from tests.upstream import SINGLE, pointing_at, upstream
from tests.vendors import Anthropic, Say, vendor

pytestmark = pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")
Json = dict[str, Any]
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
PNG = "iVBORw0KGgo="
TOOL = {"type": "object", "properties": {}}
MARKED: Json = {
    "model": "auto",
    "max_tokens": 20,
    "system": [{"type": "text", "text": "Be a coder."}, {"type": "text", "text": "Rules.", "cache_control": HOUR}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "look"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "4", "cache_control": MARK}],
        },
        {"role": "assistant", "content": "It is 4."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "A long text.", "cache_control": MARK},
                {"type": "text", "text": "And a question?"},
            ],
        },
    ],
    "tools": [
        {"name": "write", "input_schema": TOOL},
        {"name": "read", "input_schema": TOOL, "cache_control": MARK},
    ],
}
AS_CHAT: Json = {
    "model": "auto",
    "max_tokens": 20,
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Rules.", "cache_control": HOUR}]},
        {"role": "user", "content": [{"type": "text", "text": "A text.", "cache_control": MARK}]},
    ],
    "tools": [{"type": "function", "function": {"name": "read", "parameters": TOOL}, "cache_control": MARK}],
}


@pytest.fixture(autouse=True)
async def connections_end_with_their_loop() -> AsyncIterator[None]:
    yield
    await litellm.close()


async def claude(serve: Serve, url: str, engine: str) -> Client:
    """Behind litellm, or asked in its own protocol."""
    at = f"base_url: '{url}', api_key: sk-1"
    if engine == "litellm":
        return await serve(f"models: {{m1: {{engine: litellm, model: {Anthropic.model}, {at}}}}}\n", default=SINGLE)
    own = at.replace(url, f"{url}/v1")
    return await serve(
        f"models: {{m1: {{engine: openai, speaks: messages, model: claude-sonnet-4-5, {own}}}}}\n", default=SINGLE
    )


def marks_in(said: Any, at: str = "") -> list[tuple[str, Json]]:
    """(what is marked, mark), in the order of the request."""
    found = []
    if isinstance(said, dict):
        if "cache_control" in said:
            found.append((str(said.get("text") or said.get("name") or said.get("type")), said["cache_control"]))
        said = list(said.values())
    if isinstance(said, list):
        found += [mark for one in said for mark in marks_in(one)]
    return found


@pytest.mark.parametrize("engine", ["litellm", "messages"])
async def test_marks_of_a_request_to_anthropics_api(serve: Serve, engine: str) -> None:
    async with vendor(Anthropic, Say(cached=5)) as up:
        client = await claude(serve, up.url, engine)
        reply = await client.call("POST", "/v1/messages", MARKED)
        assert reply.status == 200, reply.body
        asked = up.requests[-1]
        assert marks_in(asked["system"]) == [("Rules.", HOUR)]
        assert marks_in(asked["messages"]) == [("tool_result", MARK), ("A long text.", MARK)]
        assert marks_in(asked["tools"]) == [("read", MARK)]
        assert asked["messages"][-1]["content"][-1]["text"] == "And a question?"
        assert "cache_control" not in reply.headers.get("x-gateway-dropped", "")
        usage = reply.json["usage"]
        assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (7, 5)


@pytest.mark.parametrize("engine", ["litellm", "messages"])
async def test_marks_of_a_chat(serve: Serve, engine: str) -> None:
    async with vendor(Anthropic, Say(cached=5)) as up:
        client = await claude(serve, up.url, engine)
        reply = await client.call("POST", "/v1/chat/completions", AS_CHAT)
        assert reply.status == 200, reply.body
        asked = up.requests[-1]
        assert marks_in(asked["system"]) == [("Rules.", HOUR)]
        assert marks_in(asked["messages"]) == [("A text.", MARK)]
        assert marks_in(asked["tools"]) == [("read", MARK)]
        assert reply.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 5


async def test_an_image_keeps_its_mark(serve: Serve) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    content = [{**image, "cache_control": MARK}, {"type": "text", "text": "What is it?"}]
    body = {**MARKED, "system": "Be brief.", "tools": [], "messages": [{"role": "user", "content": content}]}
    async with vendor(Anthropic, Say()) as up:
        client = await claude(serve, up.url, "litellm")
        assert (await client.call("POST", "/v1/messages", body)).status == 200
        assert marks_in(up.requests[-1]["messages"]) == [("image", MARK)]


async def test_who_knows_no_marks_is_sent_none(serve: Serve) -> None:
    async with upstream({"text": "hi"}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.call("POST", "/v1/messages", MARKED)
        assert reply.status == 200 and "cache_control" in reply.headers["x-gateway-dropped"]
        assert "cache_control" not in str(up.script.requests[-1])


async def test_claude_behind_openrouter_is_sent_them(serve: Serve) -> None:
    async with upstream({"text": "hi"}) as up:
        extra = "provider: openrouter"
        client = await serve(
            pointing_at(up, extra=extra).replace("model: up", "model: anthropic/claude-sonnet-4.5"), default=SINGLE
        )
        reply = await client.call("POST", "/v1/messages", {**MARKED, "cache_control": MARK})
        assert reply.status == 200 and "cache_control" not in reply.headers.get("x-gateway-dropped", "")
        asked = up.script.requests[-1]
        assert marks_in(asked["messages"]) == [("Rules.", HOUR), ("None", MARK), ("A long text.", MARK)]
        assert asked["cache_control"] == MARK and asked["tools"][1]["cache_control"] == MARK


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_openais_fields(serve: Serve, path: str) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 3}}
    usage = {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5, **details}
    async with upstream({"text": "hi", "usage": usage}) as up:
        client = await serve(pointing_at(up, extra="provider: openai"), default=SINGLE)
        fields = {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "model": "auto"}
        asked = {"input": "hi"} if "responses" in path else {"messages": [{"role": "user", "content": "hi"}]}
        reply = await client.call("POST", path, {**fields, **asked})
        sent = up.script.requests[-1]
        assert (sent["prompt_cache_key"], sent["prompt_cache_retention"]) == ("k", "24h")
        told = reply.json["usage"]
        assert (told.get("prompt_tokens_details") or told.get("input_tokens_details"))["cached_tokens"] == 3
