"""`session`, `sticky`, `budget_left`, `fits` and `warm`: what is known of the conversation, of money and of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.chat import ChatRequest, CostCap
from gateway.conversations import Maker
from gateway.errors import ConfigError
from gateway.routing.services import Sessions
from gateway.trace import Trace
from tests.conftest import Serve, build_from

MODELS = """
    models:
      core: {engine: scripted, context: 200, replies: [{text: "from core"}]}
      coder: {engine: scripted, context: 2000, replies: [{text: "from coder"}]}
      large: {engine: scripted, replies: [{text: "from large"}]}
"""


def body(*texts: str, **fields: Any) -> dict[str, Any]:
    """A conversation: the user's words and the answers by turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"model": "auto", "messages": messages, **fields}


def policy(when: str, more: str = "") -> str:
    return f"""
    policy: default
    {more}
    routes:
      - {{name: 'yes', when: {when}, answer: {{model: large}}}}
      - {{name: code, when: {{keywords: [python]}}, answer: {{model: coder}}}}
      - {{name: rest, answer: {{model: core}}}}
    """


async def decide(folder: Path, when: str, request: dict[str, Any], **fields: Any) -> str:
    gateway, _ = build_from(folder, MODELS, default=policy(when))
    return (await gateway.policies["auto"].decide(ChatRequest(request, **fields))).route.name


# --- who answered last


@pytest.mark.parametrize("when", ["{session: coder}", "{session: {model: [coder, large]}}", "{session: {route: code}}"])
async def test_a_rule_sees_who_answered_last(serve: Serve, when: str) -> None:
    client = await serve(MODELS, default=policy(when))

    async def route(*texts: str) -> str:
        reply = await client.call("POST", "/v1/chat/completions", body(*texts))
        return str(reply.headers["x-gateway-route"])

    assert await route("write python") == "code"
    assert await route("write python", "from coder", "and now?") == "yes"
    assert await route("bake bread") == "rest"
    assert await route("bake bread", "from core", "and now?") == "rest"


async def test_another_conversation_that_begins_alike_has_no_past(serve: Serve) -> None:
    client = await serve(MODELS, default=policy("{session: coder}"))
    await client.chat("write python")
    assert (await client.chat("write python")).headers["x-gateway-route"] == "code"


async def test_a_session_that_the_client_names_has_one_from_its_second_request(serve: Serve) -> None:
    client = await serve(MODELS, default=policy("{session: coder}"))
    named = {"x-gateway-session": "s1"}
    await client.chat("write python", headers=named)
    assert (await client.chat("go on", headers=named)).headers["x-gateway-route"] == "yes"
    assert (await client.chat("go on", headers={"x-gateway-session": "s2"})).headers["x-gateway-route"] == "rest"


def test_sessions_are_apart_by_key_and_the_oldest_go() -> None:
    sessions, maker = Sessions(limit=2), Maker("m", "p", "r")
    asked = [ChatRequest(body("hi"), headers={"x-gateway-session": name}, key="a") for name in "xyz"]
    for request in asked:
        sessions.note(request, maker)
    assert [sessions.last(request) for request in asked] == [None, maker, maker]
    assert sessions.last(ChatRequest(asked[2].body, headers=asked[2].headers, key="b")) is None


async def test_nothing_is_noted_where_no_rule_asks(serve: Serve) -> None:
    client = await serve(MODELS, default=policy("{turns: 7}"))
    await client.chat("write python", headers={"x-gateway-session": "s1"})
    request = ChatRequest(body("x"), headers={"x-gateway-session": "s1"})
    assert client.runtime.sessions.last(request) is None


# --- staying on a route


STICKY = policy("{keywords: [image]}", "sticky: true")


async def test_a_sticky_conversation_stays_while_its_condition_holds(serve: Serve) -> None:
    client = await serve(MODELS, default=STICKY)

    async def asked(*texts: str) -> tuple[str, Any]:
        reply = await client.call("POST", "/v1/chat/completions", body(*texts))
        assert client.runtime.journal is not None
        row = await client.runtime.journal.find(reply.headers["x-gateway-trace"])
        assert row is not None
        return reply.headers["x-gateway-route"], b"sticky" in row.trace.encode() if isinstance(row.trace, str) else (
            b"sticky" in row.trace
        )

    assert await asked("write python") == ("code", False)
    assert await asked("write python", "from coder", "an image of python") == ("code", True)
    assert await asked("write python", "from coder", "an image") == ("yes", False)
    assert await asked("bake bread") == ("rest", False)
    assert await asked("bake bread", "from core", "write python") == ("rest", True)


