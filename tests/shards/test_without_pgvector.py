"""Shards on a PostgreSQL that has no pgvector, or none that may be used: vectors are held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.shards.search.index import ShardIndex
from gateway.shards.store import ShardStore
from gateway.store.database import Database, open_database
from tests.conftest import postgres_database
from tests.shards.test_index import (
    embed,
    found,
    index,
    shard,
    store,
    test_a_shard_is_found_by_its_words_by_its_vector_and_by_both,
    test_above_the_limit_an_audience_is_searched_in_a_graph,
    vector,
)
from tests.shared_servers import Postgres

__all__ = [
    "index",
    "store",
    "test_a_shard_is_found_by_its_words_by_its_vector_and_by_both",
    "test_above_the_limit_an_audience_is_searched_in_a_graph",
]


@pytest.fixture
async def database(postgres_without_pgvector: Postgres) -> AsyncIterator[Database]:
    with postgres_database(postgres_without_pgvector) as url:
        database = await open_database(Path(), url)
        yield database
        await database.close()


async def vectors_in_memory(database: Database) -> int:
    """Of a gateway that starts now."""
    index = ShardIndex(database, refresh_s=600)
    await index.start()
    try:
        await index.refresh()
        assert index.engine is not None and index.vectors == 1
        assert len(await found(index, "", vector(1))) == 1
        return len(index.engine.vectors)
    finally:
        await index.close()


async def with_a_vector(database: Database) -> None:
    store = ShardStore(database)
    (rex,) = await store.put([shard("Rex is a dog.")])
    await embed(store, {rex.fact: vector(1)})


async def test_the_log_says_that_the_server_has_none(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    await with_a_vector(database)
    assert await vectors_in_memory(database) == 1
    (record,) = caplog.records
    assert "kept in memory" in record.message and "does not have the extension" in record.message


async def test_once_an_administrator_has_made_it_the_next_start_uses_it(
    pgvector: Postgres, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = postgres_url.split("/")[3].split("?")[0]
    pgvector.run(f"CREATE ROLE plain_{name} LOGIN")
    for what in ("TABLES", "SEQUENCES"):
        pgvector.run(f"GRANT ALL ON ALL {what} IN SCHEMA public TO plain_{name}", name)
    pgvector.run(f"GRANT CREATE ON SCHEMA public TO plain_{name}", name)
    pgvector.run(f"ALTER TABLE shard_vectors OWNER TO plain_{name}", name)
    database = await open_database(Path(), postgres_url.replace("//postgres@", f"//plain_{name}@"))
    await with_a_vector(database)
    assert await vectors_in_memory(database) == 1
    (record,) = caplog.records
    assert 'permission denied to create extension "vector"' in record.message
    caplog.clear()
    pgvector.run("CREATE EXTENSION vector", name)
    pgvector.run("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'", name)
    assert await vectors_in_memory(database) == 1
    assert "is 0.7.4, and has to be 0.8 or newer" in caplog.text
    caplog.clear()
    pgvector.run("UPDATE pg_extension SET extversion = '0.8.0' WHERE extname = 'vector'", name)
    assert await vectors_in_memory(database) == 0
    assert not caplog.records
    await database.close()
