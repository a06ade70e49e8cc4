"""Scoring: how likely a model finds given answers, asked of llama.cpp's server a branch at a time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.backends.counting import Asked, ScriptedCounter
from gateway.backends.openai import OpenAIBackend
from gateway.backends.scoring import Scorer, branches_of
from gateway.chat import ChatRequest
from gateway.errors import BackendError, BackendTimeout, BadBackendReply, ContextTooLong, UpstreamRefused
from gateway.trace import RequestTrace
from tests.backends.toy_llama import END, toy
from tests.conftest import Serve

ASKED = ChatRequest({"messages": [{"role": "user", "content": "which?"}], "temperature": 0.3})
BLANK = ChatRequest({"messages": [{"role": "user", "content": "N/A"}]})
PROMPT = f"<u>which?{END}<a>"


def likes(**chances: float) -> Callable[[str], dict[str, float]]:
    """`likes(p=…, pi=…)`: the chance of each text's last character after the ones before it, in an answer."""

    def following(text: str) -> dict[str, float]:
        said = text.rpartition("<a>")[2]
        found = {name[-1]: chance for name, chance in chances.items() if name[:-1] == said}
        return {END if c == "E" else c: chance for c, chance in found.items()}

    return following


def test_a_tree_is_asked_where_it_branches() -> None:
    assert branches_of([(1, 2, 9), (1, 3, 9), (1, 3, 4, 9)]) == {(1,): {2, 3}, (1, 3): {9, 4}}
    assert branches_of([(1, 2), (3, 4)]) == {(): {1, 3}}


async def test_logprobs_are_of_the_answer_being_one_of_the_options() -> None:
    async with toy(likes(y=0.3, n=0.1, x=0.6)) as (server, leaf):
        scores = await leaf.score(ASKED, ["yes", "no"], RequestTrace("m"))
    assert [math.exp(one) for one in scores.logprobs] == pytest.approx([0.75, 0.25])
    assert scores.mass == pytest.approx(0.4)
    assert (scores.tokens, scores.calls, scores.floored) == ((3, 2), 1, 0)
    assert isinstance(leaf, Scorer)


async def test_an_option_that_begins_another_is_told_apart_by_its_end() -> None:
    async with toy(likes(p=0.8, q=0.2, pinE=0.25, pin_=0.5, pina=0.25)) as (server, leaf):
        scores = await leaf.score(ASKED, ["pin", "pin_lost", "q"], RequestTrace("m"))
    assert [math.exp(one) for one in scores.logprobs] == pytest.approx([0.8 / 3, 0.8 * 2 / 3, 0.2])
    assert scores.calls == 2
    first, second = (body["prompt"] for body in server.said_to("/completion"))
    assert first == [PROMPT] and second == [PROMPT, *map(ord, "pin")]


async def test_what_all_options_begin_with_is_not_asked() -> None:
    async with toy(lambda text: {"b": 0.6, "c": 0.2}) as (server, leaf):
        scores = await leaf.score(ASKED, ['{"a": "b"}', '{"a": "c"}'], RequestTrace("m"))
    assert [math.exp(one) for one in scores.logprobs] == pytest.approx([0.75, 0.25])
    assert [body["prompt"][1:] for body in server.said_to("/completion")] == [[*map(ord, '{"a": "')]]


async def test_options_that_the_model_would_never_say_have_scores_too() -> None:
    common = {chr(200 + n): 0.9 / 100 for n in range(100)}
    async with toy(lambda text: {**common, "y": 3e-8, "n": 1e-8}) as (_, leaf):
        scores = await leaf.score(ASKED, ["yes", "no"], RequestTrace("m"))
    assert math.exp(scores.logprobs[0]) == pytest.approx(0.75)
    assert scores.floored == 0 and scores.mass == pytest.approx(4e-8, rel=0.2)


async def test_what_the_server_does_not_show_counts_as_little_and_is_counted() -> None:
    common = {chr(300 + n): 1 / 400 for n in range(400)}
    async with toy(lambda text: {**common, "y": 1e-12, "n": 0.1}) as (_, leaf):
        scores = await leaf.score(ASKED, ["yes", "no"], RequestTrace("m"))
    assert scores.floored == 1 and scores.logprobs[0] < -10 < scores.logprobs[1]


