"""Connections of one upstream: shared, limited, looked after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.transport import ConnectFailed, pool
from gateway.transport.client import PooledClient
from gateway.transport.connection import Connection
from gateway.transport.pool import Origin, Pool
from tests.transport.raw import OK, WAIT_S, Handler, Peer, Upstream, answering, upstream

NEVER = float("inf")
HEAD = b"GET / HTTP/1.1\r\n\r\n"


@asynccontextmanager
async def pooled(handle: Handler, limit: int = 8) -> AsyncIterator[tuple[Pool, Upstream]]:
    async with upstream(handle) as server:
        made = Pool(Origin("127.0.0.1", int(server.url.rpartition(":")[2])), limit, None)
        try:
            yield made, server
        finally:
            made.abort()
            await asyncio.sleep(0.01)
            assert not made._open and not made._opening and not made._idle


async def use(pool: Pool, connection: Connection) -> None:
    await connection.ask(HEAD, b"", time.monotonic() + WAIT_S)
    assert await connection.read(10, NEVER) == b"ok"
    assert connection.end()
    pool.give_back(connection)


async def taken(pool: Pool) -> Connection:
    return await pool.take(WAIT_S, time.monotonic() + WAIT_S)


def started(pool: Pool, due: float = NEVER) -> asyncio.Task[Connection]:
    return asyncio.create_task(pool.take(WAIT_S, due))


async def test_the_one_used_last_is_used_first() -> None:
    async with pooled(answering(OK)) as (pool, _):
        one, two = await taken(pool), await taken(pool)
        await use(pool, one)
        await use(pool, two)
        assert await taken(pool) is two
        assert await taken(pool) is one


async def test_beyond_the_limit_they_wait_in_order_and_newcomers_behind_them() -> None:
    async with pooled(answering(OK), limit=1) as (pool, server):
        only = await taken(pool)
        order: list[int] = []

        async def ask(number: int) -> None:
            connection = await taken(pool)
            order.append(number)
            await asyncio.sleep(0)
            await use(pool, connection)

        tasks = [asyncio.create_task(ask(number)) for number in range(4)]
        await asyncio.sleep(0)
        await use(pool, only)
        await ask(4)  # which begins while there is one on its way to those who wait
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4] and server.connections == 1


async def test_who_waits_has_a_deadline_too() -> None:
    async with pooled(answering(OK), limit=1) as (pool, _):
        only = await taken(pool)
        with pytest.raises(TimeoutError):
            await pool.take(WAIT_S, time.monotonic() + 0.02)
        await use(pool, only)
        assert await taken(pool) is only  # whoever gave up is not in the way


@pytest.mark.parametrize("moment", ["waiting", "turn"])
async def test_the_turn_of_one_who_left_goes_to_the_next(moment: str) -> None:
    async with pooled(answering(OK), limit=1) as (pool, _):
        only = await taken(pool)
        first, second = started(pool), started(pool)
        await asyncio.sleep(0)
        await only.ask(HEAD, b"", NEVER)
        await only.read(10, NEVER)
        if moment == "waiting":
            first.cancel()
        assert only.end()
        pool.give_back(only)
        if moment == "turn":
            first.cancel()
        assert await asyncio.wait_for(second, WAIT_S) is only
        assert first.cancelled() or (await asyncio.wait({first}) and first.cancelled())


async def test_nobody_is_left_waiting_beside_a_free_connection() -> None:
    async with pooled(answering(OK), limit=1) as (pool, _):
        only = await taken(pool)
        waits = started(pool)
        await asyncio.sleep(0)
        waits.cancel()  # and before it has left the queue:
        await use(pool, only)
        late = started(pool)
        assert await asyncio.wait_for(late, WAIT_S) is only


@pytest.mark.parametrize("how", ["abort", "lost"])
async def test_a_connection_that_goes_makes_room(how: str) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        if how == "abort":
            await peer.gone()

    async with pooled(handle, limit=1) as (pool, server):
        only = await taken(pool)
        waits = started(pool)
        await asyncio.sleep(0)
        if how == "abort":
            only.abort()
        else:
            with pytest.raises(Exception, match="EOF"):
                await only.ask(HEAD, b"", NEVER)
        assert (await asyncio.wait_for(waits, WAIT_S)).is_usable() and server.connections <= 2


async def test_a_place_where_connecting_failed_or_was_cancelled_is_free_again() -> None:
    made = Pool(Origin("no-such-host.invalid"), 1, None)
    for _ in range(2):
        results = await asyncio.gather(*(taken(made) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [ConnectFailed] * 3
    async with pooled(answering(OK), limit=1) as (one, server):
        first, second = started(one), started(one)
        await asyncio.sleep(0)
        first.cancel()
        await use(one, await asyncio.wait_for(second, WAIT_S))
        assert await taken(one)


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_at_any_step_of_connecting_nothing_is_left(steps: int) -> None:
    async with pooled(answering(OK), limit=1) as (pool, server):
        task = started(pool)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            pool.give_back(task.result())
        connection = await asyncio.wait_for(taken(pool), WAIT_S)
        await use(pool, connection)
        await server.until(lambda: server.open_now == 1)


async def test_one_that_the_upstream_closed_is_not_used_again() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)

    async with pooled(handle) as (pool, server):
        await use(pool, await taken(pool))
        await server.until(lambda: server.open_now == 0)
        await asyncio.sleep(0.01)
        assert not pool._open
        await use(pool, await taken(pool))
        assert server.connections == 2


async def test_an_idle_one_is_looked_at_before_it_is_used() -> None:
    async with pooled(answering(OK)) as (pool, server):
        connection = await taken(pool)
        await use(pool, connection)
        connection.idle_since -= 2
        assert await taken(pool) is connection
        await use(pool, connection)
        connection.idle_since -= 2
        reached = asyncio.get_running_loop()
        tasks = [task for task in asyncio.all_tasks(reached) if "serve" in repr(task)]
        for task in tasks:
            task.cancel()
        await server.until(lambda: server.open_now == 0)
        assert await taken(pool) is not connection


@pytest.mark.parametrize("said, is_kept", [(b"timeout=30", True), (b"max=5, timeout=1", False), (b"timeout=x", True)])
async def test_what_the_upstream_says_of_idle_connections_is_heard(said: bytes, is_kept: bool) -> None:
    async with pooled(answering(OK.replace(b"content", b"keep-alive: " + said + b"\r\ncontent"))) as (pool, server):
        connection = await taken(pool)
        await connection.ask(HEAD, b"", NEVER)
        await connection.read(10, NEVER)
        assert connection.end()
        pool.give_back(connection)
        assert bool(pool._idle) is is_kept
        await server.until(lambda: server.open_now == int(is_kept))


async def test_idle_ones_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "REAP_EVERY_S", 0.02)
    monkeypatch.setattr(pool, "IDLE_S", 0.05)
    async with pooled(answering(OK)) as (made, server):
        connections = [await taken(made) for _ in range(3)]
        for connection in connections:
            await use(made, connection)
        await server.until(lambda: server.open_now == 0)
        assert not made._idle and not made._open and made._reaper is None
        await use(made, await taken(made))
        await server.until(lambda: server.open_now == 0)


async def test_a_closed_pool_lets_everybody_go() -> None:
    async with pooled(answering(OK), limit=1) as (pool, server):
        only = await taken(pool)
        waits = started(pool)
        await asyncio.sleep(0)
        pool.abort()
        with pytest.raises(ConnectFailed):
            await asyncio.wait_for(waits, WAIT_S)
        with pytest.raises(ConnectFailed):
            await taken(pool)
        await server.until(lambda: server.open_now == 0)
        assert not only.is_usable()


async def test_a_connection_that_comes_after_the_pool_was_closed_is_closed() -> None:
    async with pooled(answering(OK), limit=1) as (pool, server):
        connecting = started(pool)
        for _ in range(2):
            await asyncio.sleep(0)
        pool.abort()
        with pytest.raises(ConnectFailed):
            await asyncio.wait_for(connecting, WAIT_S)
        await server.until(lambda: server.open_now == 0)


async def test_an_upstream_that_hangs_up_at_once_takes_no_place_forever() -> None:
    async def handle(peer: Peer) -> None:
        peer.reset()

    async with upstream(handle) as server:
        client = PooledClient(limit=1)
        for _ in range(5):
            with pytest.raises(Exception, match="closed|EOF|Reset|Broken"):
                await asyncio.wait_for(client.get(server.url, {}, connect_s=WAIT_S), WAIT_S)
        await client.close()