async def test_explain_says_where_it_would_stay(serve: Serve) -> None:
    client = await serve(MODELS, default=STICKY)
    await client.call("POST", "/v1/chat/completions", body("bake bread"))
    reply = await client.call("POST", "/v1/route/explain", body("bake bread", "from core", "write python"))
    assert reply.json["route"] == "rest"


# --- money


async def test_budget_left_is_that_of_the_tightest_cap(tmp_path: Path) -> None:
    caps = (CostCap(Trace("request", ""), 2.0), CostCap(Trace("limited", ""), 0.3))
    for when, route in (("{budget_left: {below: 0.5}}", "yes"), ("{budget_left: {above: 0.5}}", "rest")):
        assert await decide(tmp_path, when, body("hi"), caps=caps) == route


@pytest.mark.parametrize(("said", "route"), [("0.9", "yes"), ("0.1", "rest"), ("nan", "rest"), ("much", "rest")])
async def test_budget_left_is_what_the_header_says(tmp_path: Path, said: str, route: str) -> None:
    headers = {"x-gateway-max-cost-usd": said}
    assert await decide(tmp_path, "{budget_left: {above: 0.5}}", body("hi"), headers=headers) == route


async def test_without_a_limit_no_comparison_of_the_budget_holds(tmp_path: Path) -> None:
    for when in ("{budget_left: {above: 0}}", "{budget_left: {below: 1000}}"):
        assert await decide(tmp_path, when, body("hi")) == "rest"


# --- models


@pytest.mark.parametrize(
    ("when", "request_", "route"),
    [
        ("{fits: core}", body("hi"), "yes"),
        ("{fits: core}", body("word " * 300), "rest"),
        ("{fits: coder}", body("word " * 300), "yes"),
        ("{fits: [core, coder]}", body("word " * 300), "rest"),
        ("{fits: core}", body("hi", max_tokens=195), "rest"),
        ("{fits: core}", body("hi", max_completion_tokens=100), "yes"),
        ("{fits: core}", body("word " * 130), "yes"),
        ("{fits: core}", body("word " * 150), "rest"),
        ("{fits: large}", body("word " * 9000), "yes"),
    ],
)
async def test_a_request_fits_or_not(tmp_path: Path, when: str, request_: dict[str, Any], route: str) -> None:
    assert await decide(tmp_path, when, request_) == route


async def test_what_needs_no_loading_is_warm(tmp_path: Path) -> None:
    assert await decide(tmp_path, "{warm: [core, large]}", body("hi")) == "yes"


async def test_a_model_that_is_not_loaded_is_not_warm(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    models = f"{MODELS}      own: {{engine: llama.cpp, source: 'file:{tmp_path}/model.gguf', residency: on_demand}}\n"
    gateway, runtime = build_from(tmp_path, models, default=policy("{warm: own}"))
    assert (await gateway.policies["auto"].decide(ChatRequest(body("hi")))).route.name == "rest"
    runtime.pool.keep(gateway.engines)
    assert (await gateway.policies["auto"].decide(ChatRequest(body("hi")))).route.name == "rest"


async def test_an_inactive_model_neither_fits_nor_is_warm(tmp_path: Path) -> None:
    models = (
        f"{MODELS}      far: {{engine: openai, base_url: 'https://x.test/v1', api_key: '${{UNSET_KEY}}', model: x}}\n"
    )
    for when in ("{fits: far}", "{warm: far}"):
        gateway, _ = build_from(tmp_path, models, default=policy(when))
        assert (await gateway.policies["auto"].decide(ChatRequest(body("hi")))).route.name == "rest"


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("{fits: cor}", "no model is called 'cor'"),
        ("{warm: []}", "wants the name of a model"),
        ("{session: codr}", "'codr' is not a value of 'session'"),
        ("{session: {modell: coder}}", "unknown name"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, when: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, MODELS, default=policy(when))
    assert message in caught.value.message