async def test_tokens_of_options_are_asked_for_once() -> None:
    async with toy(likes(y=0.5, n=0.5)) as (server, leaf):
        for _ in range(3):
            await leaf.score(ASKED, ["yes", "no"], RequestTrace("m"))
        assert server.paths().count("/tokenize") == 1
        assert server.paths()[-2:] == ["/apply-template", "/completion"]
        await leaf.score(ASKED, ["yes", "maybe"], RequestTrace("m"))
        assert server.paths().count("/tokenize") == 2


async def test_a_template_may_put_a_blank_before_answers() -> None:
    async with toy(lambda text: {"y": 0.6, "n": 0.2}, blank=" ") as (server, leaf):
        await leaf.score(ASKED, ["yes", "no"], RequestTrace("m"))
    assert server.said_to("/completion")[0]["prompt"] == [PROMPT, ord(" ")]


async def test_slot_and_adapters_of_the_request_go_along_and_how_it_would_be_sampled_does_not() -> None:
    async with toy(likes(y=0.5, n=0.5)) as (server, leaf):
        await leaf.score(ASKED.with_body(lora=[{"id": 0, "scale": 1.0}], top_k=1), ["yes", "no"], RequestTrace("m"))
    [body] = server.said_to("/completion")
    assert body["id_slot"] == 2 and body["temperature"] == 1.0 and "top_k" not in body
    assert server.said_to("/apply-template")[-1]["chat_template_kwargs"] == {"enable_thinking": False}


async def test_a_blank_request_is_scored_in_the_same_call() -> None:
    def following(text: str) -> dict[str, float]:
        return {"y": 0.5, "n": 0.5} if "N/A" in text else {"y": 0.9, "n": 0.1}

    async with toy(following) as (server, leaf):
        trace = RequestTrace("m")
        scores = await leaf.score(ASKED, ["yes", "no"], trace, blank=BLANK)
    assert [math.exp(one) for one in (*scores.blank, *scores.logprobs)] == pytest.approx([0.5, 0.5, 0.9, 0.1])
    assert [body["prompt"][0] for body in server.said_to("/completion")] == [f"<u>N/A{END}<a>", PROMPT]
    assert trace.path == "toy" and scores.prompt.input_tokens == len(PROMPT)
    [spend] = [hop.spend for hop in trace.walk() if hop.spend is not None]
    assert (spend.usage.input_tokens, spend.usage.output_tokens) == (len(PROMPT) + len(f"<u>N/A{END}<a>"), 2)


async def test_it_costs_its_prompt_and_a_token_a_step() -> None:
    async with toy(likes(y=0.5, n=0.5, noE=0.2, not_=0.1, nos=0.1)) as (_, leaf):
        trace = RequestTrace("m")
        await leaf.score(ASKED, ["yes", "no", "nos"], trace)
    [spend] = [hop.spend for hop in trace.walk() if hop.spend is not None]
    assert spend.model == "toy" and not spend.usage.estimated
    assert (spend.usage.input_tokens, spend.usage.output_tokens) == (len(PROMPT), 2)
    assert trace.cost_usd == pytest.approx((len(PROMPT) + 2) / 1e6)


async def test_who_leaves_stops_it_and_what_it_took_is_written_down() -> None:
    async with toy(likes(y=0.5, n=0.5)) as (server, leaf):
        server.gate, trace = asyncio.Event(), RequestTrace("m")
        task = asyncio.create_task(leaf.score(ASKED, ["yes", "no"], trace))
        await asyncio.wait_for(server.asked_to_complete.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.was_left.wait(), 5)
    [spend] = [hop.spend for hop in trace.walk() if hop.spend is not None]
    assert spend.usage.estimated and spend.usage.input_tokens > 0


async def test_the_deadline_holds() -> None:
    async with toy(likes(y=0.5, n=0.5)) as (server, leaf):
        server.gate = asyncio.Event()
        with pytest.raises(BackendTimeout, match="did not answer in time"):
            await leaf.score(ASKED.before(time.monotonic() + 0.2), ["yes", "no"], RequestTrace("m"))
        with pytest.raises(BackendTimeout, match="no time left"):
            await leaf.score(ASKED.before(time.monotonic()), ["yes", "no"], RequestTrace("m"))


async def _refuse(request: web.Request) -> web.Response:
    message = f"slot secret at {request.url} is gone"
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=400)


