"""The database copied while a server writes to it, and put back."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from stat import S_IMODE

import pytest
from sqlalchemy import func, insert, select
from typer.testing import CliRunner

from gateway import cli
from gateway.errors import GatewayError
from gateway.store import backup
from gateway.store.backup import Copy, back_up, restore
from gateway.store.database import FILE_NAME, HEAD, Database, open_database
from gateway.store.journal import Journal
from gateway.store.tables import FEEDBACK, JOURNAL
from gateway.trace import RequestTrace
from tests.store.conftest import in_a_file

MakeTrace = Callable[..., RequestTrace]


def unseen(done: int, total: int) -> None:
    pass


def rows_in(file: Path, table: str = "journal") -> int:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def fill(database: Database, make_trace: MakeTrace, rows: int) -> None:
    journal = Journal(database)
    for _ in range(rows):
        journal.record(make_trace())
    assert await journal.flush()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "part" in path.name]


@in_a_file
async def test_a_copy_has_what_is_still_in_the_log_only_and_is_one_file(
    database: Database, tmp_path: Path, make_trace: MakeTrace
) -> None:
    await fill(database, make_trace, 7)
    home, file = database.path.parent, tmp_path / "copies" / "today.db"
    file.parent.mkdir()
    assert (home / f"{FILE_NAME}-wal").stat().st_size > 0, "nothing was moved into the database itself yet"
    made = await asyncio.to_thread(back_up, home, file, unseen)
    assert made == Copy(file, file.stat().st_size, HEAD, 7)
    assert [path.name for path in file.parent.iterdir()] == ["today.db"]
    assert S_IMODE(file.stat().st_mode) == 0o600
    assert rows_in(file) == 7


@in_a_file
async def test_writers_go_on_while_it_is_copied_and_the_copy_is_of_one_moment(
    database: Database, tmp_path: Path, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write puts a row into both tables: a copy of two moments would have more of one than of the other."""
    monkeypatch.setattr(backup, "PAGES_A_STEP", 16)
    await fill(database, make_trace, 500)
    home, loop, during, steps = database.path.parent, asyncio.get_running_loop(), 0, 0

    async def write() -> None:
        nonlocal during
        async with database.write() as connection:
            rating = {"trace_id": str(during), "created": 1.0, "metric": "good", "value": "true"}
            await connection.execute(insert(FEEDBACK).values(rating))
        await fill(database, make_trace, 1)
        during += 1

    def step(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        asyncio.run_coroutine_threadsafe(write(), loop).result(10)

    file = tmp_path / "copy.db"
    made = await asyncio.to_thread(back_up, home, file, step)
    assert steps == during > 1, "it was copied in steps, and none of them held a writer up"
    assert (made.requests, rows_in(file, "feedback")) == (500, 0)
    async with database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(JOURNAL))).scalar_one() == 500 + during


