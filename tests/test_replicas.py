"""Three gateways behind nginx on one PostgreSQL and one Redis, while something is killed.

With `-m slow -s` it prints the figures of docs/replicas.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import aiohttp
import pytest

from tests.cluster import Cluster, Load, Replica, finish_reason
from tests.shared_servers import Postgres, Redis, postgres_programs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ACKNOWLEDGED_S = 1.5  # a batch is begun each second, and takes a moment


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    programs = postgres_programs()
    if programs is None or which("redis-server") is None or find_spec("psycopg") is None or find_spec("redis") is None:
        pytest.skip("PostgreSQL, Redis and the extras postgres and redis are wanted")
    postgres, redis = await asyncio.to_thread(Postgres.made, programs, fsync=True), Redis.made()
    cluster = None
    try:
        cluster = await Cluster.started(tmp_path, postgres, redis)
        yield cluster
    finally:
        if cluster is not None:
            await cluster.close()
        postgres.close()
        redis.close()


def say(**facts: object) -> None:
    print("\n  " + "  ".join(f"{name}={value}" for name, value in facts.items()))


async def test_limits_and_budgets_hold_under_fifty_clients(cluster: Cluster) -> None:
    headers = await cluster.key("often", requests_per_minute=500)
    async with Load(cluster, headers) as load:
        await asyncio.sleep(10)
    served = load.statuses[200]
    say(limit=500, served=served, refused=load.statuses[429], others=load.statuses - Counter({200: 10**6, 429: 10**6}))
    assert set(load.statuses) == {200, 429} and abs(served - 500) <= 10

    headers = await cluster.key("dear", usd_per_day=3.0)  # an answer costs a cent, and may cost a little more
    async with Load(cluster, headers) as load:
        await asyncio.sleep(10)
    usd = float(
        cluster.postgres.run("SELECT sum(usd) FROM budgets WHERE usd > 0 GROUP BY key ORDER BY key DESC LIMIT 1")
    )
    say(budget=3.0, spent=usd, answered=load.statuses[200], refused=load.statuses[429])
    assert abs(usd - 3.0) <= 0.06 and set(load.statuses) == {200, 429}

    headers = await cluster.key("wide", concurrent=10)
    async with aiohttp.ClientSession() as session:
        asked = (cluster.ask(session, headers, "slow", stream=True) for _ in range(50))
        statuses = Counter(outcome.status for outcome in await asyncio.gather(*asked))
    say(concurrent=10, streams=statuses[200], refused=statuses[429])
    assert statuses == {200: 10, 429: 40}


async def test_a_killed_replica_loses_no_acknowledged_row(cluster: Cluster) -> None:
    headers = await cluster.key("app")
    async with Load(cluster, headers) as load:
        await asyncio.sleep(6)
        killed = time.time()
        cluster.replicas[0].kill()
        await asyncio.sleep(6)
    await _all_written(cluster.replicas[1:])
    rows = await cluster.journalled()
    answered = [one for one in load.outcomes if one.status == 200]
    lost = [one for one in answered if one.trace not in rows]
    ages_s = sorted(killed - one.at for one in lost)
    say(
        answered=len(answered),
        others=dict(load.statuses - Counter({200: 10**6})),
        rows_lost=len(lost),
        oldest_lost_s=ages_s[-1:],
        newest_lost_s=ages_s[:1],
        slowest_s=round(load.slowest_s(killed), 2),
    )
    assert set(load.statuses) == {200}, "another replica was asked in its place"
    assert all(-1.0 < age_s < ACKNOWLEDGED_S for age_s in ages_s), "an acknowledged row is gone, or one of another's"


async def _all_written(replicas: list[Replica]) -> None:
    for replica in replicas:

        async def is_done(replica: Replica = replica) -> bool:
            return await replica.gauge("gateway_journal_waiting") == 0

        await replica.until(is_done)


async def test_a_killed_database_loses_nothing_and_stops_nobody(cluster: Cluster) -> None:
    headers = await cluster.key("app", usd_per_day=10_000)
    async with Load(cluster, headers) as load:
        await asyncio.sleep(4)
        killed = time.time()
        _kill_postgres(cluster.postgres)
        await asyncio.sleep(4)
        await asyncio.to_thread(cluster.postgres.start)
        back = time.time()
        for replica in cluster.replicas:
            await replica.until(lambda replica=replica: _is_written(replica))
        recovered = time.time()
        await asyncio.sleep(2)
    await _all_written(cluster.replicas)
    rows = await cluster.journalled()
    answered = [one for one in load.outcomes if one.status == 200]
    missing = [one for one in answered if one.trace not in rows]
    say(
        answered=len(answered),
        others=dict(load.statuses - Counter({200: 10**6})),
        away_s=round(back - killed, 1),
        written_again_after_s=round(recovered - back, 2),
        rows_lost=len(missing),
        slowest_s=round(load.slowest_s(killed), 2),
    )
    assert set(load.statuses) == {200}
    assert not missing
    await asyncio.sleep(2)  # and the budgets, each second
    usd = float(cluster.postgres.run("SELECT sum(usd) FROM budgets"))
    assert usd == pytest.approx(0.01 * len(answered)), "what was spent is counted once"


def _kill_postgres(postgres: Postgres) -> None:
    """The server and all of its processes, as a machine that loses its power."""
    postgres.kill()


async def _is_written(replica: Replica) -> bool:
    lag_s = await replica.gauge("gateway_journal_lag_seconds")
    return lag_s < 1.5


async def test_a_killed_redis_stops_nobody(cluster: Cluster) -> None:
    headers = await cluster.key("app", requests_per_minute=100_000, usd_per_day=10_000)
    async with Load(cluster, headers) as load:
        await asyncio.sleep(4)
        killed = time.time()
        cluster.redis.kill()
        await asyncio.sleep(4)
        await asyncio.to_thread(cluster.redis.start)
        back = time.time()
        for replica in cluster.replicas:
            await replica.until(lambda replica=replica: _is_up(replica))
        recovered = time.time()
        await asyncio.sleep(2)
    await _all_written(cluster.replicas)
    await asyncio.sleep(2)  # and the budgets, each second
    answered = load.statuses[200]
    usd = float(cluster.postgres.run("SELECT sum(usd) FROM budgets"))
    say(
        answered=answered,
        others=dict(load.statuses - Counter({200: 10**6})),
        asked_again_after_s=round(recovered - back, 2),
        slowest_s=round(load.slowest_s(killed), 2),
    )
    assert set(load.statuses) == {200}
    assert usd == pytest.approx(0.01 * answered)


async def _is_up(replica: Replica) -> bool:
    return await replica.gauge("gateway_redis_up") == 1


async def test_a_rolling_restart_drops_no_stream(cluster: Cluster) -> None:
    headers = await cluster.key("app")
    done = asyncio.Event()
    texts: list[str | None] = []
    statuses: Counter[int] = Counter()

    async def stream(session: aiohttp.ClientSession) -> None:
        while not done.is_set():
            outcome = await cluster.ask(session, headers, "slow", stream=True)
            statuses[outcome.status] += 1
            texts.append(finish_reason(outcome.text))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async with Load(cluster, headers, clients=10) as load:
            streams = [asyncio.create_task(stream(session)) for _ in range(40)]
            await asyncio.sleep(2)
            for replica in cluster.replicas:
                await replica.stop()
                await replica.start()
                await asyncio.sleep(2)
            done.set()
            await asyncio.gather(*streams)
    say(streams=len(texts), whole=Counter(texts)["stop"], statuses=dict(statuses), others=dict(load.statuses))
    assert set(texts) == {"stop"} and set(statuses) == {200}
    assert set(load.statuses) == {200}
