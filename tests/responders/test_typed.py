"""Typed decoding: one of some stated options is picked, all other requests are answered as ever."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.backends.openai import OpenAIBackend
from gateway.chat import Answer, ChatRequest
from gateway.checks.logprob import Logprob
from gateway.chunks import Chunk
from gateway.errors import BackendUnavailable, ConfigError
from gateway.responders.cascade import Cascade, models_in
from gateway.responders.hold import WHOLE, Tier
from gateway.responders.priors import BARE, Prior, Priors
from gateway.responders.typed import Typed
from gateway.trace import RequestTrace
from tests.asgi import Client
from tests.backends.toy_llama import END, toy
from tests.conftest import Serve, build_from
from tests.responders.tickets import LABELS, conversation, mixed

LABELLED = "Answer with exactly one of these labels and nothing else: aye, bee, cee."


def request(user: str = "which?", system: str = LABELLED, **fields: Any) -> ChatRequest:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return ChatRequest({"messages": messages, **fields})


def inclined(text: str) -> Mapping[str, float]:
    """To say `cee`, whatever it is asked; `bee` is likelier than usual for a request that says so."""
    return {"a": 0.1, "b": 0.3, "c": 0.6} if "honey" in text else {"a": 0.1, "b": 0.1, "c": 0.8}


class Plain(OpenAIBackend):
    """Says what it was asked to say, so that who answered can be told."""

    async def _respond(self, request: ChatRequest, emit: Any, trace: Any) -> Answer:
        message = {"role": "assistant", "content": "in words"}
        return Answer({"model": self.name, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def typed(leaf: OpenAIBackend, priors: Priors | None = None) -> Typed:
    plain = Plain(**{name: getattr(leaf, name) for name in leaf.__dataclass_fields__})
    return Typed("toy", plain, priors or Priors(), "toy 1")


async def answered(responder: Any, asked: ChatRequest) -> tuple[str, list[Chunk], RequestTrace, Answer]:
    chunks: list[Chunk] = []

    async def emit(chunk: Chunk) -> None:
        chunks.append(chunk)

    trace = RequestTrace("m")
    answer = await responder.respond(asked, emit, trace)
    return next(answer.texts), chunks, trace, answer


def facts(trace: RequestTrace) -> Any:
    return next(hop.facts["typed"] for hop in trace.walk() if hop.facts and "typed" in hop.facts)


async def test_what_the_model_says_anyway_is_taken_off() -> None:
    async with toy(inclined) as (server, leaf):
        text, chunks, trace, answer = await answered(typed(leaf), request("honey"))
    assert text == "bee" and not chunks
    blank, asked = (body["prompt"][0] for body in server.said_to("/completion"))
    assert f"N/A{END}" in blank and f"honey{END}" in asked
    assert trace.path == "toy" and answer.model == "toy"
    assert answer.body["usage"] == {
        "prompt_tokens": len(asked),
        "completion_tokens": 3,
        "total_tokens": len(asked) + 3,
        "prompt_tokens_details": {"cached_tokens": len(f"<s>{LABELLED}{END}<u>")},
    }


async def test_the_journal_has_numbers_and_no_words_of_the_client() -> None:
    async with toy(inclined) as (_, leaf):
        _, _, trace, _ = await answered(typed(leaf), request("honey"))
    said = facts(trace)
    assert said.keys() == {"form", "options", "p", "margin", "mass", "calls"}
    assert (said["options"], said["calls"], said["form"]) == (3, 2, "label")
    assert said["p"] == pytest.approx(0.632, abs=0.01) and said["mass"] == pytest.approx(1.0)
    journalled = orjson.dumps(trace.as_json()).decode()
    assert not {"aye", "bee", "cee", "honey"} & {*re.findall(r"\w+", journalled)}


async def test_it_is_learned_from_requests_and_from_an_empty_one_only_once() -> None:
    async with toy(inclined) as (server, leaf):
        priors = Priors()
        for _ in range(3):
            await answered(typed(leaf, priors), request("honey"))
    assert len(server.said_to("/completion")) == 4
    prior = priors.find("toy 1", ("aye", "bee", "cee"), is_taught=False)
    assert prior.weight == 7 and prior.means is not None and -2.31 < prior.means[1] < math.log(0.3)


async def test_worked_examples_have_an_inclination_of_their_own() -> None:
    taught = [
        {"role": "system", "content": LABELLED},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "aye"},
        {"role": "user", "content": "honey"},
    ]
    async with toy(inclined) as (_, leaf):
        priors = Priors()
        await answered(typed(leaf, priors), request("honey"))
        text, *_ = await answered(typed(leaf, priors), ChatRequest({"messages": taught}))
    assert text == "bee"
    options = ("aye", "bee", "cee")
    assert priors.find("toy 1", options, is_taught=True).weight == priors.find("toy 1", options, is_taught=False).weight
    assert priors.find("toy 2", options, is_taught=True).means is None


async def test_options_in_the_question_itself_start_even() -> None:
    asked = ChatRequest({"messages": [{"role": "user", "content": "Is it honey? Answer yes or no."}]})
    async with toy(lambda text: {"y": 0.6, "n": 0.3}) as (server, leaf):
        text, *_ = await answered(typed(leaf), asked)
    assert text == "yes" and len(server.said_to("/completion")) == 1


async def test_a_stream_is_one_chunk() -> None:
    async with toy(inclined) as (_, leaf):
        _, chunks, _, answer = await answered(typed(leaf), request("honey", stream=True))
    [chunk] = chunks
    [choice] = chunk.choices
    assert choice["delta"]["content"] == "bee" and choice["finish_reason"] == "stop"
    assert chunk.model == "toy" and chunk.data["id"] == answer.body["id"]


async def test_logprobs_are_of_the_options() -> None:
    async with toy(inclined) as (_, leaf):
        *_, plain = await answered(typed(leaf), request("honey"))
        *_, all_of_them = await answered(typed(leaf), request("honey", logprobs=True))
        *_, two = await answered(typed(leaf), request("honey", logprobs=True, top_logprobs=2))
    assert plain.body["choices"][0]["logprobs"] is None
    [token] = all_of_them.body["choices"][0]["logprobs"]["content"]
    assert token["token"] == "bee" and bytes(token["bytes"]) == b"bee"
    assert [one["token"] for one in token["top_logprobs"]][0] == "bee"
    assert math.fsum(math.exp(one["logprob"]) for one in token["top_logprobs"]) == pytest.approx(1.0)
    assert len(two.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2


async def test_a_cascade_goes_on_where_it_is_not_sure() -> None:
    async with toy(inclined) as (_, leaf):
        last = Plain(name="last", client=leaf.client, take_lease=leaf.take_lease)
        tiers = [Tier("toy", typed(leaf), (Logprob(mean_above=math.log(0.5)),), WHOLE), Tier("last", last)]
        sure, _, _, kept = await answered(Cascade(tiers), request("honey"))
        unsure, _, trace, _ = await answered(Cascade(tiers), request("who?"))
    assert (sure, unsure) == ("bee", "in words") and trace.path.startswith("toy!logprob")
    assert kept.body["choices"][0]["logprobs"] is None  # which the check had asked for
    assert [*models_in(Cascade(tiers))] == ["toy", "last"]


JSON_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "schema": {"type": "object", "properties": {"label": {"enum": ["aye", "bee"]}}, "required": ["label"]},
    },
}


async def test_an_enum_is_answered_in_json() -> None:
    async with toy(inclined) as (_, leaf):
        text, *_ = await answered(typed(leaf), request("honey", "Sort it.", response_format=JSON_SCHEMA))
    assert orjson.loads(text) == {"label": "bee"}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"stop": "e"},
        {"stop": ["x", "ee"]},
        {"logit_bias": {"1": 5}},
        {"max_tokens": 2},
        {"max_completion_tokens": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "user", "content": "Tell me a story."}]},
        {
            "messages": [
                {"role": "system", "content": LABELLED},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
            ]
        },
    ],
)
async def test_all_else_is_answered_in_words(fields: dict[str, Any]) -> None:
    async with toy(inclined) as (_, leaf):
        text, *_ = await answered(typed(leaf), request("honey").with_body(**fields))
    assert text == "in words"


async def test_a_leaf_that_cannot_score_is_asked_as_ever() -> None:
    async with toy(inclined) as (server, leaf):
        text, *_ = await answered(typed(replace(leaf, can_score=False)), request("honey"))
    assert text == "in words" and server.asked == []


async def test_a_server_that_is_gone_is_an_error() -> None:
    async with toy(inclined) as (_, leaf):
        pass
    with pytest.raises(BackendUnavailable):
        await answered(typed(leaf), request("honey"))


def test_an_inclination_is_the_mean_of_recent_scores() -> None:
    prior = Prior(BARE)
    assert prior.corrected([-1.0, -2.0]) == [-1.0, -2.0]
    prior.note([-1.0, -3.0])
    assert prior.means == pytest.approx([-1.8, -2.2])  # four even ones before it
    for _ in range(2000):
        prior.note([-1.0, -3.0])
    assert prior.corrected([-1.0, -2.0]) == pytest.approx([0.0, 1.0], abs=0.01)


def test_the_least_recently_used_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.responders.priors.REMEMBERED", 2)
    priors = Priors()
    priors.find("m", ("a", "b"), is_taught=False).note([-1.0, -2.0])
    for options in (("c", "d"), ("a", "b"), ("e", "f")):
        priors.find("m", options, is_taught=False)
    assert priors.find("m", ("a", "b"), is_taught=False).means is not None


# Configuration

MODELS = """
models:
  core: {engine: llama.cpp, source: "file:core.gguf", server: llama-server, command: /nowhere}
  far: {engine: scripted, replies: [{text: hi}]}
