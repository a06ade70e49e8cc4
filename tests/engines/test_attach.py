"""A server that somebody else runs: asked what it has, watched, and used while it is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.engines import State
from gateway.engines.attach import AttachedServer, AttachSettings, Rhythm
from gateway.transport.aiohttp_client import AiohttpClient
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

QUICK = Rhythm(up_s=0.03, first_retry_s=0.02, longest_retry_s=0.05, answer_s=0.5, late_answer_s=1, least_s=0)
SLOW = replace(QUICK, up_s=3600, whole_s=3600)


class Watched(AttachedServer):
    """One whose changes can be waited for."""

    def __init__(self, settings: AttachSettings, client: AiohttpClient) -> None:
        self._changed = asyncio.Event()
        self.states: list[State] = []
        super().__init__(settings, client, self._note_change)

    def _note_change(self) -> None:
        self.states.append(self.state)
        self._changed.set()

    async def until(self, condition: Callable[[Watched], object]) -> None:
        async with asyncio.timeout(10):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()


Watch = Callable[..., Watched]


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    """`server = watch(url, model, …)`; started, and stopped after the test."""
    client, watched = AiohttpClient(), []

    def make(url: str, model: str, rhythm: Rhythm = QUICK, **more: Any) -> Watched:
        settings = AttachSettings(name="m", url=url, model=model, rhythm=rhythm, **more)
        watched.append(Watched(settings, client))
        watched[-1].start()
        return watched[-1]

    yield make
    for server in watched:
        await server.stop()
    await client.close()


def is_ready(server: Watched) -> bool:
    return server.state is State.READY


def has_failed(server: Watched) -> bool:
    return server.state is State.FAILED


async def test_it_is_ready_once_it_has_the_model(watch: Watch) -> None:
    async with serving(llama_server("qwen", slots=4, context=8192, vision=True)) as double:
        server = watch(double.url, "qwen", key="k")
        await server.until(is_ready)
        assert server.lease is not None and server.found is not None
        assert (server.lease.url, server.lease.key, server.lease.id) == (f"{double.url}/v1", "k", "qwen")
        assert (server.found.slots, server.found.models[0].context) == (4, 8192)
        assert server.found.models[0].accepts == {"text", "image"}
        assert server.states == [State.STARTING, State.READY]


async def test_what_the_file_says_counts_more(watch: Watch) -> None:
    async with serving(llama_server("qwen", slots=4, context=8192, vision=True)) as double:
        said = {"own_slots": 2, "context": 1000, "accepts": frozenset({"text"})}
        server = watch(double.url, "qwen", **said)
        await server.until(is_ready)
        assert server.found is not None
        assert (server.found.slots, server.found.models[0].context) == (2, 1000)
        assert server.found.models[0].accepts == {"text"}


async def test_a_missing_model_is_told_with_those_that_are_there(watch: Watch) -> None:
    async with serving(plain(*(f"m{i}" for i in range(15)))) as double:
        server = watch(double.url, "gone")
        await server.until(has_failed)
        assert server.last_error is not None
        assert server.last_error.startswith("its server has no model 'gone'; it has 'm0', 'm1', ")
        assert server.last_error.endswith("'m11' and 3 more")
        assert server.lease is None and server.found is None
        double.gets["/v1/models"] = listed({"id": "gone"})
        await server.until(is_ready)


@pytest.mark.parametrize(
    ("double", "key", "why"),
    [
        (plain(), None, "its server has no model 'a'; it has none"),
        (plain("a", key="right"), "wrong", "its server refuses the key"),
        (ollama(OllamaModel("a", ("embedding",))), None, "its server has 'a', which does not chat"),
        (Double(anything=500), None, "its server lists no models (HTTP 500)"),
        (Double(stall=True), None, "its server did not answer within 0.5 s"),
    ],
)
async def test_why_it_cannot_be_used(watch: Watch, double: Double, key: str | None, why: str) -> None:
    async with serving(double):
        server = watch(double.url, "a", key=key)
        await server.until(has_failed)
        assert server.last_error == why
        assert server.resumes_at is not None and server.resumes_at <= time.monotonic() + QUICK.longest_retry_s


async def test_ollama_takes_a_name_without_its_tag(watch: Watch) -> None:
    async with serving(ollama(OllamaModel("llama3.2:latest"))) as double:
        server = watch(double.url, "llama3.2")
        await server.until(is_ready)
        assert server.lease is not None and server.lease.id == "llama3.2:latest"


async def test_it_goes_and_comes_back(watch: Watch) -> None:
    double = vllm("a")
    async with serving(double):
        server = watch(double.url, "a")
        await server.until(is_ready)
        port = double.port
    await server.until(has_failed)
    assert (server.lease, server.last_error, server.restarts) == (None, "its server cannot be reached", 0)
    async with serving(vllm("a"), port):
        await server.until(is_ready)
        assert server.restarts == 1 and server.resumes_at is None


async def test_later_questions_are_few(watch: Watch) -> None:
    async with serving(ollama(OllamaModel("a"))) as double:
        server = watch(double.url, "a", replace(QUICK, whole_s=3600))
        await server.until(is_ready)
        double.seen.clear()
        double.gets["/api/ps"] = {"models": [{"name": "a", "context_length": 32768}]}
        await server.until(lambda s: s.found is not None and s.found.models[0].context == 32768)
        assert set(double.seen) == {"GET /api/ps"}


async def test_now_and_then_everything_is_asked(watch: Watch) -> None:
    models = [OllamaModel("a")]
    async with serving(ollama(*models)) as double:
        server = watch(double.url, "a", replace(QUICK, whole_s=0.05))
        await server.until(is_ready)
        double.gets["/api/tags"] = {"models": []}
        await server.until(has_failed)
        assert server.last_error == "its server has no model 'a'; it has none"


async def test_a_failed_request_makes_it_look_at_once(watch: Watch) -> None:
    double = plain("a")
    async with serving(double):
        server = watch(double.url, "a", SLOW)
        await server.until(is_ready)
    server.doubt()
    await server.until(has_failed)


async def test_one_late_answer_is_forgiven(watch: Watch) -> None:
    double = plain("a")
    async with serving(double):
        server = watch(double.url, "a", replace(SLOW, answer_s=0.1, late_answer_s=5))
        await server.until(is_ready)
        list_of = double.gets["/v1/models"]
        asked: list[int] = []

        def late(body: Json) -> Any:
            asked.append(1)
            if len(asked) == 1:
                time.sleep(0.3)  # the double stands still, as a server does that computes on its only thread
            return list_of

        double.gets["/v1/models"] = late
        server.doubt()
        async with asyncio.timeout(5):
            while len(asked) < 2:
                await asyncio.sleep(0.01)
        assert server.states == [State.STARTING, State.READY]


async def test_stopping_is_prompt_also_in_the_middle_of_a_question(watch: Watch) -> None:
    async with serving(Double(stall=True)) as double:
        server = watch(double.url, "a", replace(QUICK, answer_s=3600))
        async with asyncio.timeout(5):
            while not double.seen:
                await asyncio.sleep(0.01)
            await server.stop()
        assert (server.state, server.lease) == (State.STOPPED, None)


async def test_whatever_goes_wrong_it_goes_on(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: Any, **more: Any) -> None:
        raise LookupError("a bug")

    async with serving(plain("a")) as double:
        with monkeypatch.context() as patch:
            patch.setattr("gateway.engines.attach.probe", broken)
            server = watch(double.url, "a")
            await server.until(has_failed)
            assert server.last_error == "its server cannot be asked"
        await server.until(is_ready)


def test_settings_do_not_show_the_key() -> None:
    settings = AttachSettings(name="m", url="http://x", model="a", key="secret")
    assert "secret" not in repr(settings) and hash(settings) == hash(replace(settings))


# --- the gateway attached

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
    async with serving(ollama(OllamaModel("a"), say=calls_a_tool)) as double:
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
            return client.runtime.pool.states()["m"].state is State.FAILED

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
