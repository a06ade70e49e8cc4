"""A request goes only to a model that it fits, and nothing is ever cut off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from gateway.backends.admission import admit_size, reserve_of
from gateway.backends.counting import Estimator
from gateway.chat import ChatRequest
from gateway.checks.finish_reason import FinishReason
from gateway.draft import Draft
from gateway.errors import ContextTooLong
from gateway.explain import explain
from gateway.tokens import Count
from gateway.trace import Trace
from tests.asgi import Client, chat_body
from tests.backends.test_counting import server
from tests.checks.drafts import asking, judged
from tests.conftest import Serve, build_from, running
from tests.test_tokens import IMAGE

TWO = """
models:
  small: {engine: scripted, context: 256, replies: [{text: from the small one}]}
  large: {engine: scripted, context: 8192, replies: [{text: from the large one}]}
"""
CASCADE = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: small}, {model: large}]}}]\n"


def of_tokens(tokens: int) -> str:
    """A user turn with which a scripted model's prompt has so many."""
    return "abc " * (tokens - 7)


async def noted(client: Client, trace: str) -> dict[str, Any]:
    """What the journal keeps with the hop of a model that was named."""
    assert client.runtime.journal is not None
    row = await client.runtime.journal.find(trace)
    assert row is not None
    (hop,) = orjson.loads(row.trace)["children"]
    return dict(hop.get("facts", {}))


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_too_long_for_a_tier_goes_to_the_next_one(serve: Serve, stream: bool) -> None:
    client = await serve(TWO, default=CASCADE)
    reply = await client.chat(of_tokens(300), stream=stream)
    assert (reply.status, reply.text) == (200, "from the large one")
    assert reply.gateway["path"] == "small!context,large"
    assert (await client.chat("hello", stream=stream)).text == "from the small one"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_fits_no_model_is_refused_with_openais_code(serve: Serve, stream: bool) -> None:
    client = await serve(TWO, default=CASCADE)
    reply = await client.chat(of_tokens(9120), stream=stream)
    assert reply.status == 400
    assert {k: reply.error[k] for k in ("type", "code", "param")} == {
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
        "param": "messages",
    }
    assert reply.error["message"] == (
        "model 'large' takes at most 8192 tokens, and the request has 9120: shorten the messages"
    )
    assert reply.headers["x-gateway-path"] == "small!context,large!context"


async def test_the_client_hears_of_the_largest_context(serve: Serve) -> None:
    turned = CASCADE.replace("[{model: small}, {model: large}]", "[{model: large}, {model: small}]")
    client = await serve(TWO, default=turned)
    reply = await client.chat(of_tokens(9120))
    assert reply.status == 400 and "8192" in reply.error["message"]


async def test_a_model_asked_for_by_name_refuses_as_well(serve: Serve) -> None:
    client = await serve(TWO, default=CASCADE)
    reply = await client.chat(of_tokens(300), model="small")
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")


async def test_the_border_is_exact_and_leaves_room_for_an_answer(serve: Serve) -> None:
    client = await serve(TWO, default=CASCADE)
    reserve = reserve_of(256, None)
    assert reserve == 32
    assert (await client.chat(of_tokens(256 - reserve), model="small")).status == 200
    reply = await client.chat(of_tokens(256 - reserve + 1), model="small")
    assert reply.status == 400 and "225, which leaves no room for an answer" in reply.error["message"]
    assert (await client.chat(of_tokens(256 - 5), model="small", max_tokens=5)).status == 200
    assert (await client.chat(of_tokens(256 - 4), model="small", max_tokens=5)).status == 400
    assert (await client.chat(of_tokens(256 - reserve), model="small", max_tokens=32_000)).status == 200


def test_the_reserve_is_small_and_never_more_than_the_client_wants() -> None:
    assert [reserve_of(context, None) for context in (512, 8192, 200_000)] == [64, 256, 256]
    assert reserve_of(8192, 32_000) == 256 and reserve_of(8192, 10) == 10