"""


def policy(answer: str) -> str:
    return f"policy: default\nroutes: [{{name: all, answer: {answer}}}]\n"


def test_a_cascade_says_it_for_its_models_that_can(tmp_path: Path) -> None:
    nodes = "{typed: true, cascade: [{model: core}, {model: core, typed: false}, {model: far}]}"
    gateway, _ = build_from(tmp_path, MODELS, default=policy(nodes))
    cascade = gateway.policies["default"].routes[0].answer
    assert isinstance(cascade, Cascade)
    assert [isinstance(tier.responder, Typed) for tier in cascade.tiers] == [True, False, False]


def test_it_stands_inside_shards(tmp_path: Path) -> None:
    gateway, _ = build_from(tmp_path, MODELS, default=policy("{model: core, typed: true, shards: true}"))
    answer: Any = gateway.policies["default"].routes[0].answer
    assert isinstance(answer.inner, Typed) and [*models_in(answer)] == ["core"]


def test_a_model_that_cannot_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model 'far' cannot score options") as caught:
        build_from(tmp_path, MODELS, default=policy("{model: far, typed: true}"))
    assert "typed" in str(caught.value)


# On the real core model

CORE = """
models:
  core: {{engine: llama.cpp, source: "file:{path}", context: 1024, slots: 1, price: {{}}, defaults: {{temperature: 0}}}}
