from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import BodyTooLarge
from gateway.store import sqlite
from gateway.store.database import FILE_NAME, Database, open_database
from gateway.store.journal import Journal
from gateway.store.responses import MAX_AGE_S, ResponseStore, Stored
from tests.store.conftest import again


class Clock:
    now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def stored(text: str, previous: str | None = None) -> Stored:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text.upper()}]}
    return Stored([{"type": "message", "role": "user", "content": text}], {"id": text, "output": [said]}, previous)


async def ids(store: ResponseStore, *names: str, key: str | None = None) -> list[str]:
    return [name for name in names if await store.get(name, key) is not None]


async def test_a_response_is_there_for_the_key_that_asked_for_it_only(database: Database) -> None:
    store = ResponseStore(database)
    assert await store.put("a", "one", stored("hi"))
    assert await store.put("b", None, stored("ho"))
    assert await store.get("a", "one") == stored("hi")
    assert [await store.get("a", key) for key in ("two", None)] == [None, None]
    assert await store.get("b", None) == stored("ho") and await store.get("b", "one") is None
    assert await store.chain("a", "two") is None
    assert not await store.delete("a", "two")
    assert await store.delete("a", "one") and await store.get("a", "one") is None


async def test_a_conversation_comes_with_its_first_response_first(database: Database) -> None:
    store, previous = ResponseStore(database), None
    for number in range(30):
        assert await store.put(f"r{number}", "k", stored(f"r{number}", previous))
        previous = f"r{number}"
    chain = await store.chain("r29", "k")
    assert chain is not None and [one.response["id"] for one in chain] == [f"r{n}" for n in range(30)]
    assert [item["role"] for item in chain[0].items] == ["user", "assistant"]
    short = await store.chain("r3", "k")
    assert short is not None and len(short) == 4


async def test_a_conversation_with_a_response_deleted_cannot_be_gone_on_with(database: Database) -> None:
    store = ResponseStore(database)
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        await store.put(name, None, stored(name, previous))
    await store.delete("b", None)
    assert await store.chain("c", None) is None
    assert await store.chain("a", None) is not None


async def test_a_response_goes_after_a_day_unless_it_was_gone_on_with(database: Database) -> None:
    clock = Clock()
    store = ResponseStore(database, clock)
    for name in ("kept", "left"):
        await store.put(name, None, stored(name))
    clock.now += MAX_AGE_S - 1
    await store.put("next", None, stored("next", "kept"))
    clock.now += 2
    assert await ids(store, "kept", "left", "next") == ["kept", "next"]
    assert len(await store.chain("next", None) or ()) == 2
    clock.now += MAX_AGE_S
    await store.start()
    assert store.size_bytes == 0


async def test_what_is_too_old_goes_when_others_are_stored(database: Database) -> None:
    clock = Clock()
    store = ResponseStore(database, clock)
    await store.put("old", None, stored("old"))
    before = store.size_bytes
    clock.now += MAX_AGE_S + 1
    await store.put("new", None, stored("new"))
    assert store.size_bytes == before  # one of the same size


async def test_a_response_that_is_too_large_is_not_stored(database: Database) -> None:
    store = ResponseStore(database, max_response_bytes=1000)
    assert not await store.put("a", None, stored("x" * 1000))
    assert await store.get("a", None) is None and store.size_bytes == 0


async def test_the_oldest_go_first_when_all_take_too_much(database: Database) -> None:
    clock = Clock()
    store = ResponseStore(database, clock, max_bytes=20_000)
    names = [f"r{number:03d}" for number in range(100)]
    for name in names:
        clock.now += 1
        assert await store.put(name, None, stored(name * 100))
        assert store.size_bytes <= 20_000
    left = await ids(store, *names)
    assert left and left == names[-len(left) :]
    again = ResponseStore(database, clock)
    await again.start()
    assert again.size_bytes == store.size_bytes


async def test_a_conversation_larger_than_a_body_may_be_is_refused(database: Database) -> None:
    store = ResponseStore(database, max_chain_bytes=5000)
    await store.put("a", None, stored("a" * 1000))
    await store.put("b", None, stored("b" * 1000, "a"))
    assert len(await store.chain("a", None) or ()) == 1
    with pytest.raises(BodyTooLarge, match="grown larger than") as caught:
        await store.chain("b", None)
    assert caught.value.param == "previous_response_id"


async def test_many_at_once_from_two_servers_are_all_stored(database: Database) -> None:
    other = await again(database)
    stores = [ResponseStore(database), ResponseStore(other)]
    names = [f"r{number}" for number in range(60)]
    kept = await asyncio.gather(*(stores[i % 2].put(name, None, stored(name)) for i, name in enumerate(names)))
    assert all(kept)
    assert await ids(stores[0], *names) == names
    await other.close()


async def test_a_database_that_stays_locked_is_no_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    database = await open_database(home)
    store = ResponseStore(database)
    with closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with caplog.at_level(logging.WARNING):
            assert not await store.put("a", None, stored("a"))
        connection.execute("ROLLBACK")
    assert "a response was not stored: database is locked" in caplog.text
    assert await store.put("a", None, stored("a"))
    await database.close()


async def test_stored_responses_do_not_push_the_journal_out(database: Database, make_trace: Any) -> None:
    store = ResponseStore(database)
    await store.put("a", None, stored("x" * 2_000_000))
    journal = Journal(database, max_size_mb=1, others_bytes=lambda: store.size_bytes)
    trace = make_trace()
    journal.record(trace)
    await journal.flush()
    await journal.prune()
    assert await journal.find(trace.id) is not None