async def test_a_models_own_answer_limit_counts_where_the_client_has_none(serve: Serve) -> None:
    models = TWO.replace("context: 256,", "context: 256, defaults: {max_tokens: 4},")
    client = await serve(models, default=CASCADE)
    assert (await client.chat(of_tokens(252), model="small")).status == 200
    assert (await client.chat(of_tokens(253), model="small")).status == 400


async def test_a_count_is_noted_only_where_one_was_made(serve: Serve) -> None:
    client = await serve(TWO, default=CASCADE)
    reply = await client.chat(of_tokens(300), model="large")
    assert "input_tokens" not in await noted(client, reply.headers["x-gateway-trace"])
    reply = await client.chat(of_tokens(300), model="small")
    facts = await noted(client, reply.headers["x-gateway-trace"])
    assert facts["input_tokens"] == 300 and "estimated" not in facts


class Fixed:
    """Counts whatever it is told to, and how often it was asked."""

    name, template_tokens, only_estimates = "m", 0, False

    def __init__(self, count: Count) -> None:
        self.said, self.asked = count, 0

    async def count(self, body: Mapping[str, Any]) -> Count:
        self.asked += 1
        return self.said


async def fits(text: str, context: int | None, counter: Any) -> bool:
    try:
        await admit_size(asking(text), "m", context, counter, None, Trace("model", "m"))
    except ContextTooLong:
        return False
    return True


async def test_nothing_is_counted_where_bounds_tell() -> None:
    counter = Fixed(Count(100, False))
    assert await fits("hello", 4096, counter)
    assert await fits("x" * 100_000, None, counter), "nobody knows the context: the upstream decides"
    assert not await fits("word " * 40_000, 4096, counter)
    assert counter.asked == 0
    assert await fits("x" * 4096, 4096, counter)
    assert counter.asked == 1


async def test_an_estimate_refuses_only_what_is_far_too_long() -> None:
    for tokens, is_let_through in ((4096, True), (8192, True), (8193, False)):
        assert await fits("x" * 5000, 4096, Fixed(Count(tokens, estimated=True))) is is_let_through
    assert not await fits("x" * 5000, 4096, Fixed(Count(4097, estimated=False)))


async def test_what_is_certainly_too_long_is_so_by_an_estimate_too() -> None:
    for text in ("word " * 40_000, "a " * 40_000, "x" * 2_000_000):
        assert not await fits(text, 4096, Estimator("m")), "no look at the words is needed"
    assert await fits("word " * 1000, 4096, Estimator("m"))


async def test_images_are_estimated() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE]}]}
    span = Trace("model", "m")
    await admit_size(ChatRequest(body), "m", 4096, Estimator("m"), None, span)
    assert span.facts is not None and span.facts["estimated"] is True


# --- an answer that the context cut off