@in_a_file
async def test_an_older_copy_stays_where_a_new_one_cannot_be_made(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    file.write_text("yesterday's")

    def full(done: int, total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(GatewayError, match="cannot back up .* No space left"):
        await asyncio.to_thread(back_up, database.path.parent, file, full)
    assert file.read_text() == "yesterday's"
    assert leftovers(tmp_path) == []


@in_a_file
async def test_what_cannot_be_a_backup_is_refused(database: Database, tmp_path: Path) -> None:
    home = database.path.parent
    for file in (home, database.path, home / f"{FILE_NAME}-wal"):
        with pytest.raises(GatewayError, match="cannot be a backup"):
            back_up(home, file, unseen)
    with pytest.raises(GatewayError, match="no database at"):
        back_up(tmp_path / "nobody", tmp_path / "copy.db", unseen)
    with pytest.raises(GatewayError, match=r"cannot back up .*No such file"):
        back_up(home, tmp_path / "missing" / "copy.db", unseen)


async def test_a_restored_database_is_served_and_the_old_one_lies_beside_it(
    home: Path, tmp_path: Path, make_trace: MakeTrace
) -> None:
    file = tmp_path / "copy.db"
    database = await open_database(home)
    await fill(database, make_trace, 3)
    back_up(home, file, unseen)
    await fill(database, make_trace, 2)
    with pytest.raises(GatewayError, match="in use by a server or a command"):
        restore(home, file, unseen)
    await database.close()
    done = restore(home, file, unseen, clock=lambda: 1_800_000_000.0)
    assert done.requests == rows_in(home / FILE_NAME) == 3
    assert done.aside == home / f"{FILE_NAME}.before-20270115-080000"
    assert rows_in(done.aside) == 5
    assert not (home / f"{FILE_NAME}-wal").exists() and leftovers(home) == []
    again = restore(home, file, unseen, clock=lambda: 1_800_000_000.0)
    assert again.aside == home / f"{FILE_NAME}.before-20270115-080000-2"
    database = await open_database(home)
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar() == "wal"
    await fill(database, make_trace, 1)
    await database.close()


async def test_what_a_killed_process_left_in_the_log_is_kept_aside_too(
    home: Path, tmp_path: Path, make_trace: MakeTrace
) -> None:
    file, crashed = tmp_path / "copy.db", tmp_path / "crashed"
    back_up(home, file, unseen)
    database = await open_database(home)
    await fill(database, make_trace, 5)
    crashed.mkdir()
    for path in home.glob(f"{FILE_NAME}*"):  # as kill -9 leaves it
        (crashed / path.name).write_bytes(path.read_bytes())
    await database.close()
    done = restore(crashed, file, unseen)
    assert done.aside is not None
    assert (rows_in(crashed / FILE_NAME), rows_in(done.aside)) == (0, 5)


async def test_a_damaged_database_can_be_replaced(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    back_up(home, file, unseen)
    (home / FILE_NAME).write_bytes(b"\xff" * 50_000)
    with pytest.raises(GatewayError, match="damaged or no database"):
        await open_database(home)
    done = restore(home, file, unseen)
    assert done.aside is not None and done.aside.stat().st_size == 50_000
    await (await open_database(home)).close()


def test_into_an_empty_home(home: Path, tmp_path: Path) -> None:
    back_up(home, tmp_path / "copy.db", unseen)
    done = restore(tmp_path / "new" / "home", tmp_path / "copy.db", unseen)
    assert done.aside is None and done.path.exists()
    assert S_IMODE(done.path.stat().st_mode) == 0o600


def test_what_is_no_sound_backup_changes_nothing(home: Path, tmp_path: Path) -> None:
    before = (home / FILE_NAME).read_bytes()
    sound, bad = tmp_path / "copy.db", tmp_path / "bad.db"
    back_up(home, sound, unseen)

    def refused(why: str) -> None:
        with pytest.raises(GatewayError, match=why) as caught:
            restore(home, bad, unseen)
        assert str(bad) in caught.value.message
        assert (home / FILE_NAME).read_bytes() == before
        assert leftovers(home) == []

    refused("there is no file")
    bad.write_text("once upon a time")
    refused("file is not a database")
    data = sound.read_bytes()
    bad.write_bytes(data[:20_000] + b"\xff" * 4096 + data[24_096:])
    refused("damaged|malformed")
    bad.unlink()
    with closing(sqlite3.connect(bad)) as connection:
        connection.execute("CREATE TABLE journal (id TEXT)")
        connection.commit()
    refused("no database of the gateway")
    bad.write_bytes(data)
    with closing(sqlite3.connect(bad)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9000'")
        connection.commit()
    refused(f"newer version.*9000.*{HEAD}")
    with pytest.raises(GatewayError, match="the database itself"):
        restore(home, home / FILE_NAME, unseen)


async def test_nobody_opens_a_database_that_is_being_restored(home: Path, tmp_path: Path) -> None:
    file, loop = tmp_path / "copy.db", asyncio.get_running_loop()
    back_up(home, file, unseen)
    told: list[str] = []

    async def try_to_open() -> None:
        with pytest.raises(GatewayError, match="is being restored") as caught:
            await open_database(home)
        told.append(caught.value.message)

    def step(done: int, total: int) -> None:
        asyncio.run_coroutine_threadsafe(try_to_open(), loop).result(10)

    await asyncio.to_thread(restore, home, file, step)
    assert told
    await (await open_database(home)).close()


def test_the_commands(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "300")
    file, run = str(tmp_path / "copy.db"), CliRunner().invoke
    done = run(cli.app, ["backup", file])
    assert done.exit_code == 0 and f"ok {file}: 0 requests" in done.output and HEAD in done.output
    assert json.loads(run(cli.app, ["backup", file, "--json"]).stdout)["tables"] == HEAD
    done = run(cli.app, ["restore", file])
    assert done.exit_code == 0 and "what was there before" in done.output
    assert json.loads(run(cli.app, ["restore", file, "--json"]).stdout)["aside"].startswith(str(home))


def test_another_servers_database_is_left_to_its_own_programs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://gateway@db.internal/gateway")
    for command in (["backup", "copy.db"], ["restore", "copy.db"]):
        result = CliRunner().invoke(cli.app, command)
        assert isinstance(result.exception, GatewayError) and "pg_" in result.exception.message
