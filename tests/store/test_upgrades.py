"""A database of each older version, with rows in all of its tables, is brought to this version's and keeps them."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, Table, event, insert, select
from sqlalchemy.sql.sqltypes import Boolean, Float, Integer, LargeBinary

from gateway.errors import GatewayError
from gateway.store import sqlite
from gateway.store.backup import back_up, restore
from gateway.store.database import FILE_NAME, HEAD, migrate, open_database

OLDER = [f"{number:04d}" for number in range(1, int(HEAD))]
ROWS = 3
Rows = dict[str, list[dict[str, Any]]]


def value_for(column: Any, number: int) -> Any:
    """One of the column's type, that differs by row, so that it may stand in what has to be unique."""
    kind = column.type
    if isinstance(kind, Boolean):
        return number % 2 == 0
    if isinstance(kind, Integer):
        return number
    if isinstance(kind, Float):
        return number + 0.5
    if isinstance(kind, LargeBinary):
        return f"{column.name} {number}".encode()
    return f"{column.name} {number}"[: getattr(kind, "length", None)]


def tables_in(connection: Connection) -> list[Table]:
    """Those of the database itself, whatever this version's code thinks of them. FTS5 keeps its own in step."""
    metadata = MetaData()
    metadata.reflect(connection)
    own = ("alembic_version", "shard_fts", "shard_terms")
    return [table for table in metadata.sorted_tables if not table.name.startswith(own)]


def make_old(connection: Connection, revision: str) -> Rows:
    migrate(connection, revision)
    made = {}
    for table in tables_in(connection):
        rows = [{c.name: value_for(c, number) for c in table.columns} for number in range(1, ROWS + 1)]
        connection.execute(insert(table), rows)
        made[table.name] = rows
    return made


def read_all(connection: Connection) -> Rows:
    return {
        table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
        for table in tables_in(connection)
    }


async def database_of(home: Path, revision: str) -> Rows:
    home.mkdir(mode=0o700, exist_ok=True)
    sqlite.make_file(home / FILE_NAME)
    engine = sqlite.make_engine(home / FILE_NAME)
    async with sqlite.upgrading(engine), sqlite.for_writing(engine).begin() as connection:
        made = await connection.run_sync(make_old, revision)
    await engine.dispose()
    return made


async def look(home: Path) -> tuple[Rows, str]:
    database = await open_database(home)
    async with database.read() as connection:
        found = await connection.run_sync(read_all)
        version = (await connection.exec_driver_sql("SELECT version_num FROM alembic_version")).scalar_one()
        assert (await connection.exec_driver_sql("PRAGMA integrity_check")).scalar() == "ok"
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar() == "wal"
    await database.close()
    return found, str(version)


def assert_kept(made: Rows, found: Rows) -> None:
    for name, rows in made.items():
        for before, after in zip(rows, found[name], strict=True):
            assert {column: after[column] for column in before} == before, name


def test_every_older_version_is_tried() -> None:
    assert len(OLDER) == int(HEAD) - 1 > 8


SOME = (OLDER[0], OLDER[-1])


@pytest.mark.parametrize(
    "revision", [one if one in SOME else pytest.param(one, marks=pytest.mark.slow) for one in OLDER]
)
async def test_rows_of_an_older_version_are_kept(tmp_path: Path, revision: str) -> None:
    made = await database_of(tmp_path, revision)
    assert "journal" in made and "keys" in made
    found, version = await look(tmp_path)
    assert version == HEAD
    assert_kept(made, found)


async def test_a_backup_of_an_older_version_is_upgraded_once_it_is_opened(tmp_path: Path) -> None:
    old, home, file = tmp_path / "old", tmp_path / "home", tmp_path / "copy.db"
    made = await database_of(old, OLDER[2])
    copied = await asyncio.to_thread(back_up, old, file, lambda done, total: None)
    assert copied.tables == OLDER[2]
    await asyncio.to_thread(restore, home, file, lambda done, total: None)
    found, version = await look(home)
    assert version == HEAD
    assert_kept(made, found)


async def test_an_upgrade_that_finds_no_room_changes_nothing_and_succeeds_later(tmp_path: Path) -> None:
    made = await database_of(tmp_path, OLDER[0])
    path = tmp_path / FILE_NAME
    with closing(sqlite3.connect(path)) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]

    engine = sqlite.make_engine

    def cramped(path: Path) -> Any:
        made = engine(path)

        @event.listens_for(made.sync_engine, "connect")
        def limit(connection: Any, record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA max_page_count={pages + 1}")
            cursor.close()

        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite, "make_engine", cramped)
        with pytest.raises(GatewayError, match="full"):
            await open_database(tmp_path)
    found, version = await look(tmp_path)
    assert version == HEAD
    assert_kept(made, found)
