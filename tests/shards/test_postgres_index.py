"""Shards on PostgreSQL: what `test_index` says of the index, again, and what is PostgreSQL's alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.shards.search.index import ShardIndex
from gateway.shards.store import ShardStore
from gateway.store.database import Database, open_database
from tests.shards.test_index import (
    ACME,
    embed,
    found,
    index,
    shard,
    store,
    test_a_changed_shard_is_found_by_its_new_texts_only,
    test_a_key_without_a_vector_is_found_by_text_until_one_is_put,
    test_a_shard_is_found_by_its_words_by_its_vector_and_by_both,
    test_a_shard_that_is_gone_is_found_no_more,
    test_a_text_is_found_before_it_was_followed,
    test_above_the_limit_an_audience_is_searched_in_a_graph,
    test_another_models_vectors_are_noticed_when_the_first_shards_are_gone,
    test_at_most_as_many_as_asked_for_come,
    test_before_the_first_shard_nothing_is_there,
    test_each_text_of_a_shard_finds_it_once,
    test_the_rarer_word_counts_more_and_the_shorter_text,
    test_vectors_of_another_model_take_the_places_of_the_old,
    test_what_is_no_vector_is_passed_over,
    test_while_the_database_cannot_be_read_nothing_is_found_and_the_log_says_so,
    until,
    vector,
)
from tests.store.conftest import again

__all__ = [
    "index",
    "store",
    "test_a_changed_shard_is_found_by_its_new_texts_only",
    "test_a_key_without_a_vector_is_found_by_text_until_one_is_put",
    "test_a_shard_is_found_by_its_words_by_its_vector_and_by_both",
    "test_a_shard_that_is_gone_is_found_no_more",
    "test_a_text_is_found_before_it_was_followed",
    "test_above_the_limit_an_audience_is_searched_in_a_graph",
    "test_another_models_vectors_are_noticed_when_the_first_shards_are_gone",
    "test_at_most_as_many_as_asked_for_come",
    "test_before_the_first_shard_nothing_is_there",
    "test_each_text_of_a_shard_finds_it_once",
    "test_the_rarer_word_counts_more_and_the_shorter_text",
    "test_vectors_of_another_model_take_the_places_of_the_old",
    "test_what_is_no_vector_is_passed_over",
    "test_while_the_database_cannot_be_read_nothing_is_found_and_the_log_says_so",
]


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = await open_database(Path(), postgres_url)
    yield database
    await database.close()


async def test_another_gateways_shards_are_followed_and_its_deletions(database: Database, store: ShardStore) -> None:
    index = ShardIndex(database, refresh_s=0.02)
    await index.start()
    other = await again(database)
    there = ShardStore(other)
    (rex,) = await there.put([shard("Rex is a small brown dog.")])
    await embed(there, {rex.fact: vector(1)})
    await until(lambda: index.vectors == 1)
    assert await found(index, "dog", vector(1)) == [rex.id]
    await there.set_state([rex.id], rex.state.RETIRED)
    await until(lambda: index.size == 0)
    assert await found(index, "dog", vector(1)) == []
    await other.close()
    await index.close()


async def test_two_gateways_write_at_once_and_no_revision_is_lost(database: Database, store: ShardStore) -> None:
    other = await again(database)
    stores = [store, ShardStore(other)]
    await asyncio.gather(*(stores[n % 2].put([shard(f"Dog {n}."), shard(f"Cat {n}.")]) for n in range(20)))
    changes = await store.changes(0, limit=1000)
    assert [revision for revision, _, _ in changes] == list(range(1, 41))
    await other.close()


async def test_others_tenants_are_not_found(database: Database, store: ShardStore, index: ShardIndex) -> None:
    await store.put([shard("Rex is a dog.", tenant="rival")])
    await index.refresh()
    assert await found(index, "dog") == []


async def test_a_connection_that_was_cut_is_made_anew(
    database: Database, store: ShardStore, index: ShardIndex, caplog: pytest.LogCaptureFixture
) -> None:
    (rex,) = await store.put([shard("Rex is a dog.")])
    await index.refresh()
    async with database.join() as connection:
        await connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid != pg_backend_pid() AND datname = current_database()"
        )
    assert await found(index, "dog") == [] and "shards cannot be searched" in caplog.text
    assert await found(index, "dog") == [rex.id]
    assert index.holds_any(ACME)


@pytest.mark.parametrize("question", ["'", "dog' | '@rival", "a & b", "!dog:*", "\\", "who:acme", "\0dog", "%s"])
async def test_no_question_is_a_query(store: ShardStore, index: ShardIndex, question: str) -> None:
    rex, _ = await store.put([shard("Rex is a dog."), shard("Not yours: dog.", tenant="rival")])
    await index.refresh()
    assert await found(index, question) in ([], [rex.id])
