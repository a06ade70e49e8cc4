"""Identical requests at the same time: one is asked upstream, and what becomes of it harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.asgi import Client
from tests.caching.asking import HELLO, asked, cached, said, script_of
from tests.conftest import Serve

SLOW = {**HELLO, "first_token_ms": 60}


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


def waiting(client: Client) -> int:
    """Flights that somebody waits for."""
    return sum(bool(flight._callbacks) for flight in client.runtime.answers.flights.values())


@pytest.mark.parametrize("stream", [False, True])
async def test_one_is_asked_and_all_are_answered(serve: Serve, stream: bool) -> None:
    client = await cached(serve, SLOW)
    calls = [client.start_chat("hi", stream=stream) for _ in range(20)]
    replies = [await call.done() for call in calls]
    assert asked(client) == 1 and not client.runtime.answers.flights
    assert {reply.text for reply in replies} == {"one two"}
    assert sorted(str(said(reply)) for reply in replies) == ["hit"] * 19 + ["miss"]
    assert sum(float(reply.gateway["cost_usd"]) > 0 for reply in replies) == 1


async def test_other_requests_wait_for_nothing(serve: Serve) -> None:
    client = await cached(serve, SLOW)
    calls = [client.start_chat(text) for text in ("hi", "ho", "hi")]
    assert {(await call.done()).text for call in calls} == {"one two"}
    assert asked(client) == 2


async def test_a_failed_one_fails_no_other(serve: Serve) -> None:
    failing = {"error": {"status": 500}, "first_token_ms": 30, "times": 1}
    client = await cached(serve, failing, SLOW)
    calls = [client.start_chat("hi") for _ in range(5)]
    statuses = [(await call.done()).status for call in calls]
    assert sorted(statuses) == [200, 200, 200, 200, 500]
    assert asked(client) == 5, "they go on by themselves, at once"


async def test_one_whose_answer_cannot_be_kept_is_waited_for_once(serve: Serve) -> None:
    client = await cached(serve, {"text": "half", "finish_reason": "length", "first_token_ms": 30})
    calls = [client.start_chat("hi") for _ in range(5)]
    assert [said(await call.done()) for call in calls] == ["miss"] * 5
    assert asked(client) == 5


async def test_when_the_first_client_leaves_the_next_one_asks(serve: Serve) -> None:
    client = await cached(serve, {"silent": True, "times": 1}, HELLO)
    leader = client.start_chat("hi")
    await until(lambda: asked(client) == 1)
    others = [client.start_chat("hi") for _ in range(4)]
    await until(lambda: waiting(client) == 1)
    leader.leave()
    replies = [await call.done() for call in others]
    assert asked(client) == 2
    assert sorted(str(said(reply)) for reply in replies) == ["hit", "hit", "hit", "miss"]
    assert {reply.text for reply in replies} == {"one two"}


async def test_a_stream_that_is_left_half_way_keeps_nothing(serve: Serve) -> None:
    client = await cached(serve, {"text": "one two three four", "between_ms": 30})
    call = client.start_chat("hi", stream=True)
    await call.wrote.wait()
    call.leave()
    await call.task
    assert client.runtime.answers.entries == 0 and not client.runtime.answers.flights
    assert said(await client.chat("hi")) == "miss"


async def test_who_waits_keeps_to_the_deadline(serve: Serve) -> None:
    client = await cached(serve, {"silent": True})
    leader = client.start_chat("hi")
    await until(lambda: asked(client) == 1)
    reply = await client.chat("hi", headers={"x-gateway-deadline-s": "0.05"})
    assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
    leader.leave()
    await leader.task


async def test_who_wants_a_fresh_answer_waits_for_none(serve: Serve) -> None:
    client = await cached(serve, {"silent": True, "times": 1}, HELLO)
    leader = client.start_chat("hi")
    await until(lambda: asked(client) == 1)
    reply = await client.chat("hi", headers={"cache-control": "no-cache"})
    assert (reply.text, said(reply)) == ("one two", "bypass")
    leader.leave()
    await leader.task
    assert said(await client.chat("hi")) == "hit"
    assert len(script_of(client).requests) == 2
