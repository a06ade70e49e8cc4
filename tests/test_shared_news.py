"""What gateways tell each other over Redis, long before each would have found it out for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.access.keys import Wanted, create_key
from gateway.engines.balance import Aside, Balance
from gateway.engines.health import Rank
from gateway.errors import AddressFault
from tests.asgi import Client
from tests.conftest import running
from tests.shared_servers import Redis

MODELS = """models:
  far:
    engine: openai
    model: far
    base_url: ["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"]
"""
POLICY = "policy: default\nserves: [auto]\nroutes: [{name: all, answer: {model: far}}]"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def pair(tmp_path: Path, postgres_url: str, redis_url: str, redis_server: Redis) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        opened = [
            running(tmp_path / name, MODELS, database_url=postgres_url, redis_url=redis_url, default=POLICY)
            for name in ("one", "two")
        ]
        clients = [await stack.enter_async_context(one) for one in opened]
        await until(lambda: "2" in redis_server.run("PUBSUB", "NUMSUB", "onion-gateway").split())
        yield clients


def balance_in(client: Client) -> Balance:
    [balance] = client.runtime._balances.values()
    return balance


async def test_a_key_that_one_revokes_the_other_refuses_at_once(pair: list[Client]) -> None:
    here, there = pair
    assert here.runtime.database is not None and there.runtime.keys is not None and here.runtime.keys is not None
    there.runtime.keys._refresh_s = 600.0
    there.runtime.keys.look_soon()
    _, admin = await create_key(here.runtime.database, "admin", Wanted(is_admin=True))
    await here.runtime.keys.refresh()
    headers = {"authorization": f"Bearer {admin}"}
    made = await here.call("POST", "/v1/admin/keys", {"name": "app"}, headers)
    ring, token = there.runtime.keys, made.json["key"]
    await until(lambda: ring.check(token) is not None)
    await here.call("DELETE", "/v1/admin/keys/app", headers=headers)
    await until(lambda: ring.check(token) is None)


async def test_an_address_that_one_sets_aside_the_other_does_not_ask(pair: list[Client]) -> None:
    here, there = map(balance_in, pair)
    assert here is not there
    visit = here.visit("", streams=False)
    assert visit is not None
    with visit:
        visit.note_fault(AddressFault.UNREACHED, "nobody is there", None)
    place = visit.place
    await until(lambda: there.rank(place) is Rank.AWAY)
    assert there.why_away(place) == "nobody is there"
    assert there.rank(1 - place) is Rank.UP
    assert 0 < (there.resumes_in_s() or 0) <= 1.0


async def test_news_of_no_address_change_nothing(pair: list[Client], caplog: pytest.LogCaptureFixture) -> None:
    here, there = pair
    assert here.runtime.shared is not None
    here.runtime.tell("aside", of="another model", place=0, is_of_key=False, pause_s=9.0, why="")
    here.runtime.tell("aside", of=next(iter(here.runtime._balances)), place=7, is_of_key=False, pause_s=9.0, why="")
    await until(lambda: "what another gateway has told could not be used" in caplog.text)
    assert [balance_in(there).rank(place) for place in (0, 1)] == [Rank.UP, Rank.UP]


def test_what_is_set_aside_elsewhere_is_tried_after_that() -> None:
    now = [0.0]
    balance = Balance("far", [1, 1], now=lambda: now[0])
    balance.hear(Aside(0, False, 4.0, "gone"))
    assert balance.rank(0) is Rank.AWAY
    balance.hear(Aside(0, False, 400.0, "gone"))
    now[0] = 4.1
    assert balance.rank(0) is Rank.UP, "a pause that has begun is not made longer"
