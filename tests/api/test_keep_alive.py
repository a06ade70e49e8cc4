"""Silence kills connections: a stream that has nothing to say yet says so every ten seconds."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Serve

SINGLE = "policy: default\nroutes: [{name: all, answer: {model: m1}}]\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.reply.KEEP_ALIVE_S", 0.1)


async def test_comments_come_while_the_model_is_silent_and_the_answer_after_them(serve: Serve) -> None:
    models = "models: {m1: {engine: scripted, replies: [{text: hi there, first_token_ms: 350}]}}"
    client = await serve(models, default=SINGLE)
    reply = await client.chat(stream=True)
    assert reply.writes[0] == b": keep-alive\n\n"
    assert reply.body.count(b": keep-alive\n\n") >= 2
    assert b"ping" not in reply.body
    assert reply.text == "hi there" and reply.events[-1] == "[DONE]"
    assert "x-gateway-trace" in reply.headers


async def test_a_draft_that_is_being_judged_is_silence_too(serve: Serve) -> None:
    models = "models: {m1: {engine: scripted, replies: [{text: one two three four, between_ms: 100}]}}"
    policy = "policy: default\nroutes: [{name: all, answer: {model: m1, checks: [finish_reason]}}]\n"
    client = await serve(models, default=policy)
    reply = await client.chat(stream=True)
    assert reply.writes[0] == b": keep-alive\n\n"
    assert reply.text == "one two three four"


async def test_a_talking_stream_has_no_comments(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.reply.KEEP_ALIVE_S", 1.0)  # which a busy machine does not sleep through
    text = " ".join(["word"] * 60)  # longer than the silence allowed
    models = f"models: {{m1: {{engine: scripted, replies: [{{text: {text}, between_ms: 25}}]}}}}"
    client = await serve(models, default=SINGLE)
    reply = await client.chat(stream=True)
    assert b"keep-alive" not in reply.body


async def test_after_a_comment_a_failure_is_in_band(serve: Serve) -> None:
    models = "models: {m1: {engine: scripted, replies: [{error: {status: 503, message: later}, first_token_ms: 150}]}}"
    client = await serve(models, default=SINGLE)
    reply = await client.chat(stream=True)
    assert reply.status == 200
    assert reply.events[-1]["error"]["type"] == "server_error"
    assert "[DONE]" not in reply.events


async def test_before_a_comment_it_is_a_status(serve: Serve) -> None:
    models = "models: {m1: {engine: scripted, replies: [{error: {status: 503, message: later}}]}}"
    client = await serve(models, default=SINGLE)
    reply = await client.chat(stream=True)
    assert reply.status == 503 and reply.headers["content-type"] == "application/json"


async def test_nothing_is_written_after_the_end(serve: Serve) -> None:
    models = "models: {m1: {engine: scripted, replies: [{text: hi}]}}"
    client = await serve(models, default=SINGLE)
    call = client.start_chat(stream=True)
    reply = await call.done()
    written = len(reply.writes)
    await asyncio.sleep(0.25)
    assert reply.finished and len(reply.writes) == written
