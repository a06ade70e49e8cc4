"""A kept answer is told as each dialect tells one, streamed or whole, whichever way it was asked for first."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.asgi import Client, Response
from tests.caching.asking import HELLO, USAGE, asked, cached, said
from tests.conftest import Serve

MESSAGES = [{"role": "user", "content": "hi"}]
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 20},
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": "hi"},
}


async def ask(client: Client, path: str, *, stream: bool, **fields: Any) -> Response:
    reply = await client.call("POST", path, {"model": "auto", **PATHS[path], "stream": stream, **fields})
    assert reply.status == 200, reply.body
    return reply


def text_of(path: str, reply: Response) -> str:
    """What a client makes of it."""
    if path.startswith("/api"):
        lines = [orjson.loads(line) for line in reply.body.splitlines()]
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        return "".join(line["message"]["content"] if "message" in line else line["response"] for line in lines)
    is_stream = reply.headers["content-type"].startswith("text/event-stream")
    events = [data for line in reply.body.splitlines() if (data := line.removeprefix(b"data: ")) != line]
    parsed = [orjson.loads(data) for data in events if data != b"[DONE]"]
    if path == "/v1/responses":
        response = parsed[-1]["response"] if is_stream else reply.json
        assert response["status"] == "completed"
        return str(response["output"][0]["content"][0]["text"])
    if path == "/v1/messages":
        if not is_stream:
            return str(reply.json["content"][0]["text"])
        assert [event["type"] for event in (parsed[0], *parsed[-2:])] == [
            "message_start", "message_delta", "message_stop"
        ]  # fmt: skip
        return "".join(event["delta"].get("text", "") for event in parsed if event["type"] == "content_block_delta")
    if not is_stream:
        choice = reply.json["choices"][0]
        return str(choice["text"] if "text" in choice else choice["message"]["content"])
    choices = [choice for event in parsed for choice in event["choices"]]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert events[-1] == b"[DONE]"
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


def about(path: str, reply: Response) -> dict[str, Any]:
    """The gateway object."""
    lines = [line.removeprefix(b"data: ") for line in reply.body.splitlines() if b'"gateway":' in line]
    found = orjson.loads(lines[-1])
    gateway: dict[str, Any] = found.get("gateway") or found["response"]["gateway"]
    return gateway


@pytest.mark.parametrize("path", PATHS)
async def test_a_hit_in_every_dialect(serve: Serve, path: str) -> None:
    client = await cached(serve)
    for first in (True, False):
        client.runtime.answers.take(client.gateway.keeping.__class__())  # forget what there is
        client.runtime.answers.take(client.gateway.keeping)
        before = asked(client)
        replies = [await ask(client, path, stream=stream) for stream in (first, True, False)]
        assert asked(client) == before + 1
        assert [text_of(path, reply) for reply in replies] == ["one two"] * 3
        assert [said(reply) for reply in replies] == ["miss", "hit", "hit"]
        assert [about(path, reply)["cache"] for reply in replies] == ["miss", "hit", "hit"]
        assert all(reply.headers["x-gateway-path"] == "cache:core" for reply in replies[1:])


async def test_chunks_are_those_of_a_stream(serve: Serve) -> None:
    client = await cached(serve)
    await client.chat("hi")
    hit = await client.chat("hi", stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = hit.events
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "one two", "refusal": None},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert {(chunk["id"], chunk["model"], chunk["usage"]) for chunk in chunks} == {
        (f"chatcmpl-{hit.headers['x-gateway-trace']}", "core", None)
    }
    assert (usage["choices"], usage["usage"], done) == ([], USAGE, "[DONE]")
    assert hit.headers["x-gateway-cache"] == "hit"


async def test_several_choices_with_logprobs(serve: Serve) -> None:
    client = await cached(serve, {"text": "one two", "logprobs": -0.5})
    fields: dict[str, Any] = {"n": 2, "logprobs": True, "stream": True}
    first, hit = await client.chat("hi", **fields), await client.chat("hi", **fields)
    assert said(hit) == "hit"

    def gathered(reply: Response) -> list[tuple[str, int, list[Any]]]:
        choices = [choice for event in reply.events[:-1] for choice in event["choices"]]
        out = []
        for index in (0, 1):
            own = [choice for choice in choices if choice["index"] == index]
            assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]
            tokens = [token for choice in own for token in (choice.get("logprobs") or {}).get("content") or ()]
            out.append(("".join(choice["delta"].get("content") or "" for choice in own), index, tokens))
        return out

    assert gathered(hit) == gathered(first)


async def test_a_response_that_is_stored_is_gone_on_with(serve: Serve) -> None:
    client = await cached(serve, {"when": {"contains": "more"}, "text": "four"}, HELLO)
    await ask(client, "/v1/responses", stream=False)
    hit = await ask(client, "/v1/responses", stream=False)
    assert said(hit) == "hit"
    more = await ask(client, "/v1/responses", stream=False, input="more", previous_response_id=hit.json["id"])
    assert text_of("/v1/responses", more) == "four" and said(more) == "miss"


async def test_reasoning_comes_back(serve: Serve) -> None:
    client = await cached(serve, {"text": "yes", "reasoning": "let me see"})
    await client.chat("hi", stream=True)
    hit = await client.chat("hi", stream=True)
    assert hit.events[0]["choices"][0]["delta"]["reasoning_content"] == "let me see"
