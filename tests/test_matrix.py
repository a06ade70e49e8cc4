"""Every kind of model, and every shape of provider, does the same things: said once, run for each.

What is special about one is tested beside its code. The engines that must be installed first have their rows in
`tests/engines`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import orjson
import pytest
from aiohttp import web

from gateway.backends import litellm
from tests import servers
from tests.asgi import Client
from tests.conftest import Serve
from tests.openai_shaped import OpenAIShaped
from tests.responses_shaped import ResponsesShaped
from tests.upstream import CASCADE, SINGLE
from tests.vendors import Anthropic, Gemini, Say, Vendor, vendor

KEY = "sk-very-secret"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = ("weather", {"city": "Paris"})
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]}]
AFTER_FIRST_WORD = {"anthropic": 4, "gemini": 1, "openai": 2, "responses": 5}  # events up to the one that holds it
HELLO = Say()
NEXT = "  m2: {engine: scripted, replies: [{text: from the next}]}\n"
pytestmark = pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")


@dataclass(frozen=True)
class Shape:
    """One row. `entry` writes the model's entry for a server that listens at `url`."""

    name: str
    kind: type[Vendor]
    entry: Callable[[str], str]


def of_openai(provider: str, base: str = "/v1", more: str = "") -> Shape:
    def entry(url: str) -> str:
        at = f"provider: {provider}, base_url: '{url}{base}', model: up, api_key: {KEY}"
        return f"{{engine: openai, {at}, retries: 0{more}}}"

    return Shape(provider, OpenAIShaped, entry)


def of_litellm(kind: type[Vendor]) -> Shape:
    def entry(url: str) -> str:
        return f"{{engine: litellm, model: {kind.model}, base_url: '{url}', api_key: {KEY}, retries: 0}}"

    return Shape(f"litellm {kind.name}", kind, entry)


def speaking(kind: type[Vendor], protocol: str, model: str) -> Shape:
    """A server that speaks it, reached without litellm."""

    def entry(url: str) -> str:
        return (
            f"{{engine: openai, speaks: {protocol}, base_url: '{url}/v1', model: {model}, api_key: {KEY}, retries: 0}}"
        )

    return Shape(f"speaks {protocol}", kind, entry)


def attached(name: str, double: servers.Double) -> Shape:
    """A server whose lists are the double's, and whose chats are scripted."""

    async def ask(self: Vendor, request: web.Request) -> web.StreamResponse:
        return await (self.respond(request) if request.path.endswith("/chat/completions") else double.answer(request))

    kind = type(name, (OpenAIShaped,), {"answer": ask})
    return Shape(f"attach {name}", kind, lambda url: f"{{engine: attach, url: '{url}', model: up, key: {KEY}}}")


SHAPES = [
    *(of_openai(name) for name in ("openai", "openrouter", "mistral", "deepseek", "groq", "together")),
    of_openai("azure", "", ", api_version: 2026-01-01"),
    speaking(ResponsesShaped, "responses", "gpt-5-mini"),
    speaking(Anthropic, "messages", "claude-sonnet-4-5"),
    of_litellm(Anthropic),
    of_litellm(Gemini),
    attached("ollama", servers.ollama(servers.OllamaModel("up", capabilities=("completion", "tools", "vision")))),
    attached("lm-studio", servers.lm_studio({"id": "up", "type": "vlm", "max_context_length": 8192})),
    attached("llama-server", servers.llama_server("up", vision=True)),
    attached("vllm", servers.vllm("up")),
]
ALIKE = ("openrouter", "mistral", "deepseek", "groq", "together")  # as openai, but for what test_providers.py tests
EACH = pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, id=shape.name, marks=pytest.mark.slow if shape.name in ALIKE else ()) for shape in SHAPES],
)
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture
def meet(serve: Serve) -> Callable[..., AbstractAsyncContextManager[tuple[Client, Vendor]]]:
    """`async with meet(shape, reply, policy=…) as (client, server)`: a gateway whose model m1 is of that shape."""

    @asynccontextmanager
    async def open_both(shape: Shape, reply: Say = HELLO, policy: str = SINGLE) -> AsyncIterator[tuple[Client, Vendor]]:
        async with vendor(shape.kind, reply) as server:
            yield await serve(f"models:\n  m1: {shape.entry(server.url)}\n{NEXT}", default=policy), server

    return open_both


Meet = Callable[..., AbstractAsyncContextManager[tuple[Client, Vendor]]]