"""


async def core(serve: Serve, path: Path) -> Client:
    policies = {"default": policy("{model: core, typed: true}"), "plain": policy("{model: core}")}
    policies["plain"] = policies["plain"].replace("default", "plain")
    client = await serve(CORE.format(path=path), **policies)
    await client.runtime.pool.settled(client.gateway.engines, 60)
    return client


@pytest.mark.model
@pytest.mark.slow
async def test_the_core_sorts_tickets_better_than_it_writes_labels(serve: Serve, core_model_path: Path) -> None:
    """Of forty: 21 and 11 with four worked examples, 20 and 0 without. Sixteen of them are tried here."""
    client = await core(serve, core_model_path)
    picked = written = 0
    for ticket, label in mixed()[:16]:
        messages = conversation(ticket)
        reply = await client.chat(messages=messages)
        assert reply.text in LABELS and reply.headers["x-gateway-path"] == "core"
        picked += reply.text == label
        reply = await client.chat(messages=messages, model="plain", max_tokens=12)
        written += reply.text.strip() == label
    assert picked >= written + 2


@pytest.mark.model
async def test_the_core_picks_in_a_stream_and_in_json(serve: Serve, core_model_path: Path) -> None:
    client = await core(serve, core_model_path)
    reply = await client.chat(
        messages=conversation("My parcel is lost."), stream=True, stream_options={"include_usage": True}
    )
    assert reply.text in LABELS and reply.events[-1] == "[DONE]"
    assert reply.events[-2]["usage"]["completion_tokens"] >= 1 and reply.gateway["cost_usd"] == 0
    assert reply.gateway["usage"]["estimated"] is False
    reply = await client.chat("honey", response_format=JSON_SCHEMA, logprobs=True)
    assert reply.json["choices"][0]["logprobs"]["content"][0]["token"] == reply.text
    assert orjson.loads(reply.text)["label"] in ("aye", "bee")