async def _stream(request: web.Request, *events: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    return response


async def _say_error(request: web.Request) -> web.StreamResponse:
    return await _stream(request, b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')


async def _show_nothing(request: web.Request) -> web.StreamResponse:
    return await _stream(request, b'data: {"content": "y", "stop": true}\n\n')


async def _say_no_json(request: web.Request) -> web.StreamResponse:
    return await _stream(request, b"data: {\n\n")


async def _cut(request: web.Request) -> web.StreamResponse:
    response = await _stream(request, b'data: {"content"')
    assert request.transport is not None
    request.transport.abort()
    return response


@pytest.mark.parametrize(
    ("fails", "error", "says"),
    [
        (_refuse, UpstreamRefused, "is gone"),
        (_say_error, BackendError, "out of memory"),
        (_show_nothing, BadBackendReply, "no probabilities"),
        (_say_no_json, BadBackendReply, "not JSON"),
        (_cut, BadBackendReply, "broke the connection off"),
    ],
)
async def test_a_server_that_fails_is_an_error_like_any_other(
    fails: Callable[[web.Request], Awaitable[Any]], error: type[BackendError], says: str
) -> None:
    async with toy(likes(y=0.5, n=0.5)) as (server, leaf):
        server.fails = fails
        with pytest.raises(error, match=says) as caught:
            await leaf.score(ASKED, ["yes", "no"], RequestTrace("m"))
    assert "secret" not in caught.value.message and "127.0.0.1" not in caught.value.message


async def test_options_that_are_the_same_to_the_model_are_refused() -> None:
    async with toy(likes(y=0.5)) as (_, leaf):
        with pytest.raises(BadBackendReply, match="not different"):
            await leaf.score(ASKED, ["yes", "yes"], RequestTrace("m"))


async def test_what_does_not_fit_is_not_asked() -> None:
    async with toy(likes(y=0.5, n=0.5)) as (server, leaf):
        small: OpenAIBackend = replace(leaf, context=64, counter=ScriptedCounter("toy"))
        with pytest.raises(ContextTooLong):
            await small.score(
                ASKED.with_body(messages=[{"role": "user", "content": "x" * 400}]), ["a", "b"], RequestTrace("m")
            )
    assert server.asked == []


@pytest.mark.model
async def test_the_core_models_shares_are_those_of_its_own_probabilities(serve: Serve, core_model_path: Path) -> None:
    models = f"models:\n  core: {{engine: llama.cpp, source: 'file:{core_model_path}', context: 1024, price: {{}}}}\n"
    client = await serve(models, default="policy: default\nroutes: [{name: all, answer: {model: core}}]\n")
    await client.runtime.pool.settled(client.gateway.engines, 60)
    leaf = client.gateway.models["core"].responder
    assert isinstance(leaf, OpenAIBackend) and leaf.can_score
    options, messages = ["Paris", "Rome", "Berlin"], [{"role": "user", "content": "What is the capital of France?"}]
    scores = await leaf.score(ChatRequest({"messages": messages}), options, RequestTrace("m"))
    assert math.fsum(map(math.exp, scores.logprobs)) == pytest.approx(1.0)
    assert (scores.calls, scores.floored) == (1, 0)
    address = client.runtime.pool.address(client.gateway.engines[0])
    assert address is not None
    server = Asked(client.runtime.client, lambda: address)
    prompt = (await server.post(address, "/apply-template", {"messages": messages}))["prompt"]
    said = await server.post(address, "/completion", {"prompt": prompt, "n_predict": 1, "n_probs": 5000})
    shown = {one["token"]: one["logprob"] for one in said["completion_probabilities"][0]["top_logprobs"]}
    own = [shown[max((o[:n] for n in range(1, 8) if o[:n] in shown), key=len)] for o in options]
    assert [one - scores.logprobs[0] for one in scores.logprobs] == pytest.approx([o - own[0] for o in own], abs=0.01)
    assert scores.mass == pytest.approx(math.fsum(map(math.exp, own)), rel=0.05)
    assert scores.prompt.input_tokens == said["tokens_evaluated"]
    again = await leaf.score(ChatRequest({"messages": messages}), options, RequestTrace("m"))
    assert again.prompt.cached_tokens >= scores.prompt.input_tokens - 2
