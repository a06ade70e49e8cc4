"""`/v1/completions`: what is taken, what is written, and that all else is as for a chat."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from tests.asgi import Call, Client, Response
from tests.conftest import SHARED, Serve
from tests.upstream import CASCADE, SINGLE, pointing_at, upstream

PATH = "/v1/completions"
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True])
REPLY = {"text": "there was a king", "logprobs": -0.5}
SCRIPTED = """
models:
  m1: {engine: scripted, replies: [{text: there was a king, logprobs: -0.5}]}
"""


def start(client: Client, prompt: Any = "Once upon a time ", **fields: Any) -> Call:
    return client.start("POST", PATH, {"model": "auto", "prompt": prompt, **fields})


async def complete(client: Client, prompt: Any = "Once upon a time ", **fields: Any) -> Response:
    return await start(client, prompt, **fields).done()


def texts(reply: Response) -> dict[int, str]:
    """By choice, of a stream or a whole answer."""
    is_stream = reply.headers["content-type"].startswith("text/event-stream")
    objects = [event for event in reply.events if event != "[DONE]"] if is_stream else [reply.json]
    out: dict[int, str] = {}
    for said in objects:
        for choice in said["choices"]:
            assert isinstance(choice["text"], str) and {"logprobs", "index", "finish_reason"} <= choice.keys()
            out[choice["index"]] = out.get(choice["index"], "") + choice["text"]
    return out


# --- what is written


async def test_a_whole_completion(serve: Serve) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    reply = await complete(client)
    assert reply.status == 200 and texts(reply) == {0: "there was a king"}
    assert reply.json["id"] == f"cmpl-{reply.headers['x-gateway-trace']}"
    assert (reply.json["object"], reply.json["model"]) == ("text_completion", "m1")
    assert reply.json["choices"][0] == {
        "text": "there was a king",
        "index": 0,
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert reply.json["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert reply.gateway["model"] == "m1" and reply.gateway["usage"]["input_tokens"] == 5


async def test_a_stream(serve: Serve) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    reply = await complete(client, stream=True)
    assert reply.events[-1] == "[DONE]" and texts(reply) == {0: "there was a king"}
    chunks = reply.events[:-1]
    assert {(c["id"], c["object"]) for c in chunks} == {(f"cmpl-{reply.headers['x-gateway-trace']}", "text_completion")}
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 4 + ["stop"]
    assert "gateway" in chunks[-1] and not any("usage" in chunk for chunk in chunks)


async def test_usage_comes_last_and_only_where_it_is_asked_for(serve: Serve) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    reply = await complete(client, stream=True, stream_options={"include_usage": True})
    *chunks, last, done = reply.events
    assert done == "[DONE]" and last["choices"] == [] and last["usage"]["total_tokens"] == 9
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)


@BOTH_WAYS
async def test_choices_are_numbered_over_prompts_and_n(serve: Serve, stream: bool) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    reply = await complete(client, ["One. ", "Two. "], n=2, echo=True, stream=stream)
    tail = "there was a king"
    assert texts(reply) == {0: f"One. {tail}", 1: f"One. {tail}", 2: f"Two. {tail}", 3: f"Two. {tail}"}


@BOTH_WAYS
@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5, 6, 7]], [[5], [6, 7]]])
async def test_token_ids(serve: Serve, prompt: Any, stream: bool) -> None:
    async with upstream(REPLY) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        reply = await complete(client, prompt, stream=stream)
        assert len(texts(reply)) == (1 if prompt[0] == 5 or len(prompt) == 1 else 2)
        assert server.script.requests[0]["prompt"] == prompt
        assert reply.gateway["usage"]["input_tokens"] == 3


@BOTH_WAYS
async def test_logprobs_are_lists_by_kind(serve: Serve, stream: bool) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    reply = await complete(client, "Once ", logprobs=2, stream=stream)
    parts = [event["choices"][0]["logprobs"] for event in reply.events[:-2]] if stream else []
    whole = parts or [reply.json["choices"][0]["logprobs"]]
    joined = {name: [value for part in whole for value in part[name]] for name in whole[0]}
    assert joined == {
        "tokens": ["there", " was", " a", " king"],
        "token_logprobs": [-0.5] * 4,
        "top_logprobs": [{}] * 4,
        "text_offset": [5, 10, 14, 16],  # from the prompt's beginning
    }


async def test_logprobs_of_the_chosen_tokens_alone(serve: Serve) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    logprobs = (await complete(client, logprobs=0)).json["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [-0.5] * 4 and logprobs["top_logprobs"] is None


async def test_text_is_never_null(serve: Serve) -> None:
    client = await serve("models: {m1: {engine: scripted, replies: [{tool_calls: [{name: f}]}]}}", default=SINGLE)
    reply = await complete(client, stream=True)
    assert texts(reply) == {0: ""} and reply.events[-2]["choices"][0]["finish_reason"] == "stop"


# --- what is taken


async def test_fields_known_and_unknown_go_along(serve: Serve) -> None:
    fields = {
        "suffix": " the end",
        "echo": False,
        "best_of": 3,
        "n": 2,
        "logprobs": 5,
        "stop": ["a", "b", "c", "d", "e", "f"],
        "max_tokens": 0,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "logit_bias": {"50256": -100},
        "user": "me",
        "min_p": 0.1,
        "vendor": {"x": [1]},
    }
    async with upstream(REPLY) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        reply = await complete(client, **fields)
        assert reply.status == 200
        assert server.script.requests == [{"model": "up", "prompt": "Once upon a time ", **fields}]


async def test_nulls_are_as_good_as_absent(serve: Serve) -> None:
    names = "suffix echo best_of n logprobs stop max_tokens temperature seed logit_bias user stream stream_options"
    client = await serve(SCRIPTED, default=SINGLE)
    assert (await complete(client, **dict.fromkeys(names.split()))).status == 200


@SHARED
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [{"text": "a"}]}, "prompt"),
        ({"prompt": ["a"] * 3000}, "prompt"),
        ({"model": None}, "model"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages"),
        ({"suffix": 1}, "suffix"),
        ({"echo": "yes"}, "echo"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"n": 0}, "n"),
        ({"n": "2"}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": "1"}, "top_p"),
        ({"stop": [1]}, "stop"),
        ({"stop": {}}, "stop"),
        ({"logit_bias": []}, "logit_bias"),
        ({"user": 1}, "user"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
    ],
)
async def test_wrong_types_and_ranges_are_refused(shared: Serve, fields: dict[str, Any], param: str) -> None:
    client = await shared(SCRIPTED, default=SINGLE)
    reply = await client.call("POST", PATH, {"model": "auto", "prompt": "hi", **fields})
    assert (reply.status, reply.error["type"], reply.error["param"]) == (400, "invalid_request_error", param)


async def test_best_of_that_leaves_no_choice_may_be_streamed(serve: Serve) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    assert (await complete(client, best_of=1, stream=True)).status == 200


async def test_paths_and_methods(serve: Serve) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    body = {"prompt": "hi"}
    assert (await client.call("POST", "/completions", {**body, "model": "auto"})).status == 200
    assert (await client.call("POST", "/openai/deployments/m1/completions?api-version=1", body)).status == 200
    assert (await client.call("GET", PATH)).status == 405


# --- policies

ROUTES = """
policy: default
routes:
  - {name: code, when: {has: code}, answer: {model: code}}
  - {name: chores, when: {background: true}, answer: {model: code}}
  - {name: french, when: {language: fr}, answer: {model: french}}
  - {name: words, when: {keywords: [urgent]}, answer: {model: words}}
  - {name: long, when: {all: [{input_tokens: {above: 500}}, {turns: 1}]}, answer: {model: long}}
  - {name: rest, when: {regex: "^Once"}, answer: {model: rest}}
