"""Answers to requests that mean the same: found by meaning, told apart by words, and passed by a check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.caching import Keeping
from gateway.caching.wording import signature
from tests.asgi import Client
from tests.caching.asking import asked, policy, said, scripted
from tests.conftest import Serve

ASKED = "What is a good way to learn to play the piano?"
ALIKE = "What's a good way of learning to play the piano?"
JUDGED = "{model: core, cache: {semantic: {above: 0.8, checks: [{judge: {model: judge}}]}}}"
JUDGE = "models: {judge: {engine: scripted, price: {input_usd_per_mtok: 2}, replies: [%s]}, "


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How tall is the tower of 30 m?", "How tall is the tower of 40 m?"),
        ("What is 1,000 in words?", "What is 1.000 in words?"),
        ("Is it safe?", "Is it not safe?"),
        ("Can I eat it?", "Can't I eat it?"),
        ("a tea with sugar", "a tea without sugar"),
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("Paris hotels", "Rome hotels"),
        ("from Paris to Rome", "from Rome to Paris"),
        ("what does USB mean", "what does usb mean"),
        ("the two of us", "the three of us"),
        ("how to enable it", "how to disable it"),
        ("Ist das gut?", "Ist das nicht gut?"),
        ("the shortest one", "the longest one"),
        ("is it open on monday", "is it open on sunday"),
        ("from the hotel to the airport", "from the airport to the hotel"),
        ("are cats faster than dogs", "are dogs faster than cats"),
    ],
)
def test_words_that_make_another_question(one: str, other: str) -> None:
    assert signature(one) != signature(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ASKED, ALIKE),
        ("How do I reset my password?", "how can I reset the password"),
        ("Please summarize this text.", "Could you summarize this text?"),
    ],
)
def test_words_that_do_not(one: str, other: str) -> None:
    assert signature(one) == signature(other)


async def judged(serve: Serve, minilm_home: Path, says: str, answer: str = JUDGED) -> Client:
    core = scripted({"text": "Practise every day."}).replace("models: {", JUDGE % f"{{text: '{says}'}}")
    client = await serve(core, default=policy(answer))
    (client.runtime.home / "models").symlink_to(minilm_home / "models")
    return client


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_means_the_same_is_answered_alike(serve: Serve, minilm_home: Path, stream: bool) -> None:
    client = await judged(serve, minilm_home, "Yes")
    await client.chat(ASKED)
    assert asked(client, "judge") == 0, "there was nothing to judge"
    hit = await client.chat(ALIKE, stream=stream)
    assert (said(hit), hit.text, asked(client)) == ("hit; semantic", "Practise every day.", 1)
    assert (hit.gateway["cache"], hit.gateway["path"]) == ("hit; semantic", "cache:core")
    assert asked(client, "judge") == 1 and hit.gateway["cost_usd"] > 0, "the judge is paid for"
    again = await client.chat(ALIKE, headers={"cache-control": "only-if-cached"})
    assert (said(again), asked(client, "judge"), again.gateway["cost_usd"]) == ("hit", 1, 0)
    metrics = (await client.call("GET", "/metrics")).body.decode()
    assert 'gateway_cache_requests_total{cache="hit; semantic",policy="default"} 1.0' in metrics


async def test_the_check_has_the_last_word(serve: Serve, minilm_home: Path) -> None:
    client = await judged(serve, minilm_home, "No")
    await client.chat(ASKED)
    reply = await client.chat(ALIKE)
    assert (said(reply), asked(client), asked(client, "judge")) == ("miss", 2, 1)
    assert reply.headers["x-gateway-path"] == "core"
    only = await client.chat("How would I learn to play the piano?", headers={"cache-control": "only-if-cached"})
    assert (only.status, said(only)) == (504, "miss")


async def test_a_check_that_breaks_passes_nothing(
    serve: Serve, minilm_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = await judged(serve, minilm_home, "whatever")
    await client.chat(ASKED)
    assert said(await client.chat(ALIKE)) == "miss"


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.1},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ALIKE}]},
        {"messages": [{"role": "user", "content": ALIKE}, {"role": "assistant", "content": "Well"}]},
        {"messages": [{"role": "user", "content": ALIKE + " Not on Sundays."}]},
        {"messages": [{"role": "user", "content": "Which metal melts at room temperature?"}]},
    ],
)
async def test_all_else_has_to_be_the_same(serve: Serve, minilm_home: Path, fields: dict[str, Any]) -> None:
    client = await judged(serve, minilm_home, "Yes")
    await client.chat(ASKED)
    assert said(await client.chat(ALIKE, **fields)) == "miss"
    assert asked(client, "judge") == 0


async def test_tenants_and_users_are_kept_apart(serve: Serve, minilm_home: Path) -> None:
    client = await judged(serve, minilm_home, "Yes", JUDGED.replace("cache: {", "cache: {per_user: true, "))
    await client.chat(ASKED, user="ann")
    assert said(await client.chat(ALIKE, user="bob")) == "miss"
    assert said(await client.chat(ALIKE, user="ann")) == "hit; semantic"


async def test_other_dialects_find_their_own(serve: Serve, minilm_home: Path) -> None:
    client = await judged(serve, minilm_home, "Yes")
    seen = []
    for text in (ASKED, ALIKE):
        reply = await client.call("POST", "/v1/responses", {"model": "auto", "input": text})
        seen.append(said(reply))
    assert seen == ["miss", "hit; semantic"]


async def test_it_outlives_a_restart(serve: Serve, minilm_home: Path) -> None:
    client = await judged(serve, minilm_home, "Yes")
    answers = client.runtime.answers
    answers.take(Keeping(is_used=True, store="sqlite"))
    await answers._settle()
    await client.chat(ASKED)
    assert answers._table is not None
    await answers._table.flush()
    answers._forget(answers._kept.values())
    assert said(await client.chat(ALIKE)) == "hit; semantic"


async def test_without_the_embedding_model_there_is_no_likeness(serve: Serve) -> None:
    core = scripted({"text": "Practise."}).replace("models: {", JUDGE % "{text: 'Yes'}")
    client = await serve(core, default=policy(JUDGED))
    (client.runtime.home / "models").write_text("no folder")
    assert [said(await client.chat(text)) for text in (ASKED, ALIKE, ASKED)] == ["miss", "miss", "hit"]
