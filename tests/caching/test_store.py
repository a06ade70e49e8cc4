"""Where cached answers are kept: how many, how long, over reloads and restarts, and how they are erased."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from gateway import cli
from gateway.access.keys import create_key
from gateway.caching import Keeping
from gateway.caching.answers import AnswerCache
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.store.answers import Kept, purge_answers
from gateway.store.database import FILE_NAME, Database
from gateway.store.tables import ANSWERS
from tests.asgi import Client
from tests.caching.asking import HELLO, POLICY, asked, cached, caching, policy, said, scripted
from tests.conftest import Serve, running, write_config

ON_DISK = "cache: {store: sqlite}\n"
NOW = 1_000_000.0


def kept(name: str, size: int = 1000, *, created: float = NOW, ttl_s: float = 60, tenant: str = "a") -> Kept:
    return Kept(name.encode(), tenant, None, created, created + ttl_s, size, b"{}")


def memory(max_bytes: int) -> AnswerCache:
    cache = AnswerCache(clock=lambda: NOW)
    cache.take(Keeping(is_used=True, max_bytes=max_bytes))
    return cache


async def test_the_least_recently_used_goes_first() -> None:
    cache = memory(10_000)
    for number in range(10):
        cache.put(kept(str(number)))
    assert (cache.entries, cache.size_bytes, cache.evicted) == (10, 10_000, 0)
    assert await cache.find(b"0") is not None
    cache.put(kept("new", 1200))
    assert [await cache.find(name) is not None for name in (b"0", b"1", b"2", b"3", b"new")] == [1, 0, 0, 1, 1]
    assert (cache.entries, cache.size_bytes, cache.evicted) == (9, 9200, 2)


async def test_the_same_key_takes_no_more_room() -> None:
    cache = memory(10_000)
    for size in (1000, 400, 700):
        cache.put(kept("a", size))
    assert (cache.entries, cache.size_bytes) == (1, 700)


async def test_an_answer_that_is_large_beside_the_memory_is_not_kept() -> None:
    cache = memory(10_000)
    cache.put(kept("large", 1251))
    assert cache.entries == 0


async def test_a_smaller_memory_and_none() -> None:
    cache = memory(10_000)
    for number in range(10):
        cache.put(kept(str(number)))
    cache.take(Keeping(is_used=True, max_bytes=5000))
    assert (cache.entries, cache.evicted) == (5, 5)
    cache.take(Keeping())
    assert (cache.entries, cache.size_bytes) == (0, 0)


def reloaded(client: Client, folder: Path, models: str, **policies: str) -> None:
    config = read_config(*write_config(folder, models, **policies))
    client.live.swap(build(config, client.runtime))


async def test_a_reload_keeps_it_and_a_change_of_the_model_or_policy_does_not(serve: Serve, tmp_path: Path) -> None:
    client = await cached(serve)
    await client.chat("hi")
    other = "routes: [{name: other, when: {keywords: [zebra]}, answer: {model: core}}, {name: all"
    moved = POLICY.replace("routes: [{name: all", other)
    for unchanged in (POLICY, moved):
        reloaded(client, tmp_path, scripted(HELLO), default=unchanged)
        assert said(await client.chat("hi")) == "hit"
    for models, changed in (
        (scripted({"text": "new"}), POLICY),
        (scripted(HELLO), caching("{ttl_s: 60}")),
        (scripted(HELLO), policy("{model: core, typed: false, cache: true}")),
    ):
        reloaded(client, tmp_path, models, default=changed)
        assert said(await client.chat("hi")) == "miss"
    reloaded(client, tmp_path, scripted(HELLO), default=POLICY)
    assert said(await client.chat("hi")) == "hit", "as it was before"
    reloaded(client, tmp_path, scripted(HELLO), default=policy("{model: core}"))
    assert client.runtime.answers.entries == 0


async def test_a_restart_keeps_what_is_in_the_database(tmp_path: Path, empty_database: Path) -> None:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home" / FILE_NAME)
    for store, seen in ((ON_DISK, "miss"), (ON_DISK, "hit"), ("", "miss"), (ON_DISK, "hit")):
        async with running(tmp_path, scripted(HELLO, more=store), default=POLICY) as client:
            reply = await client.chat("hi", stream=True)
            assert (said(reply), reply.text) == (seen, "one two")
            assert said(await client.chat("hi")) == "hit"


async def test_prompts_are_not_in_the_database(serve: Serve) -> None:
    client = await cached(serve, {"text": "an answer of some length"}, more=ON_DISK)
    await client.chat("a question of some length", user="ann")
    table = client.runtime.answers._table
    assert table is not None
    await table.flush()
    assert client.runtime.database is not None
    async with client.runtime.database.read() as connection:
        [row] = (await connection.execute(select(ANSWERS))).all()
    assert (row.tenant, row.user, b"an answer of some length" in row.body) == ("", "ann", True)
    assert b"question" not in b"".join(value for value in row if isinstance(value, bytes))


async def test_what_the_database_keeps_is_pruned_by_age_and_size(database: Database) -> None:
    now = [NOW]
    cache = AnswerCache(clock=lambda: now[0])
    cache.take(Keeping(is_used=True, store="sqlite", max_bytes=20_000))
    await cache.open(database)
    table = cache._table
    assert table is not None
    for number in range(30):
        now[0] += 1
        cache.put(kept(f"{number:02}", 1000, created=now[0], ttl_s=5 if number == 29 else 600))
    await table.flush()
    now[0] += 10
    await table.prune()
    assert await count(database) == 18, "to a tenth below the limit, without the one that was too old"
    assert cache.evicted == 11
    assert cache.stored_bytes == 18_000, "which are not the journal's"
    cache.take(Keeping())
    cache.take(Keeping(is_used=True, store="sqlite", max_bytes=20_000))
    assert await cache.find(b"00") is None and await cache.find(b"29") is None
    assert await cache.find(b"28") is not None and cache.entries == 1
    await cache.close()


async def test_processes_share_what_is_in_the_database(database: Database) -> None:
    one, other = AnswerCache(), AnswerCache()
    for cache in (one, other):
        cache.take(Keeping(is_used=True, store="sqlite"))
        await cache.open(database)
    now = one.clock()
    one.put(kept("a", created=now))
    assert one._table is not None
    await one._table.flush()
    found = await other.find(b"a")
    assert found == await one.find(b"a") and found is not None
    await purge_answers(database, "a", None)
    for cache in (one, other):
        await cache.look()
        assert await cache.find(b"a") is None
        await cache.close()


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(ANSWERS))).scalar_one())


@pytest.mark.parametrize("store", ["", ON_DISK])
async def test_purging_erases_what_a_running_server_holds(serve: Serve, store: str) -> None:
    client = await cached(serve, more=store)
    database, keys = client.runtime.database, client.runtime.keys
    assert database is not None and keys is not None
    tokens = [(await create_key(database, name))[1] for name in ("one", "other")]
    await keys.refresh()
    one, other = ({"authorization": f"Bearer {token}"} for token in tokens)
    for who in (one, other):
        await client.chat("hi", headers=who, user="ann")
        await client.chat("ho", headers=who)
    await purge_answers(database, "one", None)
    await client.runtime.answers.look()
    assert [said(await client.chat("hi", headers=who)) for who in (one, other)] == ["miss", "hit"]
    await purge_answers(database, None, "ann")
    await client.runtime.answers.look()
    assert [said(await client.chat(text, headers=other)) for text in ("hi", "ho")] == ["miss", "hit"]


async def test_a_database_that_refuses_is_a_miss(serve: Serve) -> None:
    client = await cached(serve, more=ON_DISK)
    table = client.runtime.answers._table
    assert table is not None and client.runtime.database is not None
    await table.flush()
    async with client.runtime.database.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE answers RENAME TO gone")
    replies = [await client.chat("hi"), await client.chat("hi")]
    assert [said(reply) for reply in replies] == ["miss", "hit"], "it is in main memory, too"
    async with client.runtime.database.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE gone RENAME TO answers")
    assert asked(client) == 1


def test_gateway_purge(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_HOME", str(home))

    async def serve_once() -> None:
        models = scripted(HELLO, more=ON_DISK)
        async with running(tmp_path, models, default=POLICY) as client:
            await client.chat("hi")
            await client.chat("ho")

    asyncio.run(serve_once())
    told = CliRunner().invoke(cli.app, ["purge", "--tenant", "", "--json"])
    assert '"answers": 2' in told.output
    told = CliRunner().invoke(cli.app, ["purge", "--tenant", ""])
    assert "0 cached answers" in told.output
