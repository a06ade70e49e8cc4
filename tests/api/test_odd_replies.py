"""What an upstream says where nobody expects it: every dialect writes what it can, and none breaks."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.asgi import Response
from tests.conftest import Serve
from tests.servers import DONE, Double, Json, Reply, chunk, plain, serving, whole
from tests.upstream import SINGLE

TURN = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Json] = {
    "/v1/responses": {"input": "hi", "include": ["message.output_text.logprobs"]},
    "/v1/messages": {"messages": TURN, "max_tokens": 9},
    "/api/chat": {"messages": TURN, "logprobs": True},
    "/api/generate": {"prompt": "hi", "logprobs": True},
}
TOKENS: dict[str, Any] = {"content": [None, 3, {"token": "Hello", "logprob": -0.5}]}
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": 7, "arguments": "{}"}}
ODD: dict[str, tuple[Json, Json]] = {  # of a message or delta, and of its choice
    "a call's name is no text": ({"tool_calls": [CALL]}, {}),
    "thinking blocks are no list": ({"thinking_blocks": True}, {}),
    "a thinking block is no object": ({"thinking_blocks": [None, 3]}, {}),
    "reasoning items are no list": ({"reasoning_items": 1.5}, {}),
    "a token is no object": ({}, {"logprobs": TOKENS}),
}


def saying(said: Json, beside: Json) -> Double:
    def answer(asked: Json) -> Reply:
        if asked.get("stream"):
            first = chunk({"role": "assistant", "content": "Hello", **said})
            first["choices"][0] |= beside
            return Reply((first, chunk({}, "stop"), DONE))
        completion = whole("Hello", message=said)
        completion["choices"][0] |= beside
        return Reply(whole=completion)

    return plain("up", say=answer)


def has_ended_well(reply: Response) -> bool:
    return reply.status == 200 and b"Hello" in reply.body and b"internal error" not in reply.body


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("odd", ODD)
async def test_the_answer_comes_all_the_same(serve: Serve, odd: str, path: str, stream: bool) -> None:
    async with serving(saying(*ODD[odd])) as up:
        models = f"models: {{m1: {{engine: openai, base_url: '{up.url}/v1', model: up, api_key: k}}}}\n"
        client = await serve(models, default=SINGLE)
        reply = await client.call("POST", path, {"model": "auto", "stream": stream, **ASKED[path]})
        assert has_ended_well(reply), reply.body


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", *ASKED])
async def test_what_could_not_be_told_again_is_a_bad_reply(serve: Serve, path: str, stream: bool) -> None:
    nested = whole("MARK")
    if stream:
        nested = {**chunk({"content": "MARK"}), "object": "chat.completion.chunk"}
    raw = orjson.dumps(nested).replace(b'"MARK"', b'{"a":' * 300 + b"1" + b"}" * 300)
    body = b"data: " + raw + b"\n\n" if stream else raw
    kind = "text/event-stream" if stream else "application/json"
    double = plain("up")
    double.posts["/v1/chat/completions"] = lambda asked: web.Response(body=body, content_type=kind)
    double.say = None
    async with serving(double) as up:
        models = f"models: {{m1: {{engine: openai, base_url: '{up.url}/v1', model: up, api_key: k}}}}\n"
        client = await serve(models, default=SINGLE)
        asked = ASKED.get(path, {"messages": TURN})
        reply = await client.call("POST", path, {"model": "auto", "stream": stream, **asked})
        assert reply.status == 502 and b"not JSON" in reply.body