def cut_at(tokens: int | None, choices: int = 1) -> Draft:
    usage = None if tokens is None else {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    said = [{"index": i, "message": {"content": "One two"}, "finish_reason": "length"} for i in range(choices)]
    return Draft.of({"choices": said, "usage": usage})


def test_an_answer_that_the_context_cut_off_does_not_pass() -> None:
    check = FinishReason()
    limited = asking("?", max_tokens=100)
    assert judged(check, cut_at(100), limited).passed
    assert judged(check, cut_at(None), limited).passed, "nobody said how long it is"
    verdict = judged(check, cut_at(40), limited)
    assert (verdict.passed, verdict.reason) == (False, "cut before the client's length limit: the context was full")
    assert not judged(check, cut_at(100)).passed
    assert judged(check, cut_at(200, choices=2), limited).passed
    assert not judged(check, cut_at(140, choices=2), limited).passed


async def test_a_cascade_moves_on_when_the_context_cut_the_answer_off(serve: Serve) -> None:
    usage = "{prompt_tokens: 10, completion_tokens: 3, total_tokens: 13}"
    models = TWO.replace("[{text: from the small one}]", f"[{{text: a b c, finish_reason: length, usage: {usage}}}]")
    checked = CASCADE.replace("{model: small}", "{model: small, checks: [finish_reason]}")
    client = await serve(models, default=checked)
    for stream in (True, False):
        assert (await client.chat(max_tokens=500, stream=stream)).text == "from the large one"
        assert (await client.chat(max_tokens=3, stream=stream)).text == "a b c"


# --- the signal

SIZES = """
policy: default
routes:
  - {name: long, when: {input_tokens: {above: 2000}}, answer: {model: large}}
  - {name: short, when: {input_tokens: {below: 1000}}, answer: {model: large}}
  - {name: between, answer: {model: small}}
"""


@pytest.mark.parametrize(
    ("text", "route", "estimated"),
    [
        ("hello", "short", True),  # too short for any tokenizer
        (of_tokens(999), "short", False),
        (of_tokens(1000), "between", False),
        (of_tokens(2000), "between", False),
        (of_tokens(2001), "long", False),
        ("word " * 20_000, "long", True),
    ],
)
async def test_a_rule_is_decided_by_bounds_or_by_one_exact_count(
    tmp_path: Path, text: str, route: str, estimated: bool
) -> None:
    gateway, _ = build_from(tmp_path, TWO, default=SIZES)
    decision = await gateway.policies["auto"].decide(ChatRequest(chat_body(text)))
    assert decision.route.name == route
    (fact,) = decision.facts.known.as_json(for_journal=False)
    assert (fact["signal"], fact["of"], fact["estimated"]) == ("input_tokens", "large", estimated)
    assert isinstance(fact["value"], int) and fact["us"] > 0


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("2000", True),
        ("[1999, 2001]", False),
        ("{in: [5, 2000]}", True),
        ("{above: 1999, below: 2001}", True),
        ("{above: 2000}", False),
        ("{above: 10, below: 20}", False),
    ],
)
async def test_comparisons_of_a_count(tmp_path: Path, when: str, holds: bool) -> None:
    policy = f"""
    policy: default
    routes:
      - {{name: a, when: {{input_tokens: {when}}}, answer: {{model: large}}}}
      - {{name: b, answer: {{model: large}}}}
    """
    gateway, _ = build_from(tmp_path, TWO, default=policy)
    decision = await gateway.policies["auto"].decide(ChatRequest(chat_body(of_tokens(2000))))
    assert (decision.route.name == "a") is holds


async def test_each_model_is_asked_once_and_each_route_by_its_first_active_model(tmp_path: Path) -> None:
    models = TWO + "  asleep: {engine: openai, base_url: 'https://a.example/v1', api_key: '${NOT_SET}', model: x}\n"
    policy = """
    policy: default
    routes:
      - {name: a, when: {input_tokens: 30}, answer: {cascade: [{model: asleep}, {model: small}, {model: large}]}}
      - {name: b, when: {input_tokens: 30}, answer: {model: large}}
      - {name: c, when: {not: {input_tokens: {above: 30}}}, answer: {model: large}}
      - {name: d, when: {input_tokens: 30}, answer: {model: asleep}}
      - {name: e, answer: {model: small}}
    """
    gateway, _ = build_from(tmp_path, models, default=policy)
    decision = await gateway.policies["auto"].decide(ChatRequest(chat_body(of_tokens(50))))
    assert decision.route.name == "e"
    assert [
        (fact.get("of"), fact["value"], fact["estimated"]) for fact in decision.facts.known.as_json(for_journal=False)
    ] == [
        ("small", 50, False),
        ("large", 50, False),
        (None, 50, True),
    ]