"""
MODELS = "models:\n" + "".join(
    f"  {name}: {{engine: scripted, replies: [{{text: x}}]}}\n" for name in ("code", "french", "words", "long", "rest")
)


@pytest.mark.parametrize(
    ("prompt", "route"),
    [
        ("def f(x):\n    y = x + 1\n    return y;\n", "code"),
        ("Il était une fois un roi qui vivait dans un grand château avec ses trois filles.", "french"),
        (["Something", "This is urgent!"], "words"),
        ([7] * 501, "long"),
        ("word " * 2600, "long"),
        ("Once upon", "rest"),
    ],
)
async def test_signals_read_prompts(serve: Serve, prompt: Any, route: str) -> None:
    client = await serve(MODELS, default=ROUTES)
    reply = await complete(client, prompt)
    assert (reply.status, reply.gateway["route"]) == (200, route)
    explained = await client.call("POST", "/v1/route/explain", {"model": "auto", "prompt": prompt})
    assert (explained.status, explained.json["route"]) == (200, route)


CHECKED = """
policy: default
routes:
  - name: all
    answer: {cascade: [{model: m1, checks: [not_empty, finish_reason, no_loop, not_echo, {length: {max_words: 50}},
                        not_refusal, language]}, {model: m2}]}
"""
QUESTION = "What is the tallest mountain of them all, and who was the first to climb it? "


@BOTH_WAYS
@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("", "m1!not_empty,m2"),
        ("again and again and " * 100, "m1!no_loop,m2"),
        (QUESTION, "m1!not_echo,m2"),
        (" ".join(f"word{i}" for i in range(60)), "m1!length,m2"),
        ("I'm sorry, but I cannot help with that.", "m1!not_refusal,m2"),
        ("the first to climb it? " * 2 + "It is the tallest mountain of them all.", "m1"),
    ],
)
async def test_checks_judge_what_goes_on(serve: Serve, said: str, path: str, stream: bool) -> None:
    async with upstream({"text": said}) as small, upstream({"text": "Everest."}) as large:
        client = await serve(pointing_at(small, large), default=CHECKED)
        for echo in (False, True):
            reply = await complete(client, QUESTION, stream=stream, echo=echo)
            assert reply.gateway["path"] == path
            assert texts(reply) == {0: (QUESTION if echo else "") + (said if path == "m1" else "Everest.")}


@BOTH_WAYS
async def test_logprobs_that_a_check_asks_for_are_hidden(serve: Serve, stream: bool) -> None:
    policy = SINGLE.replace("model: m1", "model: m1, checks: [{logprob: {mean_above: -1}}]")
    async with upstream(REPLY) as server:
        client = await serve(pointing_at(server), default=policy)
        reply = await complete(client, stream=stream)
        assert "checks_failed" not in reply.gateway and b'"token_logprobs"' not in reply.body
        assert server.script.requests[0]["logprobs"] == 1, "an integer, unlike in a chat"
        shown = await complete(client, stream=stream, logprobs=0)
        assert b'"token_logprobs"' in shown.body and server.script.requests[1]["logprobs"] == 0


async def test_a_prompt_each_has_the_context_to_itself(serve: Serve) -> None:
    models = "models: {m1: {engine: scripted, context: 120, replies: [{text: x}]}}"
    client = await serve(models, default=SINGLE)
    assert (await complete(client, ["word " * 60] * 4)).status == 200
    for prompt in ("word " * 300, ["a", "word " * 300], [5] * 300):
        reply = await complete(client, prompt)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "context_length_exceeded", "prompt")
        assert "shorten the prompt" in reply.error["message"]


async def test_feedback_takes_a_completions_id(serve: Serve) -> None:
    client = await serve(SCRIPTED, default=SINGLE)
    done = await complete(client)
    reply = await client.call("POST", "/v1/feedback", {"id": done.json["id"], "value": True})
    assert (reply.status, reply.json["trace"]) == (201, done.headers["x-gateway-trace"])


# --- what goes wrong


@BOTH_WAYS
@pytest.mark.parametrize(("status", "kind"), [(400, None), (429, "rate_limit_error"), (500, None)])
async def test_an_upstreams_error_is_passed_on(serve: Serve, status: int, kind: str | None, stream: bool) -> None:
    error = {"status": status, "message": "no", "type": kind, "headers": {"retry-after": "7"}}
    async with upstream({"error": error}) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        reply = await complete(client, stream=stream)
        assert reply.status == status and "no" in reply.error["message"]
        assert reply.headers["retry-after"] == "7"


async def test_a_full_context_is_the_prompts_fault(serve: Serve) -> None:
    error = {"status": 400, "message": "This model's maximum context length is 10 tokens"}
    async with upstream({"error": error}) as server:
        reply = await complete(await serve(pointing_at(server), default=SINGLE))
        assert (reply.error["code"], reply.error["param"]) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    "fault",
    [
        {"text": "one two three", "cut_after": 1},
        {"text": "one two three", "malformed_after": 1},
        {"text": "one two three", "error_after": 2},
        {"text": "one two three", "cut_after": 3},
    ],
)
async def test_after_the_first_word_an_error_is_loud(serve: Serve, fault: dict[str, Any]) -> None:
    policy = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: m1}, {model: m2}]}}]\n"
    async with upstream(fault) as bad, upstream(REPLY) as good:
        reply = await complete(await serve(pointing_at(bad, good), default=policy), stream=True)
        assert reply.status == 200 and reply.events[-1]["error"]["message"], "and no [DONE]"
        assert not any(c.get("finish_reason") for e in reply.events for c in e.get("choices", ()))
        assert good.script.requests == []


@BOTH_WAYS
@pytest.mark.parametrize("fault", [{"cut_after": 0, "text": "x"}, {"text": ""}, {"error": {"status": 503}}])
async def test_before_the_first_word_faults_move_outward(serve: Serve, fault: dict[str, Any], stream: bool) -> None:
    async with upstream(fault) as bad, upstream(REPLY) as good:
        reply = await complete(await serve(pointing_at(bad, good), default=CASCADE), stream=stream)
        assert texts(reply) == {0: "there was a king"} and reply.headers["x-gateway-path"].startswith("m1!")


@BOTH_WAYS
async def test_a_client_that_leaves_ends_the_call(serve: Serve, stream: bool) -> None:
    async with upstream({"text": "one two", "between_ms": 60_000}) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        call = start(client, stream=stream)
        async with asyncio.timeout(10):
            if stream:
                await call.wrote.wait()
            while not server.script.requests:
                await asyncio.sleep(0.01)
            call.leave()
            reply = await call.done()
        assert b"[DONE]" not in reply.body and b"error" not in reply.body


async def test_a_prompt_under_a_cost_limit_counts_all_its_choices(serve: Serve) -> None:
    priced = SCRIPTED.replace("engine: scripted,", "engine: scripted, price: {output_usd_per_mtok: 1.0},")
    client = await serve(priced, default=SINGLE)
    body = {"model": "auto", "prompt": ["a", "b"], "n": 2, "max_tokens": 1000}
    for limit, status in (("0.0039", 402), ("0.0041", 200)):
        reply = await client.call("POST", PATH, body, {"x-gateway-max-cost-usd": limit})
        assert reply.status == status


# --- OpenAI's own client


def sdk(client: Client) -> openai.AsyncOpenAI:
    transport = httpx.ASGITransport(client.app)
    http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")
    return openai.AsyncOpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none", http_client=http, max_retries=0)


async def test_openais_client_completes(serve: Serve) -> None:
    async with sdk(await serve(SCRIPTED, default=SINGLE)) as api:
        said = await api.completions.create(model="auto", prompt="Once ", logprobs=1, echo=True, n=2)
        assert [choice.text for choice in said.choices] == ["Once there was a king"] * 2
        logprobs = said.choices[0].logprobs
        assert logprobs is not None and logprobs.tokens == ["Once", " ", "there", " was", " a", " king"]
        assert logprobs.token_logprobs and logprobs.token_logprobs[0] is None and logprobs.token_logprobs[1] == -0.5
        assert logprobs.text_offset == [0, 4, 5, 10, 14, 16]
        assert said.usage is not None and said.usage.total_tokens > 0


async def test_openais_client_streams(serve: Serve) -> None:
    async with sdk(await serve(SCRIPTED, default=SINGLE)) as api:
        stream = await api.completions.create(
            model="auto", prompt=["One", "Two"], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].text for c in chunks if c.choices and c.choices[0].index == 1)
        assert text == "there was a king" and chunks[-1].usage is not None


async def test_openais_client_sees_errors(serve: Serve) -> None:
    async with sdk(await serve(SCRIPTED, default=SINGLE)) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            await api.completions.create(model="auto", prompt=[], max_tokens=2)
        assert caught.value.param == "prompt"
        with pytest.raises(openai.NotFoundError):
            await api.completions.create(model="nobody", prompt="x")