@EACH
@BOTH_WAYS
async def test_words_and_usage(meet: Meet, shape: Shape, stream: bool) -> None:
    async with meet(shape) as (client, server):
        reply = await client.chat(stream=stream, stream_options={"include_usage": True} if stream else None)
        assert (reply.status, reply.text) == (200, "Hello there")
        assert reply.headers["x-gateway-model"] == "m1"
        usage = reply.events[-2]["usage"] if stream else reply.json["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (12, 7, 19)
        if stream:
            assert reply.events[-1] == "[DONE]"
            finishes = [event["choices"][0]["finish_reason"] for event in reply.events[:-2]]
            assert finishes == [None] * (len(finishes) - 1) + ["stop"]
        assert len(server.requests) == 1


@EACH
@BOTH_WAYS
async def test_a_tool_call(meet: Meet, shape: Shape, stream: bool) -> None:
    async with meet(shape, Say(words=(), call=CALL)) as (client, server):
        reply = await client.chat(stream=stream, tools=[TOOL], tool_choice="auto")
        assert reply.status == 200
        if stream:
            choices = [event["choices"][0] for event in reply.events[:-1]]
            pieces = [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]
            assert {piece["index"] for piece in pieces} == {0} and pieces[0]["id"]
            name, finish = pieces[0]["function"]["name"], choices[-1]["finish_reason"]
            arguments = "".join(piece["function"]["arguments"] for piece in pieces)
        else:
            choice = reply.json["choices"][0]
            (call,) = choice["message"]["tool_calls"]
            name, arguments, finish = call["function"]["name"], call["function"]["arguments"], choice["finish_reason"]
        assert (name, orjson.loads(arguments), finish) == ("weather", CALL[1], "tool_calls")
        assert "weather" in str(server.requests[0]["tools"])


@EACH
@BOTH_WAYS
async def test_a_json_schema(meet: Meet, shape: Shape, stream: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    policy = SINGLE.replace("model: m1", "model: m1, checks: [json_schema]")
    async with meet(shape, Say(words=('{"city": ', '"Paris"}')), policy) as (client, server):
        reply = await client.chat(stream=stream, response_format=wanted)
        assert orjson.loads(reply.text) == {"city": "Paris"}
        assert "checks_failed" not in reply.gateway and "x-gateway-dropped" not in reply.headers
        assert '"city"' in orjson.dumps(server.requests[0]).decode()


@EACH
@BOTH_WAYS
async def test_an_image(meet: Meet, shape: Shape, stream: bool) -> None:
    async with meet(shape) as (client, server):
        reply = await client.chat(messages=IMAGE, stream=stream)
        assert reply.status == 200
        assert PIXEL in orjson.dumps(server.requests[0]).decode()


@EACH
@BOTH_WAYS
@pytest.mark.parametrize("status", [400, 401, 429, 503])
async def test_an_error_is_passed_on_and_hides_what_is_ours(
    meet: Meet, shape: Shape, stream: bool, status: int
) -> None:
    error = Say(error=(status, "some_error", f"no, not with {KEY}", {"retry-after": "7"}))
    async with meet(shape, error) as (client, server):
        reply = await client.chat(stream=stream)
        assert reply.status == (502 if status == 401 else status)
        assert set(reply.error) == {"message", "type", "param", "code"}
        assert KEY not in reply.body.decode() and server.url not in reply.body.decode()
        if status == 429:
            assert reply.headers["retry-after"] == "7"
        assert len(server.requests) == 1, "clients retry, the gateway does not"


@EACH
@BOTH_WAYS
async def test_an_error_moves_outward(meet: Meet, shape: Shape, stream: bool) -> None:
    async with meet(shape, Say(error=(503, "busy", "later", {})), CASCADE) as (client, _):
        reply = await client.chat(stream=stream)
        assert (reply.status, reply.text, reply.gateway["model"]) == (200, "from the next", "m2")
        assert reply.headers["x-gateway-path"].startswith("m1!")


@EACH
@pytest.mark.parametrize("when", ["whole", "silent stream", "mid-stream"])
async def test_a_client_that_leaves_ends_the_call(meet: Meet, shape: Shape, when: str) -> None:
    after = AFTER_FIRST_WORD[shape.kind.name] if when == "mid-stream" else 0
    async with meet(shape, Say(ends="stall", after=after)) as (client, server):
        call = client.start_chat(stream=when != "whole")
        await asyncio.wait_for((call.wrote if when == "mid-stream" else server.asked).wait(), 20)
        call.leave()
        await call.done()
        await asyncio.wait_for(server.gone.wait(), 3)


@EACH
@pytest.mark.parametrize("ends", ["cut", "short"])
async def test_a_stream_cut_after_its_first_word_ends_loudly(meet: Meet, shape: Shape, ends: str) -> None:
    async with meet(shape, Say(ends=ends, after=AFTER_FIRST_WORD[shape.kind.name]), CASCADE) as (client, _):
        policy_of_one = await client.chat(model="m1", stream=True)
        assert policy_of_one.status == 200 and "Hello" in policy_of_one.text
        assert policy_of_one.events[-1]["error"]["message"], "and no [DONE]"
        assert 'finish_reason":"stop' not in policy_of_one.body.decode()


@EACH
@BOTH_WAYS
async def test_a_reply_cut_before_its_first_word_moves_outward(meet: Meet, shape: Shape, stream: bool) -> None:
    async with meet(shape, Say(ends="cut"), CASCADE) as (client, _):
        reply = await client.chat(stream=stream)
        assert (reply.status, reply.text) == (200, "from the next")
