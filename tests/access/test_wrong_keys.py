"""Who tries keys is told to wait; who has the right one never is."""

from __future__ import annotations

import logging

import pytest

from gateway.access.keys import create_key
from gateway.access.wrong_keys import MOST, MOST_ADDRESSES, WINDOW_S, WrongKeys
from gateway.errors import RateLimited
from tests.asgi import Client
from tests.conftest import Serve

MODELS = "models:\n  m: {engine: scripted, replies: [{text: hi}]}\n"
POLICY = "policy: default\nserves: [auto]\nroutes: [{name: a, answer: {model: m}}]\n"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def asked(client: Client, key: str) -> int:
    return (await client.call("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})).status


async def test_after_many_wrong_keys_an_address_waits_and_a_right_one_passes(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    runtime = client.runtime
    assert runtime.database is not None and runtime.keys is not None
    _, token = await create_key(runtime.database, "team")
    await runtime.keys.refresh()
    assert [await asked(client, f"wrong-{n}") for n in range(MOST)] == [401] * MOST
    reply = await client.call("GET", "/v1/models", headers={"x-api-key": "one-more"})
    assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(reply.headers["retry-after"]) <= WINDOW_S
    assert "one-more" not in reply.body.decode()
    assert await asked(client, token) == 200, "it comes from the same address"
    assert await asked(client, "wrong-3") == 401, "a client with an old key is told what is wrong with it"
    assert (await client.call("GET", "/healthz", headers={"x-api-key": "whatever"})).status == 200


def test_a_minute_later_it_may_try_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    wrong = WrongKeys(clock)
    with caplog.at_level(logging.WARNING):
        said = [wrong.refusal(f"key {n}", "192.0.2.1") for n in range(MOST + 5)]
    assert [isinstance(one, RateLimited) for one in said] == [False] * MOST + [True] * 5
    assert len(caplog.records) == 1 and "192.0.2.1" in caplog.text and "key 1" not in caplog.text
    assert not isinstance(wrong.refusal("another", "192.0.2.2"), RateLimited)
    assert not isinstance(wrong.refusal("another", None), RateLimited)
    clock.now += WINDOW_S
    assert not isinstance(wrong.refusal("another", "192.0.2.1"), RateLimited)


def test_the_addresses_of_one_network_count_together_and_are_bounded() -> None:
    wrong = WrongKeys(Clock())
    said = [wrong.refusal(f"key {n}", f"2001:db8::{n:x}") for n in range(MOST + 1)]
    assert isinstance(said[-1], RateLimited)
    for n in range(2 * MOST_ADDRESSES):
        wrong.refusal("key", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(wrong._tries) == MOST_ADDRESSES
