"""`/v1/fim/completions`: Mistral's shape in, a chat's shape out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.asgi import Client, Response
from tests.conftest import Serve
from tests.upstream import CASCADE, SINGLE, pointing_at, upstream

PATH = "/v1/fim/completions"
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True])
STOPS = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>", "\n\n", "```", "/src/"]
SAID = {"text": "return a + b"}


async def fill(client: Client, **fields: Any) -> Response:
    body = {"model": "auto", "prompt": "def add(a, b): ", "suffix": "\n", **fields}
    return await client.call("POST", PATH, body)


@BOTH_WAYS
async def test_an_answer_in_a_chats_shape(serve: Serve, stream: bool) -> None:
    async with upstream(SAID) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        reply = await fill(client, stream=stream, stop=STOPS, max_tokens=64, min_tokens=1, random_seed=7, min_p=0.1)
        assert (reply.status, reply.text) == (200, "return a + b")
        (sent,) = server.script.requests
        wanted = {"stop": STOPS, "max_tokens": 64, "min_tokens": 1, "seed": 7, "min_p": 0.1, "suffix": "\n"}
        assert sent | wanted == sent and "random_seed" not in sent and "messages" not in sent
        if stream:
            assert reply.events[0]["choices"][0]["delta"] == {"role": "assistant", "content": "return"}
            assert reply.events[-1] == "[DONE]" and reply.events[-2]["choices"][0]["finish_reason"] == "stop"
        else:
            assert reply.json["object"] == "chat.completion"
            assert reply.json["choices"][0]["message"]["content"] == "return a + b"


@BOTH_WAYS
async def test_policies_are_the_same(serve: Serve, stream: bool) -> None:
    async with upstream({"text": ""}) as small, upstream(SAID) as large:
        client = await serve(pointing_at(small, large), default=CASCADE)
        reply = await fill(client, stream=stream)
        assert (reply.text, reply.gateway["path"]) == ("return a + b", "m1!not_empty,m2")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": [1]}, "prompt"),
        ({"suffix": 3}, "suffix"),
        ({"stop": 3}, "stop"),
        ({"random_seed": "x"}, "random_seed"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"model": 1}, "model"),
    ],
)
async def test_wrong_types_are_refused(serve: Serve, fields: dict[str, Any], param: str) -> None:
    client = await serve("models: {m1: {engine: scripted, replies: [{text: x}]}}", default=SINGLE)
    reply = await fill(client, **fields)
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_paths(serve: Serve) -> None:
    client = await serve("models: {m1: {engine: scripted, replies: [{text: x}]}}", default=SINGLE)
    assert (await client.call("POST", "/fim/completions", {"model": "auto", "prompt": "a"})).status == 200
    assert (await client.call("GET", PATH)).status == 405