async def test_explain_says_what_is_estimated(tmp_path: Path) -> None:
    models = "models: {core: {engine: llama.cpp, source: 'file:/nowhere/m.gguf', context: 2048}}\n"
    policy = """
    policy: default
    routes: [{name: a, when: {input_tokens: {below: 100}}, answer: {model: core}}, {name: b, answer: {model: core}}]
    """
    gateway, runtime = build_from(tmp_path, models, default=policy)
    shown = await explain(gateway, ChatRequest(chat_body("abc " * 50)))
    assert shown["route"] == "a"
    (fact,) = shown["signals"]
    assert (fact["of"], fact["value"], fact["estimated"]) == ("core", 57, True), "its engine does not run"
    await runtime.close()


async def test_an_attached_server_is_asked_in_the_words_of_its_kind(serve: Serve) -> None:
    asked: list[str] = []

    async def models(request: web.Request) -> web.Response:
        entry = {"id": "up", "object": "model", "owned_by": "vllm", "max_model_len": 4096}
        return web.json_response({"object": "list", "data": [entry]})

    async def tokenize(request: web.Request) -> web.Response:
        asked.append((await request.json())["model"])
        return web.json_response({"count": 4000, "max_model_len": 4096})

    async with server(web.get("/v1/models", models), web.post("/tokenize", tokenize)) as lease:
        attached = f"models: {{m: {{engine: attach, url: '{lease.url}', model: up, kind: vllm}}}}"
        client = await serve(attached, default="policy: default\nroutes: [{name: a, answer: {model: m}}]\n")
        await client.runtime.pool.settled(client.gateway.engines, 10)
        reply = await client.chat("x" * 3000)
    assert asked == ["up"]
    assert reply.status == 400 and "4096 tokens, and the request has 4000" in reply.error["message"]


# --- the real core model, with a context of 512

CORE = """
models:
  core: {{engine: llama.cpp, source: 'file:{path}', context: 512, slots: 2, threads: 1, defaults: {{temperature: 0}}}}
  next: {{engine: scripted, replies: [{{text: from the next one}}]}}
"""
CORE_POLICY = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: core}, {model: next}]}}]\n"
RESERVE = 64
OVERHEAD = 31  # the template's own tokens around "word word …"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def core(core_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("core")
    (folder / "home").mkdir()
    async with running(folder, CORE.format(path=core_model_path), default=CORE_POLICY) as client:
        await client.runtime.pool.settled(client.gateway.engines, 60)
        yield client


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
async def test_the_core_model_refuses_what_does_not_fit_without_being_asked(core: Client) -> None:
    reply = await core.start_chat("word " * 600, model="core").done(60)
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert f"512 tokens, and the request has {600 + OVERHEAD}" in reply.error["message"]
    reply = await core.start_chat("word " * 600).done(60)
    assert (reply.text, reply.gateway["path"]) == ("from the next one", "core!context,next")


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
async def test_the_core_models_border_is_exact(core: Client) -> None:
    most = 512 - RESERVE - OVERHEAD
    reply = await core.start_chat("word " * (most + 1), model="core").done(60)
    assert reply.status == 400 and "leaves no room" in reply.error["message"]
    reply = await core.start_chat("word " * most, model="core", max_tokens=RESERVE, ignore_eos=True).done(60)
    assert reply.status == 200
    assert reply.json["usage"]["prompt_tokens"] == 512 - RESERVE
    assert reply.json["usage"]["completion_tokens"] == RESERVE, "the room that was kept is there"


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
async def test_the_core_model_never_forgets_the_beginning_to_go_on(core: Client) -> None:
    reply = await core.start_chat("word " * 400, model="core", max_tokens=32_000, ignore_eos=True).done(60)
    usage = reply.json["usage"]
    assert reply.json["choices"][0]["finish_reason"] == "length"
    assert usage["total_tokens"] == 512, "it stops where its context ends"
    verdict = judged(FinishReason(), Draft.of(reply.json), asking("?", max_tokens=32_000))
    assert not verdict.passed
