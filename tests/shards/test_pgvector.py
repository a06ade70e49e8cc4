"""Shards on PostgreSQL whose vectors pgvector searches. What the index finds is tested in `test_postgres_index` too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.shards import Scope, audiences_for
from gateway.shards.search.index import ShardIndex
from gateway.shards.search.vector_table import APPROXIMATELY, text_of
from gateway.shards.store import ShardStore, Where
from gateway.store.database import Database, migrate, open_database
from tests.shards.test_index import ACME, DIMENSIONS, embed, found, shard, vector
from tests.shared_servers import Postgres
from tests.store.conftest import again

BEFORE = "0011"
IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_shard_vectors_8'::regclass"


@pytest.fixture
async def database(pgvector: Postgres, postgres_url: str) -> AsyncIterator[Database]:
    database = await open_database(Path(), postgres_url)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> ShardStore:
    return ShardStore(database)


@asynccontextmanager
async def started(database: Database, **settings: Any) -> AsyncIterator[ShardIndex]:
    index = ShardIndex(database, refresh_s=600, **settings)
    await index.start()
    try:
        await index.refresh()
        yield index
    finally:
        await index.close()


def drawn(count: int, dimensions: int = DIMENSIONS, seed: int = 1) -> list[bytes]:
    rows = np.random.default_rng(seed).standard_normal((count, dimensions)).astype("<f4")
    return [row.tobytes() for row in rows]


async def put(store: ShardStore, vectors: Sequence[bytes], **more: Any) -> list[str]:
    shards = await store.put([shard(f"Dog {n}.", **more) for n in range(len(vectors))])
    await embed(store, {one.fact: vector for one, vector in zip(shards, vectors, strict=True)})
    return [one.id for one in shards]


async def told(database: Database, sql: str) -> list[Any]:
    async with database.join() as connection:
        return [tuple(row) for row in await connection.exec_driver_sql(sql)]


async def do(database: Database, sql: str) -> None:
    async with database.join() as connection:
        await connection.exec_driver_sql(sql)


def nearest(rows: Sequence[bytes], asked: bytes, count: int) -> list[tuple[int, float]]:
    matrix, question = np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1), np.frombuffer(asked, "<f4")
    cosines = matrix @ question / np.linalg.norm(matrix, axis=1) / np.linalg.norm(question)
    return [(int(n), float(cosines[n])) for n in np.argsort(-cosines)[:count]]


async def test_no_vector_is_in_memory_and_the_best_are_found_with_exact_cosines(
    database: Database, store: ShardStore
) -> None:
    vectors = drawn(100)
    ids = await put(store, vectors)
    async with started(database) as index:
        assert index.engine is not None
        assert (len(index.engine.vectors), index.engine.vectors.size_bytes, index.vectors) == (0, 0, 100)
        for asked in drawn(5, seed=2):
            hits = (await index.find(ACME, "", asked))[:10]
            expected = nearest(vectors, asked, 10)
            assert [hit.shard for hit in hits] == [ids[n] for n, _ in expected]
            assert [hit.cosine for hit in hits] == pytest.approx([cosine for _, cosine in expected], abs=1e-6)


async def test_in_a_graph_of_all_each_audience_finds_its_own(database: Database, store: ShardStore) -> None:
    tenants = ["acme", "rival", "small"]
    own = {}
    for tenant, count in zip(tenants, (60, 200, 2), strict=True):
        own[tenant] = await put(store, drawn(count, seed=count), tenant=tenant)
    everybodys = await put(store, [vector(1)], tenant="acme", scope=Scope.GLOBAL)
    async with started(database, exact_limit=1) as index:
        for tenant in tenants:
            for asked in drawn(5, seed=3):
                hits = await found(index, "", asked, audiences_for(tenant, None))
                assert set(hits) <= {*own[tenant], *everybodys}
                assert len(hits) == min(30, len(own[tenant]) + 1)
        assert await found(index, "", vector(1), audiences_for("nobody", None)) == everybodys


async def test_a_graph_that_leads_elsewhere_is_not_all_that_is_looked_at(database: Database, store: ShardStore) -> None:
    far = await put(store, [vector(-1, n / 100) for n in range(40)])
    await put(store, [vector(1, n / 100) for n in range(100)], tenant="rival")
    async with started(database, exact_limit=10) as index:
        assert index._searching is not None
        for setting in ("hnsw.ef_search = 1", "hnsw.iterative_scan = off", "enable_sort = off"):
            index._searching.connection.execute(f"SET {setting}")
        hits = await found(index, "", vector(1), ACME)
        assert len(hits) == 30 and set(hits) <= set(far)


async def test_vectors_and_texts_that_were_erased_are_in_no_file(database: Database, store: ShardStore) -> None:
    await put(store, drawn(50))
    async with started(database):
        await store.delete(Where())
    await database.rewrite()
    sizes = "SELECT pg_relation_size('shard_vectors'), pg_relation_size('shard_fts'), pg_relation_size('shard_keys')"
    assert await told(database, sizes) == [(0, 0, 0)]


async def test_models_of_several_sizes_have_an_index_each_that_searches_use(
    database: Database, store: ShardStore
) -> None:
    sizes = (DIMENSIONS, 12, 4096)  # the last is too large for an index of all its numbers
    texts = {size: [f"{size} {n}." for n in range(20)] for size in sizes}
    vectors = {size: drawn(20, size) for size in sizes}
    await store.put([shard(text) for own in texts.values() for text in own])
    await embed(store, {text: one for s in sizes for text, one in zip(texts[s], vectors[s], strict=True)})
    async with started(database, exact_limit=10) as index:
        for size in sizes:
            hits = await index.find(ACME, "", vectors[size][7])
            assert len(hits) == 20 and hits[0].text == texts[size][7]
            assert hits[0].cosine == pytest.approx(1)
            numbers = min(size, 4000)
            query = APPROXIMATELY.format(dimensions=size, numbers=numbers) % (
                "ARRAY['g']", f"'{text_of(np.frombuffer(vectors[size][0], '<f4'))}'", 3
            )  # fmt: skip
            async with database.join() as connection:
                await connection.exec_driver_sql("SET LOCAL enable_sort = off")
                plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {query}")).scalars())
            assert f"Index Scan using ix_shard_vectors_{size} on" in plan


async def test_keys_of_older_versions_and_of_times_without_it_are_found(database: Database, store: ShardStore) -> None:
    async with database.write() as connection:
        await connection.run_sync(migrate, BEFORE)
    first = await put(store, [vector(1)])
    async with database.write() as connection:
        await connection.run_sync(migrate)
    async with started(database) as index:
        assert await found(index, "", vector(1)) == first
    await do(database, "DROP EXTENSION vector CASCADE")
    second = await put(store, [vector(0, 1)])
    async with started(database) as index:
        assert await found(index, "", vector(1)) == [*first, *second]
    async with database.write() as connection:
        await connection.run_sync(migrate, BEFORE)
    await put(store, [vector(1)])


async def test_two_gateways_that_start_at_once_share_the_work(database: Database, store: ShardStore) -> None:
    vectors = drawn(300)
    ids = await put(store, vectors)
    other = await again(database)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(once(one, vectors[7])) for one in (database, other)]
    assert [task.result()[0] for task in tasks] == [ids[7], ids[7]]
    assert await told(database, "SELECT count(*), count(embedding) FROM shard_vectors") == [(300, 300)]
    assert await told(database, IS_VALID) == [(True,)]
    await other.close()


async def once(database: Database, asked: bytes) -> list[str]:
    async with started(database, exact_limit=50) as index:
        while index.vectors < 300:  # the other has some of them in hand
            await index.refresh()
        return await found(index, "", asked)


async def test_a_vector_that_is_made_anew_takes_the_place_of_the_old(database: Database, store: ShardStore) -> None:
    ids = await put(store, [vector(1), *[vector(0, 1, n) for n in range(60)]])  # more than are ranked again
    async with started(database) as index:
        assert (await found(index, "", vector(1)))[0] == ids[0]
        keys = await told(database, f"SELECT id FROM shard_keys WHERE shard = '{ids[5]}'")
        await store.set_vectors({keys[0][0]: vector(0, 0, 0, 1)})
        await index.refresh()
        assert (await found(index, "", vector(0, 0, 0, 1)))[0] == ids[5]
        await store.forget_vectors()
        assert await told(database, "SELECT count(*) FROM shard_vectors") == [(0,)]


async def test_an_index_whose_making_broke_off_is_made_again(database: Database, store: ShardStore) -> None:
    vectors = drawn(30)
    ids = await put(store, vectors)
    async with started(database, exact_limit=10):
        pass
    await do(database, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_shard_vectors_8'::regclass")
    async with started(database, exact_limit=10) as index:
        assert (await found(index, "", vectors[3]))[0] == ids[3]
    assert await told(database, IS_VALID) == [(True,)]


async def test_new_vectors_are_found_by_themselves(database: Database, store: ShardStore) -> None:
    index = ShardIndex(database, refresh_s=0.02)
    await index.start()
    (rex,) = await put(store, [vector(1)])
    async with asyncio.timeout(10):
        while not index.vectors:
            await asyncio.sleep(0.01)
    assert await found(index, "", vector(1)) == [rex]
    await index.close()
