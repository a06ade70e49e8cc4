"""How prompts reach each kind of upstream, and what is read from what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.backends import litellm
from gateway.backends.completions import CompletionsWire, FimWire, InfillWire
from gateway.chat import ChatRequest, Extra
from gateway.prompts import as_chat, chat_logprobs, prompts_of, text_logprobs
from tests import servers
from tests.api.test_completions import BOTH_WAYS, complete, start, texts
from tests.conftest import Serve
from tests.upstream import SINGLE
from tests.vendors import Anthropic, Say, vendor

pytestmark = pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")
Json = dict[str, Any]
PREFIX, SUFFIX = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"


class Server:
    """Answers each POST with what `say` makes of its body: an object as JSON, a list as events, bytes among them as
    they are; None cuts the connection."""

    def __init__(self, say: Callable[[Json], Any]) -> None:
        self.say = say
        self.bodies: list[Json] = []
        self.paths: list[str] = []
        self.gone = asyncio.Event()
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        self.paths.append(request.path)
        said = self.say(body)
        if isinstance(said, tuple):
            return web.json_response(said[1], status=said[0])
        if not isinstance(said, list):
            return web.json_response(said)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for event in said:
                if event is None:
                    assert request.transport is not None
                    request.transport.abort()
                    break
                if event is ...:
                    await asyncio.Event().wait()
                await response.write(event if isinstance(event, bytes) else b"data: " + orjson.dumps(event) + b"\n\n")
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return response


@asynccontextmanager
async def serving(say: Callable[[Json], Any]) -> AsyncIterator[Server]:
    server = Server(say)
    app = web.Application()
    app.router.add_post("/{tail:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def models(server: Server, provider: str, more: str = "") -> str:
    return f"models: {{m1: {{engine: openai, provider: {provider}, base_url: '{server.url}', model: up{more}}}}}"


# --- OpenAI's form

LEGACY = {
    "tokens": [" a", " b"],
    "token_logprobs": [None, -0.25],
    "top_logprobs": [None, {" b": -0.25, " c": -2.0}],
    "text_offset": [11, 13],
}
DONE = b"data: [DONE]\n\n"


def completion(text: str = " a b", **choice: Any) -> Json:
    one = {"text": text, "index": 0, "logprobs": None, "finish_reason": "stop", **choice}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "up", "choices": [one], "usage": usage}


def event(text: Any, finish: str | None = None, index: int = 0, **more: Any) -> Json:
    choice = {"text": text, "index": index, "logprobs": more.pop("logprobs", None), "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "up", "choices": [choice], **more}


@pytest.mark.parametrize("provider", ["openai", "openrouter", "together", "vllm", "ollama", "lm-studio"])
async def test_the_path_and_the_body(serve: Serve, provider: str) -> None:
    async with serving(lambda body: completion()) as server:
        client = await serve(models(server, provider), default=SINGLE)
        reply = await complete(client, ["a"], suffix="z", stop=list("abcdef"), vendor={"x": 1})
        assert texts(reply) == {0: " a b"} and server.paths == ["/v1/completions"]
        wanted = {"model": "up", "prompt": ["a"], "suffix": "z", "stop": list("abcdef"), "vendor": {"x": 1}}
        assert server.bodies == [wanted]


async def test_defaults_of_chats_are_put_in_terms_of_prompts(serve: Serve) -> None:
    async with serving(lambda body: completion()) as server:
        defaults = ", defaults: {max_completion_tokens: 9, top_logprobs: 3, temperature: 0}"
        client = await serve(models(server, "openai", defaults), default=SINGLE)
        await complete(client, "a")
        assert server.bodies == [{"model": "up", "prompt": "a", "max_tokens": 9, "temperature": 0}]


async def test_logprobs_come_through_as_they_were(serve: Serve) -> None:
    async with serving(lambda body: completion(logprobs=LEGACY)) as server:
        client = await serve(models(server, "openai"), default=SINGLE)
        call = start(client, "x", logprobs=5, echo=True)
        await call.task  # not `done`: OpenAI's schema knows nothing of the null that OpenAI sends first
        assert call.response.json["choices"][0]["logprobs"] == LEGACY


def test_logprobs_there_and_back() -> None:
    there = chat_logprobs(LEGACY)
    assert [token["logprob"] for token in there["content"]] == [None, -0.25]
    assert text_logprobs(there["content"], 5, 0) == (LEGACY, 15)
    assert chat_logprobs({"tokens": None}) == {"content": [], "refusal": None}
    assert chat_logprobs({"content": [1]}) == {"content": [1]}
    assert text_logprobs([1, {"token": "é"}, {}], 1, 4)[0]["text_offset"] == [4, 5]
    many = [{"token": "a", "top_logprobs": [{"token": str(i), "logprob": -i} for i in range(9)]}]
    assert len(text_logprobs(many, 2, 0)[0]["top_logprobs"][0]) == 3, "so many, and the one that was chosen"


async def test_what_is_odd_in_streams_is_read(serve: Serve) -> None:
    said = [
        b"data: null\n\n",
        event(None),
        event("a"),
        {**event("b"), "choices": [{"text": "b", "index": 0}]},
        event("", "stop", usage=None),
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
        DONE,
    ]
    async with serving(lambda body: said) as server:
        client = await serve(models(server, "openai"), default=SINGLE)
        reply = await complete(client, "x", stream=True, stream_options={"include_usage": True})
        assert texts(reply) == {0: "ab"} and reply.events[-2]["usage"]["total_tokens"] == 3


async def test_a_chat_at_the_path_of_completions_is_read(serve: Serve) -> None:
    async with serving(lambda body: servers.whole("hello")) as server:
        assert texts(await complete(await serve(models(server, "openai"), default=SINGLE))) == {0: "hello"}


@BOTH_WAYS
@pytest.mark.parametrize(
    "said",
    [
        {"nonsense": 1},
        {"choices": [{"text": 7}]},
        {"choices": [7]},
        {"choices": 7},
        [],
        7,
        {"choices": [{"text": "x", "logprobs": 3}]},
    ],
)
async def test_nonsense_is_a_bad_reply(serve: Serve, said: Any, stream: bool) -> None:
    async with serving(lambda body: [said, DONE] if stream else (200, said)) as server:
        reply = await complete(await serve(models(server, "openai"), default=SINGLE), stream=stream)
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")


async def test_a_server_without_the_path_gives_its_own_error(serve: Serve) -> None:
    async with serving(lambda body: (404, {"error": {"message": "Not Found"}})) as server:
        reply = await complete(await serve(models(server, "openai"), default=SINGLE))
        assert (reply.status, reply.error["message"]) == (404, "model 'm1': Not Found")


def test_prompts() -> None:
    assert prompts_of({"prompt": "a"}) == ["a"] and prompts_of({"prompt": [1, 2]}) == [[1, 2]]
    assert prompts_of({"prompt": ["a", "b"]}) == ["a", "b"] and prompts_of({"prompt": [[1], [2]]}) == [[1], [2]]
    assert prompts_of({"prompt": 7}) == prompts_of({"prompt": []}) == prompts_of({}) == []
    assert as_chat({"error": 1}, "delta") == {"error": 1}


# --- Mistral's


@BOTH_WAYS
async def test_mistral_fills_in_at_a_path_of_its_own(serve: Serve, stream: bool) -> None:
    async with serving(lambda body: list(servers.saying().chunks) if stream else servers.whole()) as server:
        client = await serve(models(server, "mistral"), default=SINGLE)
        reply = await complete(
            client, PREFIX, suffix=SUFFIX, stream=stream, seed=7, min_tokens=2, max_tokens=9, n=1, user="me", echo=False
        )
        assert texts(reply) == {0: "Hello there"} and "x-gateway-dropped" not in str(server.bodies)
        assert server.paths == ["/v1/fim/completions"]
        sent = {"model": "up", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 9, "min_tokens": 2, "random_seed": 7}
        assert server.bodies == [{**sent, "stream": stream}]


async def test_what_mistral_does_not_take(serve: Serve) -> None:
    async with serving(lambda body: servers.whole()) as server:
        client = await serve(models(server, "mistral"), default=SINGLE)
        reply = await complete(client, "a", n=2, logprobs=1, echo=True, presence_penalty=1)
        assert server.bodies == [{"model": "up", "prompt": "a"}]
        assert set(reply.headers["x-gateway-dropped"].split(",")) == {"n", "logprobs", "echo", "presence_penalty"}
        for prompt in ([1, 2], ["a", "b"]):
            refused = await complete(client, prompt)
            assert (refused.status, refused.error["param"]) == (400, "prompt")


# --- llama.cpp's server

PROBABILITIES = [{"id": 1, "token": "return", "bytes": [114], "logprob": -0.5, "top_logprobs": []}]


def native(content: str, stop: str = "", index: int = 0, **more: Any) -> Json:
    """As `/infill` and `/completion` write it, cut down."""
    head = {"index": index, "content": content, "tokens": [1], "stop": bool(stop), "id_slot": -1}
    counts = {"tokens_predicted": 4, "tokens_evaluated": 21}
    return {**head, **counts, **({"stop_type": stop, "stopping_word": ""} if stop else {}), **more}


FILLED = [native("return", completion_probabilities=PROBABILITIES), native(" a + b"), native("", "limit")]


@BOTH_WAYS
async def test_a_suffix_goes_to_infill(serve: Serve, stream: bool) -> None:
    async with serving(lambda body: FILLED) as server:
        client = await serve(models(server, "llama-server"), default=SINGLE)
        reply = await complete(
            client,
            PREFIX,
            suffix=SUFFIX,
            stream=stream,
            stream_options={"include_usage": True},
            max_tokens=4,
            stop="\n",
            seed=7,
            logprobs=0,
            echo=True,
            best_of=None,
            input_extra=[{"filename": "a.py", "text": "x"}],
        )
        assert texts(reply) == {0: "return a + b"} and server.paths == ["/infill"]
        (body,) = server.bodies
        assert body == {
            "model": "up",
            "input_prefix": PREFIX,
            "input_suffix": SUFFIX,
            "stream": True,
            "n_predict": 4,
            "stop": ["\n"],
            "seed": 7,
            "n_probs": 1,
            "input_extra": [{"filename": "a.py", "text": "x"}],
        }
        last = reply.events[-3] if stream else reply.json
        assert last["choices"][0]["finish_reason"] == "length" and last["gateway"]["dropped"] == ["echo"]
        usage = reply.events[-2]["usage"] if stream else reply.json["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (21, 4, 25)
        first = (reply.events[0] if stream else reply.json)["choices"][0]
        assert first["logprobs"]["tokens"] == ["return"]


async def test_infill_ends_where_its_choices_have_ended(serve: Serve) -> None:
    said = [native("a", "eos"), native("b", index=1), native("", "word", 1), ...]
    async with serving(lambda body: said) as server:
        client = await serve(models(server, "llama-server"), default=SINGLE)
        reply = await complete(client, "x", suffix="y", n=2)
        assert texts(reply) == {0: "a", 1: "b"}
        assert [choice["finish_reason"] for choice in reply.json["choices"]] == ["stop", "stop"]
        assert reply.json["usage"]["prompt_tokens"] == 21 and reply.json["usage"]["completion_tokens"] == 8


async def test_infill_that_is_answered_whole(serve: Serve) -> None:
    for said in (native("a", "eos"), [native("a", "eos")]):
        async with serving(lambda body, said=said: (200, said)) as server:  # type: ignore[misc]
            client = await serve(models(server, "llama-server"), default=SINGLE)
            for stream in (False, True):
                assert texts(await complete(client, "x", suffix="y", stream=stream)) == {0: "a"}


@BOTH_WAYS
async def test_a_model_that_cannot_fill_in(serve: Serve, stream: bool) -> None:
    error = {"code": 501, "message": "Infill is not supported by this model", "type": "not_supported_error"}
    async with serving(lambda body: (501, {"error": error})) as server:
        client = await serve(models(server, "llama-server"), default=SINGLE)
        reply = await complete(client, "x", suffix="y", stream=stream)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_prompt", "suffix")
        assert reply.error["message"] == "model 'm1': Infill is not supported by this model"


async def test_infill_takes_one_text(serve: Serve) -> None:
    async with serving(lambda body: FILLED) as server:
        client = await serve(models(server, "llama-server"), default=SINGLE)
        for prompt in ([1, 2], ["a", "b"]):
            reply = await complete(client, prompt, suffix="y")
            assert (reply.status, reply.error["param"]) == (400, "prompt")
        assert texts(await complete(client, ["a"], suffix="y")) == {0: "return a + b"}
        assert server.bodies[0]["input_prefix"] == "a"


@pytest.mark.parametrize(
    "said",
    [
        [None],
        [],
        [{"error": {"code": 500, "message": "slot died", "type": "server_error"}}],
        [b"data: {\n\n"],
        [{"content": 7}],
    ],
    ids=["cut", "ended", "error", "no JSON", "nonsense"],
)
async def test_infill_that_breaks_off(serve: Serve, said: list[Any]) -> None:
    async with serving(lambda body: said) as server:
        client = await serve(models(server, "llama-server"), default=SINGLE)
        reply = await complete(client, "x", suffix="y", stream=True)
        assert reply.status >= 500 and reply.error["message"]
    async with serving(lambda body: [native("one"), *said]) as server:
        client = await serve(models(server, "llama-server"), default=SINGLE)
        reply = await complete(client, "x", suffix="y", stream=True)
        if said:
            assert reply.status == 200 and reply.events[-1]["error"]["message"], "and no [DONE]"


@BOTH_WAYS
async def test_a_client_that_leaves_ends_infill(serve: Serve, stream: bool) -> None:
    async with serving(lambda body: [native("one"), ...]) as server:
        call = start(await serve(models(server, "llama-server"), default=SINGLE), "x", suffix="y", stream=stream)
        async with asyncio.timeout(10):
            while not server.bodies:
                await asyncio.sleep(0.01)
            if stream:
                await call.wrote.wait()
            call.leave()
            await call.done()
            await server.gone.wait()


async def test_an_attached_llama_server_fills_in(serve: Serve) -> None:
    double = servers.llama_server("up")
    said = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in FILLED)
    double.posts = {
        "/infill": lambda body: web.Response(body=said, content_type="text/event-stream"),
        "/tokenize": lambda body: {"tokens": [1] * len(body["content"])},
    }
    async with servers.serving(double):
        client = await serve(f"models: {{m1: {{engine: attach, url: '{double.url}', model: up}}}}", default=SINGLE)
        assert texts(await complete(client, "x", suffix="y")) == {0: "return a + b"}
        assert "POST /infill" in double.seen


def counted(text: str, finish: str | None = None, index: int = 0, **usage: int) -> Json:
    return event(text, finish, index, **({"usage": usage} if usage else {}))


@BOTH_WAYS
async def test_usage_that_comes_choice_by_choice_is_added_up(serve: Serve, stream: bool) -> None:
    """As recorded from llama-server: a `null` first, usage with each choice's end, choices in any order."""
    said = [
        b"data: null\n\n",
        counted("a", index=2),
        counted("b", index=0),
        counted("", "length", 2, prompt_tokens=5, completion_tokens=2),
        counted("c", index=1),
        counted("d", index=3),
        counted("", "length", 0, prompt_tokens=3, completion_tokens=1),
        counted("", "length", 1, prompt_tokens=3, completion_tokens=4),
        counted("", "stop", 3, prompt_tokens=5, completion_tokens=8),
        DONE,
    ]
    async with serving(lambda body: said) as server:
        client = await serve(models(server, "llama-server"), default=SINGLE)
        options = {"include_usage": True}
        reply = await complete(client, ["x", "y"], n=2, best_of=2, echo=True, stream=stream, stream_options=options)
        assert texts(reply) == {0: "b", 1: "c", 2: "a", 3: "d"}
        usage = reply.events[-2]["usage"] if stream else reply.json["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (8, 15)
        assert reply.gateway["dropped"] == ["echo"], "llama.cpp ignores it"
        assert server.paths == ["/v1/completions"] and server.bodies[0]["best_of"] == 2


def test_llama_cpp_knows_no_logprobs_of_zero() -> None:
    def asked(wire: CompletionsWire, **fields: Any) -> Any:
        body = {"prompt": "x", **fields}
        return wire.ask(body, ChatRequest(body))[0].get("logprobs")

    llama, other = CompletionsWire(of_llama_cpp=True), CompletionsWire()
    assert [asked(llama, logprobs=value) for value in (0, 1, 5, True, False, None)] == [1, 1, 5, 1, None, None]
    assert [asked(other, logprobs=value) for value in (0, 1, True, False)] == [0, 1, 1, None]
    assert asked(llama) is None


def test_what_the_clients_own_dialect_lost_is_named() -> None:
    body = {"prompt": "x", "suffix": "y", "echo": True}
    request = ChatRequest(body, extra=Extra("ollama", body, ("keep_alive",)))
    for wire, lost in (
        (CompletionsWire(), ("keep_alive",)),
        (InfillWire("m"), ("echo", "keep_alive")),
        (FimWire("m"), ("echo", "keep_alive")),
    ):
        assert wire.ask(body, request)[1] == lost


# --- models that take chats alone


@BOTH_WAYS
async def test_a_plain_prompt_is_said_to_a_model_that_takes_chats(serve: Serve, stream: bool) -> None:
    async with vendor(Anthropic, Say()) as server:
        entry = f"{{engine: litellm, model: {Anthropic.model}, base_url: '{server.url}', api_key: k}}"
        client = await serve(f"models: {{m1: {entry}}}", default=SINGLE)
        reply = await complete(client, ["Hello?"], stream=stream, max_tokens=9, best_of=1, suffix="", echo=False)
        assert texts(reply) == {0: "Hello there"} and reply.status == 200
        (body,) = server.requests
        assert body["messages"][0]["role"] == "user" and "Hello?" in str(body["messages"])
        assert body["max_tokens"] == 9 and "prompt" not in body


@pytest.mark.parametrize(
    ("prompt", "fields", "param"),
    [
        ([1, 2], {}, "prompt"),
        (["a", "b"], {}, "prompt"),
        ("a", {"suffix": "z"}, "suffix"),
        ("a", {"echo": True}, "echo"),
        ("a", {"best_of": 2}, "best_of"),
    ],
)
async def test_what_a_chat_has_no_place_for_is_refused(serve: Serve, prompt: Any, fields: Json, param: str) -> None:
    two = """
    models:
      m1: {engine: litellm, model: anthropic/claude-sonnet-4-5, base_url: 'http://127.0.0.1:9', api_key: k}
      m2: {engine: scripted, replies: [{text: from the next}]}
    """
    outward = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: m1}, {model: m2}]}}]\n"
    client = await serve(two, default=outward)
    body = {"model": "m1", "prompt": prompt, **fields}
    reply = await client.call("POST", "/v1/completions", body)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_prompt", param)
    assert "takes chats" in reply.error["message"]
    moved = await complete(client, prompt, **fields)
    assert moved.gateway["path"] == "m1!prompt,m2"
