from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select

from gateway.store import journal as journal_module
from gateway.store import sqlite, write_behind
from gateway.store.complaints import Complaints
from gateway.store.database import FILE_NAME, Database, open_database
from gateway.store.feedback import Feedback
from gateway.store.journal import Journal
from gateway.store.rows import JournalRow, values_of
from gateway.store.tables import JOURNAL
from gateway.trace import RequestTrace
from tests.store.conftest import in_a_file

MakeTrace = Callable[..., RequestTrace]
DAY_S = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def impatient(home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A database that does not wait for locks."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.0)
    database = await open_database(home)
    yield database
    await database.close()


@contextmanager
def locked(database: Database) -> Iterator[None]:
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def ids(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(select(JOURNAL.c.id).order_by(JOURNAL.c.created))).scalars())


async def count(database: Database) -> int:
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(JOURNAL))).scalar_one()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0.005)


async def test_a_recorded_request_is_found_before_and_after_it_is_written(
    database: Database, make_trace: MakeTrace
) -> None:
    journal = Journal(database)
    trace = make_trace(("core", "checks", None), ("expert", None, 1.0))
    journal.record(trace)
    before = await journal.find(trace.id)
    assert await ids(database) == []
    assert await journal.flush()
    assert await ids(database) == [trace.id]
    after = await journal.find(trace.id)
    assert before == after == JournalRow(*values_of(trace))
    assert after is not None and after.escalated is True
    assert await journal.find("0" * 32) is None


async def test_a_record_ends_its_trace(database: Database) -> None:
    trace = RequestTrace("auto")
    Journal(database).record(trace)
    assert trace.ended is not None


