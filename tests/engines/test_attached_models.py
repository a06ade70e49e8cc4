"""The gateway with servers attached: what their models are sent, and what becomes of requests while they are away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.engines.resident import Stage
from tests.conftest import Serve, build_from
from tests.servers import (
    DONE,
    Double,
    Json,
    OllamaModel,
    Reply,
    chunk,
    listed,
    llama_server,
    lm_studio,
    ollama,
    plain,
    serving,
    usage,
    vllm,
)

SINGLE = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"
CASCADE = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: m}, {model: n}]}}]\n"


def models(url: str, model: str = "a", extra: str = "") -> str:
    entry = f"m: {{engine: attach, url: '{url}', model: '{model}', {extra}}}"
    return f"models:\n  {entry}\n  n: {{engine: scripted, replies: [{{text: from n}}]}}\n"


SERVERS: dict[str, Callable[[], Double]] = {
    "ollama": lambda: ollama(OllamaModel("a", ("completion", "tools"))),
    "lm-studio": lambda: lm_studio({"id": "a", "type": "llm", "state": "loaded", "loaded_context_length": 4096}),
    "llama-server": lambda: llama_server("a"),
    "vllm": lambda: vllm("a"),
    "openai": lambda: plain("a"),
}


@pytest.mark.parametrize("kind", SERVERS)
async def test_each_kind_answers_whole_and_as_a_stream(serve: Serve, kind: str) -> None:
    async with serving(SERVERS[kind]()) as double:
        client = await serve(models(double.url), default=SINGLE)
        for stream in (False, True):
            reply = await client.chat(stream=stream, max_completion_tokens=5)
            assert (reply.status, reply.text) == (200, "Hello there")
            assert reply.gateway["usage"] == {"input_tokens": 9, "output_tokens": 3, "estimated": False}
            assert reply.headers["x-gateway-model"] == "m"
    for body in double.bodies:
        assert body["model"] == "a"
        limit = "max_tokens" if kind in ("ollama", "lm-studio") else "max_completion_tokens"
        assert body[limit] == 5
    assert double.bodies[0].get("stream", False) is (kind == "llama-server")


def calls_a_tool(body: Json) -> Reply:
    assert body["tools"][0]["function"]["name"] == "weather"
    call = {
        "id": "call_x",
        "index": 0,
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
    }
    return Reply(
        (chunk({"role": "assistant", "content": "", "tool_calls": [call]}), chunk({}, "tool_calls"), usage(), DONE)
    )


async def test_tools(serve: Serve) -> None:
    async with serving(ollama(OllamaModel("a", ("completion", "tools")), say=calls_a_tool)) as double:
        client = await serve(models(double.url), default=SINGLE)
        tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
        reply = await client.chat(tools=tools, tool_choice="required", stream=True)
        calls = [
            c for e in reply.events[:-1] for choice in e["choices"] for c in choice["delta"].get("tool_calls") or ()
        ]
        assert calls[0]["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
        assert reply.headers["x-gateway-dropped"] == "tool_choice"


def image(url: str) -> list[Json]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


INLINE = image("data:image/png;base64,iVBORw0KGgo=")


@pytest.mark.parametrize(("capabilities", "status"), [(("completion", "vision"), 200), (("completion",), 400)])
async def test_images_go_to_models_that_see(serve: Serve, capabilities: tuple[str, ...], status: int) -> None:
    async with serving(ollama(OllamaModel("a", capabilities))) as double:
        client = await serve(models(double.url), default=SINGLE)
        assert (await client.chat()).status == 200
        reply = await client.chat(messages=INLINE)
        assert reply.status == status
        if status == 400:
            assert reply.error["code"] == "unsupported_content"
        outward = await serve(models(double.url), default=CASCADE)
        assert (await outward.chat()).text == "Hello there"
        assert (await outward.chat(messages=INLINE)).text == ("Hello there" if status == 200 else "from n")


async def test_it_is_handed_no_addresses(serve: Serve) -> None:
    async with serving(plain("a")) as double:
        client = await serve(models(double.url), default=SINGLE)
        for _ in range(2):  # also before it is known what is there
            reply = await client.chat(messages=image("https://example.com/a.png"))
            assert (reply.status, reply.error["code"]) == (400, "unsupported_content")
        assert (await client.chat(messages=INLINE)).status == 200, "what a server does not tell is for it to say"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ollama(OllamaModel("a", ("embedding",))),
        lambda: lm_studio({"id": "a", "type": "embeddings", "state": "loaded"}),
    ],
    ids=["ollama", "lm-studio"],
)
async def test_a_model_for_vectors_embeds_and_does_not_chat(serve: Serve, make: Callable[[], Double]) -> None:
    double = make()
    double.posts["/v1/embeddings"] = {"data": [{"index": 0, "embedding": [0.5, 0.5]}], "usage": {"prompt_tokens": 2}}
    async with serving(double):
        client = await serve(models(double.url), default=SINGLE)
        for _ in range(2):  # also before it is known what is there
            reply = await client.call("POST", "/v1/embeddings", {"model": "m", "input": "hi"})
            assert (reply.status, reply.json["data"][0]["embedding"]) == (200, [0.5, 0.5])
        refused = await client.chat()
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "unsupported_chat", "model")
        shown = await client.call("POST", "/api/show", {"model": "m"})
        assert shown.json["capabilities"] == ["embedding"]
        outward = await serve(models(double.url), default=CASCADE)
        assert (await outward.chat()).headers["x-gateway-path"] == "m!no_chat,n"
    assert not double.bodies


async def eventually(ask: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await ask():
            await asyncio.sleep(0.05)


async def test_a_server_that_dies_is_left_out_and_used_again_when_it_is_back(serve: Serve) -> None:
    async with AsyncExitStack() as running:
        double = await running.enter_async_context(serving(ollama(OllamaModel("a"))))
        client = await serve(models(double.url), default=CASCADE)
        assert (await client.chat()).headers["x-gateway-model"] == "m"
        await running.aclose()
        dead = await client.chat()
        assert (dead.text, dead.headers["x-gateway-path"]) == ("from n", "m!unavailable,n")

        async def is_known() -> bool:
            return client.runtime.pool.states()["m"].stage is Stage.FAILED

        await eventually(is_known)
        started = time.monotonic()
        reply = await client.chat("hello", model="m")
        assert reply.status == 503 and time.monotonic() - started < 0.5, "nobody waits for what is away"
        assert "its server cannot be reached" in reply.error["message"] and str(double.port) not in reply.body.decode()
        assert int(reply.headers["retry-after"]) >= 1

        await running.enter_async_context(serving(ollama(OllamaModel("a")), double.port))

        async def is_back() -> bool:
            return (await client.chat()).headers["x-gateway-model"] == "m"

        await eventually(is_back)


async def test_a_server_that_dies_in_mid_stream_is_loud(serve: Serve) -> None:
    def cut(body: Json) -> Reply:
        return Reply((chunk({"content": "one"}),))

    async with serving(ollama(OllamaModel("a"), say=cut)) as double:
        client = await serve(models(double.url), default=CASCADE)
        reply = await client.chat(stream=True)
        assert "error" in reply.events[-1] and "from n" not in reply.text


async def test_a_model_that_is_not_there(serve: Serve) -> None:
    async with serving(ollama(OllamaModel("a"), OllamaModel("b"))) as double:
        client = await serve(models(double.url, "c"), default=SINGLE)
        reply = await client.chat()
        assert reply.status == 503
        assert "its server has no model 'c'; it has 'a', 'b'" in reply.error["message"]
        outward = await serve(models(double.url, "c"), default=CASCADE)
        assert (await outward.chat()).text == "from n"


async def test_the_gateway_is_ready_without_it(serve: Serve) -> None:
    client = await serve(models("http://127.0.0.1:9"), default=CASCADE)
    assert (await client.call("GET", "/readyz")).status == 200
    assert (await client.chat()).text == "from n"


async def test_places_are_as_many_as_the_server_has(serve: Serve) -> None:
    async with serving(llama_server("a", slots=3)) as double:
        client = await serve(models(double.url), default=SINGLE)
        await client.chat()
        assert client.runtime.pool.states()["m"].slots == 3
        stated = await serve(models(double.url, extra="slots: 1"), default=SINGLE)
        await stated.chat()
        assert stated.runtime.pool.states()["m"].slots == 1


async def test_the_leaf_knows_what_was_found(serve: Serve) -> None:
    async with serving(llama_server("a", context=8192)) as double:
        client = await serve(models(double.url), default=SINGLE)
        leaf: Any = client.gateway.models["m"].responder
        await client.chat()
        assert (leaf.facts.context, leaf.facts.provider.name) == (8192, "llama-server")
        stated: Any = (
            (await serve(models(double.url, extra="context: 512"), default=SINGLE)).gateway.models["m"].responder
        )
        assert stated.facts.context == 512, "also before it is asked"


async def test_the_price_that_a_server_lists_counts(serve: Serve) -> None:
    entry = {"id": "a", "pricing": {"prompt": "0.000001", "completion": "0.000002"}}
    async with serving(Double(gets={"/v1/models": listed(entry)}, say=plain().say)) as double:
        client = await serve(models(double.url), default=SINGLE)
        assert (await client.chat()).gateway["cost_usd"] == pytest.approx(15e-6)


async def test_another_gateway(serve: Serve) -> None:
    told = {"id": "a", "gateway": {"accepts": ["text"], "context": 2048}}
    async with serving(Double(gets={"/v1/models": listed(told, owner="onion-gateway")}, say=plain().say)) as double:
        client = await serve(models(double.url), default=SINGLE)
        assert (await client.chat(user="u", logit_bias={"1": 1})).status == 200
    assert double.bodies[0]["user"] == "u" and double.headers[0]["x-gateway-hops"] == "1"


@pytest.mark.parametrize(
    ("extra", "says"),
    [("kind: olama", "is not one of"), ("slots: 0", "greater than or equal"), ("base_url: x", "unknown key")],
)
def test_mistakes_in_the_entry_are_found(tmp_path: Path, extra: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        build_from(tmp_path, models("http://127.0.0.1:11434", extra=extra), default=SINGLE)


async def test_whoever_waits_for_the_first_look_is_judged_by_what_it_finds(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()
    double = ollama(OllamaModel("a"))
    answer = double.answer

    async def late(request: web.Request) -> web.StreamResponse:
        asked.set()
        await may_answer.wait()
        return await answer(request)

    monkeypatch.setattr(double, "answer", late)
    async with serving(double):
        client = await serve(models(double.url, extra="kind: ollama"), default=SINGLE)
        call = client.start_chat("word " * 30_000)

        async def waits() -> bool:
            return client.runtime.pool.states()["m"].waiting == 1

        await eventually(waits)
        await asked.wait()
        may_answer.set()
        reply = await call.done()
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded"), "Ollama would cut it off"
        assert double.bodies == []
