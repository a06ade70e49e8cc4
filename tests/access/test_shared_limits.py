"""What keys may do at several gateways on one PostgreSQL and one Redis, each with its own connections, as processes
have them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.access import shared_counts
from gateway.access.keys import KeyInfo, Wanted, create_key
from gateway.access.ledger import Ledger
from gateway.access.shared_counts import SharedCounts
from gateway.errors import BudgetReached, RateLimited
from gateway.store.budgets import Sums
from gateway.store.database import Database
from gateway.store.redis import Shared
from gateway.trace import RequestTrace, Spend, Usage
from tests.access.test_limits import PRICED
from tests.asgi import Client
from tests.conftest import running
from tests.shared_servers import Redis

REPLICAS = 3
POLICY = "policy: default\nserves: [auto]\nroutes: [{name: all, answer: {model: dear}}]"
SLOW = PRICED.replace("{text: good,", "{text: good, first_token_ms: 300,")


@pytest.fixture
async def replicas(tmp_path: Path, postgres_url: str, redis_url: str) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        folders = [tmp_path / str(number) for number in range(REPLICAS)]
        opened = [running(one, SLOW, database_url=postgres_url, redis_url=redis_url, default=POLICY) for one in folders]
        yield [await stack.enter_async_context(one) for one in opened]


async def with_key(replicas: list[Client], **wanted: Any) -> dict[str, str]:
    """The headers of a new key, known to all."""
    database = replicas[0].runtime.database
    assert database is not None
    _, token = await create_key(database, "app", Wanted(**wanted))
    for client in replicas:
        assert client.runtime.keys is not None
        await client.runtime.keys.refresh()
    return {"authorization": f"Bearer {token}"}


async def statuses(replicas: list[Client], count: int, headers: dict[str, str], **body: Any) -> Counter[int]:
    asked = (replicas[number % REPLICAS].chat(headers=headers, **body) for number in range(count))
    return Counter(reply.status for reply in await asyncio.gather(*asked))


async def test_a_minute_has_as_many_requests_as_it_may_at_all_of_them_together(replicas: list[Client]) -> None:
    headers = await with_key(replicas, limits={"requests_per_minute": 20})
    assert await statuses(replicas, 50, headers) == {200: 20, 429: 30}
    refused = await replicas[1].chat(headers=headers)
    assert refused.error["message"] == "this key may ask 20 times a minute"
    assert 50 < int(refused.headers["retry-after"]) <= 60


async def test_so_many_are_open_at_once_at_all_of_them_together(replicas: list[Client]) -> None:
    headers = await with_key(replicas, limits={"concurrent": 4})
    assert await statuses(replicas, 12, headers, stream=True) == {200: 4, 429: 8}
    for client in replicas:
        assert client.runtime.ledger is not None
        await asyncio.gather(*client.runtime.ledger._ending)
    assert await statuses(replicas, 4, headers) == {200: 4}, "their places are free again"


async def test_who_leaves_while_it_is_let_in_keeps_no_place(replicas: list[Client]) -> None:
    headers = await with_key(replicas, limits={"concurrent": 2})
    for turns in range(30):
        asking = asyncio.create_task(replicas[turns % REPLICAS].chat(headers=headers))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    async with asyncio.timeout(shared_counts.LEASE_S / 2):  # a place that is kept is given up after a whole one
        while await statuses(replicas, 2, headers) != {200: 2}:
            await asyncio.sleep(0.05)


async def test_tokens_are_held_and_booked_for_all_of_them(replicas: list[Client]) -> None:
    headers = await with_key(replicas, limits={"tokens_per_minute": 210})
    found = await statuses(replicas, 9, headers, max_tokens=80)
    assert found == {200: 2, 429: 7}, "two may come to 80 and some each"
    told = (await replicas[2].chat(headers=headers, max_tokens=80)).headers
    assert told["x-ratelimit-limit-tokens"] == "210" and int(told["x-ratelimit-remaining-tokens"]) < 100


async def test_a_budget_is_kept_by_all_of_them_together(replicas: list[Client]) -> None:
    headers = await with_key(replicas, limits={"usd_per_day": 0.105})  # an answer of ten tokens costs a cent
    assert (await statuses(replicas, 50, headers, max_tokens=10))[200] == 10
    for client in replicas:
        assert client.runtime.ledger is not None
        await asyncio.gather(*client.runtime.ledger._ending)
        await client.runtime.ledger.flush()
    for client in replicas:
        used = (await client.call("GET", "/v1/key", headers=headers)).json["used"]
        assert used["day"]["usd"] == used["month"]["usd"] == pytest.approx(0.1), "whichever is asked"


async def test_a_redis_that_goes_takes_no_request_with_it(
    replicas: list[Client], redis_server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    headers = await with_key(replicas, limits={"requests_per_minute": 9})
    assert await statuses(replicas, 3, headers) == {200: 3}
    redis_server.kill()
    try:
        found = await statuses(replicas, 60, headers)
        assert found == {200: 24, 429: 36}, "each lets 9 in, the one that it let in before among them"
        assert "each gateway counts for itself" in caplog.text
        metrics = (await replicas[0].call("GET", "/metrics")).body.decode()
        assert "gateway_redis_up 0" in metrics
    finally:
        redis_server.start()
    for client in replicas:
        await until(lambda client=client: client.runtime.shared.is_up)
    assert await statuses(replicas, 30, headers) == {200: 9, 429: 21}, "it counts on, from what it knows"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


# --- two ledgers on one Redis


@pytest.fixture
async def ledgers(database: Database, redis_url: str) -> AsyncIterator[list[Ledger]]:
    shares = [Shared(redis_url) for _ in range(2)]
    for shared in shares:
        await shared.start()
    yield [Ledger(database, flush_s=60, shared=SharedCounts(shared)) for shared in shares]
    for shared in shares:
        await shared.close()


async def key_with(database: Database, **limits: Any) -> KeyInfo:
    return (await create_key(database, "app", Wanted(limits=limits)))[0]


def spent(usd: float, tokens: int = 2) -> RequestTrace:
    trace = RequestTrace("auto")
    with trace.span("model", "dear") as span:
        span.spend = Spend("dear", Usage(0, tokens), usd, 0.1)
    return trace


def age(redis: Redis, key: KeyInfo, what: str, seconds: int) -> None:
    """As if it had come so much earlier."""
    place = f"onion-gateway:{{key {key.id}}}:{what}"
    older = "for _, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZINCRBY', KEYS[1], ARGV[1], m) end"
    redis.run("EVAL", older, "1", place, f"-{seconds}000")


async def test_a_window_slides(database: Database, ledgers: list[Ledger], redis_server: Redis) -> None:
    key = await key_with(database, requests_per_minute=2, tokens_per_minute=100)
    (await ledgers[0].enter(key, lambda _: 10)).end(spent(0, 60))
    age(redis_server, key, "requests", 40)
    await asyncio.gather(*ledgers[0]._ending)
    age(redis_server, key, "tokens", 40)
    (await ledgers[1].enter(key, lambda _: 10)).end(spent(0, 10))
    await asyncio.gather(*ledgers[1]._ending)
    with pytest.raises(RateLimited) as caught:
        await ledgers[0].enter(key, lambda _: 10)
    assert 18 < int(caught.value.headers["retry-after"]) <= 20
    age(redis_server, key, "requests", 21)
    with pytest.raises(RateLimited, match="100 tokens a minute.*come to 31") as caught:
        await ledgers[0].enter(key, lambda _: 31)
    assert 18 < int(caught.value.headers["retry-after"]) <= 20
    age(redis_server, key, "tokens", 21)
    entry = await ledgers[0].enter(key, lambda _: 31)
    assert entry.told is not None and (entry.told.requests, entry.told.tokens, entry.told.held_tokens) == (2, 10, 31)


async def test_what_a_gateway_had_open_that_is_gone_is_given_up(
    database: Database, ledgers: list[Ledger], redis_server: Redis
) -> None:
    key = await key_with(database, concurrent=1, tokens_per_day=100, usd_per_day=1)
    entry = await ledgers[0].enter(key, lambda _: 80)
    assert await entry.cap.hold(0.75)  # type: ignore[union-attr]
    with pytest.raises(RateLimited, match="1 requests open"):
        await ledgers[1].enter(key, lambda _: 80)
    age(redis_server, key, "open", 31)
    late = await ledgers[1].enter(key, lambda _: 80)
    assert await late.cap.hold(0.75)  # type: ignore[union-attr]


async def test_what_is_open_for_long_stays_open(
    database: Database, ledgers: list[Ledger], redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedCounts, "renew_s", 0.0)
    key = await key_with(database, concurrent=1)
    entry = await ledgers[0].enter(key, lambda _: 0)
    for _ in range(3):
        age(redis_server, key, "open", 20)
        await ledgers[0]._renew()
        with pytest.raises(RateLimited):
            await ledgers[1].enter(key, lambda _: 0)
    entry.end(spent(0))
    await asyncio.gather(*ledgers[0]._ending)
    await ledgers[1].enter(key, lambda _: 0)
    assert shared_counts.RENEW_S < shared_counts.LEASE_S / 2


async def test_money_that_one_holds_another_cannot_spend(database: Database, ledgers: list[Ledger]) -> None:
    key = await key_with(database, usd_per_day=1, usd_per_month=20)
    one, two = [await ledger.enter(key, lambda _: 0) for ledger in ledgers]
    assert one.cap is not None and two.cap is not None
    assert await one.cap.hold(0.7)
    assert not await two.cap.hold(0.4)
    assert two.cap.left_usd == pytest.approx(0.3)
    assert await two.cap.hold(0.3)
    one.end(spent(0.1))
    two.end(spent(0.3))
    await asyncio.gather(*ledgers[0]._ending, *ledgers[1]._ending)
    three = await ledgers[0].enter(key, lambda _: 0)
    assert three.cap is not None and three.cap.left_usd == pytest.approx(0.6)
    assert await three.cap.hold(0.6)
    with pytest.raises(BudgetReached, match="the budget of this key is spent"):
        await ledgers[1].enter(key, lambda _: 0)


async def test_a_redis_that_has_lost_everything_learns_it_from_the_database(
    database: Database, ledgers: list[Ledger], redis_server: Redis
) -> None:
    key = await key_with(database, usd_per_day=1, tokens_per_month=50)
    (await ledgers[0].enter(key, lambda _: 0)).end(spent(0.75, 30))
    await asyncio.gather(*ledgers[0]._ending)
    assert await ledgers[0].flush()
    redis_server.run("FLUSHALL")
    redis_server.run("SCRIPT", "FLUSH")
    with pytest.raises(BudgetReached, match="50 tokens a month"):
        await ledgers[0].enter(key, lambda _: 21)
    entry = await ledgers[0].enter(key, lambda _: 20)
    assert entry.cap is not None and entry.cap.left_usd == pytest.approx(0.25)
    entry.end(spent(0.25, 1))
    await asyncio.gather(*ledgers[0]._ending)
    assert ledgers[0].account(key).spent(ledgers[0].today()) == Sums(1.0, 31, 2), "each counts once"
    with pytest.raises(BudgetReached):
        await ledgers[1].enter(key, lambda _: 0)


async def test_a_key_without_limits_asks_nobody(database: Database, ledgers: list[Ledger], redis_server: Redis) -> None:
    key = await key_with(database, priority="high", allow=["auto"])
    (await ledgers[0].enter(key, lambda _: 0)).end(spent(0.1))
    assert redis_server.run("DBSIZE") == "0"
    assert ledgers[0].account(key).spent(ledgers[0].today()).requests == 1