async def test_many_rows_are_written_in_several_batches(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    for _ in range(write_behind.ROWS_A_WRITE * 2 + 7):
        journal.record(make_trace())
    assert await journal.flush()
    assert await count(database) == write_behind.ROWS_A_WRITE * 2 + 7


async def test_a_full_queue_drops_and_counts(
    database: Database, make_trace: MakeTrace, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(database, max_rows_queued=3)
    for _ in range(5):
        journal.record(make_trace())
    assert journal.dropped == 2
    assert await journal.flush()
    assert await count(database) == 3
    assert "2 requests were not recorded" in caplog.text
    journal.record(make_trace())
    assert await journal.flush()
    assert (await count(database), journal.dropped) == (4, 2)


async def test_rows_are_written_in_the_background(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database, flush_every_s=0.01)
    await journal.start()
    journal.record(make_trace())
    await until(lambda: is_count(database, 1))
    journal.record(make_trace())
    await until(lambda: is_count(database, 2))
    await journal.close()


async def is_count(database: Database, expected: int) -> bool:
    return await count(database) == expected


async def test_a_queue_that_is_half_full_is_written_early(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database, max_rows_queued=10, flush_every_s=3600)
    await journal.start()
    for _ in range(6):
        journal.record(make_trace())
    await until(lambda: is_count(database, 6))
    await journal.close()


async def test_rows_recorded_during_a_flush_are_kept(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    for _ in range(50):
        journal.record(make_trace())
    flushing = asyncio.create_task(journal.flush())
    while not flushing.done():
        journal.record(make_trace())
        await asyncio.sleep(0)
    recorded = len(journal._queue) + await count(database)
    assert await journal.flush()
    assert await count(database) == recorded > 50


@in_a_file
async def test_a_full_disk_loses_nothing_that_was_taken(
    database: Database, make_trace: MakeTrace, caplog: pytest.LogCaptureFixture
) -> None:
    pages = 2**30

    @event.listens_for(database.engine.sync_engine, "checkout")
    def limit(connection: Any, record: Any, proxy: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count={pages}")
        cursor.close()

    journal = Journal(database)
    traces = [make_trace() for _ in range(500)]
    journal.record(traces[0])
    assert await journal.flush()
    pages = 1  # SQLite takes the size it has
    for trace in traces[1:]:
        journal.record(trace)
    assert not await journal.flush()
    assert journal.failures == 1
    assert "database or disk is full" in caplog.text
    assert "core" not in caplog.text  # no row is in the log
    assert (await journal.find(traces[-1].id)) is not None
    pages = 2**30
    assert await journal.flush()
    assert await ids(database) == [trace.id for trace in traces]
    assert journal.dropped == 0


async def test_a_locked_database_is_tried_again_and_told_once_a_minute(
    impatient: Database, make_trace: MakeTrace, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    journal = Journal(impatient, max_rows_queued=2, clock=clock)
    with locked(impatient):
        for _ in range(3):
            journal.record(make_trace())
            assert not await journal.flush()
        assert len(caplog.records) == 1
        clock.now += 61
        assert not await journal.flush()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "database is locked; 2 requests wait, 1 were dropped" in caplog.messages[1]
    assert "2 more like this" in caplog.messages[1]
    assert (journal.failures, journal.dropped) == (4, 1)
    assert await journal.flush()
    assert await count(impatient) == 2


async def test_the_background_survives_a_locked_database(impatient: Database, make_trace: MakeTrace) -> None:
    async def has_failed() -> bool:
        return journal.failures >= 3

    journal = Journal(impatient, flush_every_s=0.01)
    await journal.start()
    with locked(impatient):
        journal.record(make_trace())
        await until(has_failed)
    await until(lambda: is_count(impatient, 1))
    await journal.close()


async def test_a_trace_recorded_twice_is_one_row(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    first, second = make_trace(), make_trace()
    for trace in (first, first, second):
        journal.record(trace)
    assert await journal.flush()
    assert await ids(database) == [first.id, second.id]
    assert (journal.dropped, journal.failures) == (0, 0)


async def test_a_flush_that_is_cancelled_loses_and_doubles_nothing(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    traces = [make_trace() for _ in range(40)]
    for trace in traces:
        journal.record(trace)
    for turns in range(30):
        flushing = asyncio.create_task(journal.flush())
        for _ in range(turns):
            await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
    assert await journal.flush()
    assert sorted(await ids(database)) == sorted(trace.id for trace in traces)


async def test_a_row_that_cannot_be_stored_keeps_no_other_out(
    database: Database, make_trace: MakeTrace, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(database)
    traces = [make_trace() for _ in range(3)]
    traces[1].policy = object()  # type: ignore[assignment]  # a bug somewhere else
    for trace in traces:
        journal.record(trace)
    assert await journal.flush()
    assert await ids(database) == [traces[0].id, traces[2].id]
    assert (journal.dropped, journal.failures) == (1, 1)
    assert "could not be given a row" in caplog.text


async def test_closing_writes_what_waits(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database, flush_every_s=3600)
    await journal.start()
    journal.record(make_trace())
    await journal.close()
    assert await count(database) == 1
    journal.record(make_trace())
    assert journal.dropped == 1
    await journal.close()


async def test_closing_tells_what_is_lost(
    impatient: Database, make_trace: MakeTrace, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(impatient)
    journal.record(make_trace())
    with locked(impatient):
        await journal.close()
    assert "1 requests were not recorded" in caplog.text
    assert journal.dropped == 1


async def test_old_rows_are_pruned(database: Database, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "ROWS_A_DELETE", 4)
    clock = Clock()
    journal = Journal(database, max_age_days=30, clock=clock)
    traces = [make_trace() for _ in range(20)]
    for day, trace in enumerate(traces):
        trace.created = clock.now - (40 - day) * DAY_S + 1
        journal.record(trace)
    assert await journal.flush()
    assert await journal.prune() == 10
    assert await ids(database) == [trace.id for trace in traces[10:]]
    clock.now += DAY_S
    assert await journal.prune() == 1
    assert await journal.prune() == 0


async def test_ratings_go_with_what_they_rated(database: Database, make_trace: MakeTrace) -> None:
    clock = Clock()
    journal, feedback = Journal(database, max_age_days=30, clock=clock), Feedback(database, clock=clock)
    old, new = make_trace(), make_trace()
    for trace in (old, new):
        trace.created = clock.now
        journal.record(trace)
        await journal.flush()
        await feedback.add(trace.id, "rating", True)
        clock.now += 20 * DAY_S
    await journal.prune()
    assert await feedback.of(old.id) == ()
    assert len(await feedback.of(new.id)) == 1


@in_a_file
async def test_the_oldest_rows_go_while_the_database_is_too_large(
    home: Path, database: Database, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "ROWS_A_DELETE", 50)
    journal = Journal(database, max_size_mb=0.5)
    traces = [make_trace() for _ in range(1500)]
    for second, trace in enumerate(traces):
        trace.created += second
        journal.record(trace)
    assert await journal.flush()
    assert await database.used_bytes() > 2**20 / 2
    deleted = await journal.prune()
    assert 0 < deleted < 1500
    assert 2**20 / 4 < await database.used_bytes() <= 2**20 / 2
    assert await ids(database) == [trace.id for trace in traces[deleted:]]
    assert await journal.prune() == 0
    await journal.close()
    await database.close()
    assert (home / FILE_NAME).stat().st_size <= 2**20 / 2


@in_a_file
async def test_a_cap_below_the_empty_database_ends(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database, max_size_mb=0.001)
    journal.record(make_trace())
    assert await journal.flush()
    assert await journal.prune() == 1


async def test_pruning_begins_at_start_and_after_many_rows(
    database: Database, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind, "FIRST_PRUNE_S", 0.0)
    monkeypatch.setattr(journal_module, "PRUNE_EVERY_ROWS", 3)
    old = make_trace()
    old.created = 0.0
    earlier = Journal(database)
    earlier.record(old)
    await earlier.flush()
    journal = Journal(database)
    await journal.start()
    await until(lambda: is_count(database, 0))
    for _ in range(3):
        trace = make_trace()
        trace.created = 0.0
        journal.record(trace)
    assert await journal.flush()
    await until(lambda: is_count(database, 0))
    await journal.close()


async def test_a_pruning_that_fails_is_told_and_tried_again(
    impatient: Database, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def has_failed() -> bool:
        return journal.failures > 0

    monkeypatch.setattr(write_behind, "FIRST_PRUNE_S", 0.0)
    monkeypatch.setattr(journal_module, "PRUNE_EVERY_S", 0.01)
    trace = make_trace()
    trace.created = 0.0
    journal = Journal(impatient)
    journal.record(trace)
    assert await journal.flush()
    with locked(impatient):
        await journal.start()
        await until(has_failed)
    await until(lambda: is_count(impatient, 0))
    await journal.close()
    assert "could not be pruned: database is locked" in caplog.text


def test_a_clock_set_back_does_not_silence_complaints(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    complaints = Complaints(logging.getLogger("tests"), clock=clock)
    complaints.say("a")
    complaints.say("b")
    clock.now -= 3600
    complaints.say("c")
    assert caplog.messages == ["a", "c (1 more like this since the last line)"]


async def test_many_rows_are_few_statements(database: Database, make_trace: MakeTrace) -> None:
    """Each waits for the event loop, which requests may keep busy."""
    said: list[str] = []
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *args: said.append(args[2]))
    journal = Journal(database)
    for _ in range(2000):
        journal.record(make_trace())
    assert await journal.flush()
    assert len(await ids(database)) == 2000
    assert len([one for one in said if one.startswith("INSERT")]) < 20
