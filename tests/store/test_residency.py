"""What became of models is kept: written soon, never in anybody's way, bounded."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from gateway.engines.footprint import Footprint
from gateway.engines.wishes import Event, Reason
from gateway.store import residency as residency_module
from gateway.store import sqlite
from gateway.store.database import Database, open_database
from gateway.store.residency import GATEWAY, STARTED, ResidencyLog, ResidencyRow
from gateway.store.tables import RESIDENCY

DAY_S = 86_400.0
LOADED = Event(1000.0, "core", "warm", Reason.LOADED, "loaded", Footprint(3, 2), 1.5)


def step(at: float, model: str = "core") -> Event:
    return replace(LOADED, at=at, model=model)


async def count(database: Database) -> int:
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(RESIDENCY))).scalar_one()


@pytest.fixture
async def impatient(home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.0)
    database = await open_database(home)
    yield database
    await database.close()


async def test_a_step_is_found_as_it_was_told(database: Database) -> None:
    log = ResidencyLog(database)
    log.note(LOADED)
    assert await log.events(0, 2000) == [ResidencyRow(1000.0, "core", "warm", "loaded", "loaded", 3, 2, 1.5)]
    assert await count(database) == 1


async def test_steps_are_written_within_a_second_and_the_start_comes_first(database: Database) -> None:
    log = ResidencyLog(database)
    await log.start(999.0, (10, None))
    log.note(LOADED)
    async with asyncio.timeout(1):
        while await count(database) < 2:
            await asyncio.sleep(0.01)
    await log.close()
    started, loaded = await residency_module.events(database, 0, 2000)
    assert (started.at, started.model, started.stage) == (999.0, GATEWAY, STARTED)
    assert (started.ram_bytes, started.gpu_bytes) == (10, None)
    assert loaded.model == "core"


async def test_what_came_last_before_is_told_for_each_model(database: Database) -> None:
    log = ResidencyLog(database)
    for at, model in ((1, "a"), (2, "b"), (3, "a"), (11, "b"), (12, "a"), (21, "a")):
        log.note(step(at, model))
    assert [(row.at, row.model) for row in await log.events(10, 20)] == [(2, "b"), (3, "a"), (11, "b"), (12, "a")]


async def test_a_full_queue_drops_and_counts(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    log = ResidencyLog(database, max_queued=3)
    for at in range(5):
        log.note(step(at))
    assert log.dropped == 2
    assert await log.flush() and await count(database) == 3
    assert "2 steps were not recorded" in caplog.text


async def test_a_locked_database_only_delays(impatient: Database) -> None:
    log = ResidencyLog(impatient)
    log.note(LOADED)
    with closing(sqlite3.connect(impatient.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not await log.flush()
        other.execute("ROLLBACK")
    assert await log.flush() and await count(impatient) == 1


async def test_old_rows_go_and_the_oldest_above_the_most(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency_module, "ROWS_A_DELETE", 3)
    now = 100 * DAY_S
    log = ResidencyLog(database, max_age_days=30, max_rows=15, clock=lambda: now)
    for day in range(60, 100):
        log.note(step(day * DAY_S + 1))
    await log.flush()
    assert await log.prune() == 25
    assert [row.at for row in await log.events(0, now)] == [day * DAY_S + 1 for day in range(85, 100)]
    log.limit(max_age_days=5)
    assert await log.prune() == 10


async def test_its_size_is_about_what_it_takes(database: Database) -> None:
    log = ResidencyLog(database)
    before = await database.used_bytes()
    for at in range(3000):
        log.note(replace(step(at), why="makes room for 'a-model-1.5b'"))
    await log.flush()
    taken = await database.used_bytes() - before
    assert 0.6 * taken < log.size_bytes < 1.6 * taken


async def test_closing_writes_what_waits(database: Database) -> None:
    log = ResidencyLog(database, flush_every_s=3600)
    await log.start(999.0, (None, None))
    log.note(LOADED)
    await log.close()
    log.note(LOADED)
    assert await count(database) == 2 and log.dropped == 1
