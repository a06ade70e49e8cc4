"""The driver's turns: one a statement, and none left behind by those who stop waiting."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from gateway.store.database import Database
from gateway.store.sqlite_driver import Connection, Cursor, connect
from tests.store.conftest import in_a_file

pytestmark = in_a_file


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was done in a connection's thread."""
    taken, execute = list[str](), Connection._execute

    async def counting(self: Connection, work: Any, *arguments: Any, **options: Any) -> Any:
        taken.append(work.__name__)
        return await execute(self, work, *arguments, **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Connection, "_execute", counting)
    return taken


async def test_a_statement_and_its_rows_are_one_turn(database: Database, turns: list[str]) -> None:
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT 1 UNION SELECT 2"))).scalars().all() == [1, 2]
        assert (await connection.execute(text("SELECT 1 WHERE 1 = 2"))).all() == []
    assert turns == ["_read"] * 3 + ["rollback"], "the first begins"


async def test_what_was_written_is_counted_and_told(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY, word TEXT)"))
        many = await connection.execute(text("INSERT INTO t (word) VALUES (:w)"), [{"w": "a"}, {"w": "b"}])
        assert many.rowcount == 2
        told = await connection.execute(text("INSERT INTO t (word) VALUES ('c') RETURNING n"))
        assert told.scalar() == 3
        assert (await connection.execute(text("DELETE FROM t WHERE n > 1"))).rowcount == 2


async def test_who_stops_waiting_leaves_nothing_open(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3000000) SELECT sum(x) FROM c"
    began, read = threading.Event(), Cursor._read

    def noting(self: Cursor, sql: str, parameters: Any) -> list[Any]:
        if sql == slow:
            began.set()
        return read(self, sql, parameters)

    monkeypatch.setattr(Cursor, "_read", noting)

    async def ask() -> None:
        async with database.write() as connection:
            await connection.execute(text(slow))

    for _ in range(3):
        began.clear()
        task = asyncio.create_task(ask())
        assert await asyncio.to_thread(began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10), database.write() as connection:  # the lock is free again
            assert (await connection.execute(text("SELECT 1"))).scalar() == 1


async def test_rows_may_be_fetched_in_pieces(database: Database) -> None:
    async with database.read() as connection:
        rows = text("SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4")
        async with connection.stream(rows) as streamed:
            assert [number async for number in streamed.scalars()] == [1, 2, 3, 4]
        cursor = (await connection.get_raw_connection()).driver_connection.cursor()  # type: ignore[union-attr]
        await cursor.execute(rows.text)
        assert [await cursor.fetchone(), await cursor.fetchmany(2)] == [(1,), [(2,), (3,)]]
        assert [await cursor.fetchmany(), await cursor.fetchone(), await cursor.fetchall()] == [[(4,)], None, []]


async def test_errors_are_the_drivers_own(database: Database, tmp_path: Path) -> None:
    async with database.read() as connection:
        with pytest.raises(OperationalError, match="no such table: nowhere"):
            await connection.execute(text("SELECT * FROM nowhere"))
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        await connect(tmp_path / "no" / "folder.db", 1.0)
