from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from stat import S_IMODE

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.pool import QueuePool

from gateway.errors import GatewayError
from gateway.store import database as database_module
from gateway.store import sqlite
from gateway.store.database import FILE_NAME, HEAD, MIGRATIONS, Database, open_database
from gateway.store.tables import FEEDBACK, METADATA
from tests.store.conftest import in_a_file

RATING = {"trace_id": "t", "created": 1.0, "metric": "good", "value": "true"}


async def count(database: Database) -> int:
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(FEEDBACK))).scalar_one()


async def pragma(database: Database, name: str) -> object:
    async with database.read() as connection:
        return (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()


async def test_a_new_home_and_its_files_are_the_owners_only(tmp_path: Path) -> None:
    home = tmp_path / "a" / "100% of it"
    database = await open_database(home)
    async with database.write() as connection:
        await connection.execute(insert(FEEDBACK).values(RATING))
    files = {path.name: S_IMODE(path.stat().st_mode) for path in home.iterdir()}
    await database.close()
    assert S_IMODE(home.stat().st_mode) == 0o700
    assert {FILE_NAME, f"{FILE_NAME}-wal"} <= files.keys()
    assert set(files.values()) == {0o600}


async def test_what_was_written_is_there_again_after_reopening(home: Path) -> None:
    for expected in (1, 2):
        database = await open_database(home)
        async with database.write() as connection:
            await connection.execute(insert(FEEDBACK).values(RATING))
        assert await count(database) == expected
        await database.close()


async def test_closing_waits_for_connections_in_use(home: Path) -> None:
    database = await open_database(home)
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async with database.read() as connection:
            await connection.execute(select(FEEDBACK))
            reading.set()
            await go_on.wait()

    reader = asyncio.create_task(read())
    await reading.wait()
    closed = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    assert not closed.done()
    go_on.set()
    await closed
    assert reader.done()
    pool = database.engine.pool
    assert isinstance(pool, QueuePool) and pool.checkedin() == 0, "given back later, it would never be closed"


@in_a_file
async def test_connections_are_set_up(database: Database) -> None:
    assert await pragma(database, "journal_mode") == "wal"
    assert await pragma(database, "synchronous") == 1
    assert await pragma(database, "foreign_keys") == 1
    assert await pragma(database, "busy_timeout") == sqlite.BUSY_TIMEOUT_S * 1000


async def test_a_backup_made_without_wal_gets_it_back(home: Path) -> None:
    with closing(sqlite3.connect(home / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    database = await open_database(home)
    assert await pragma(database, "journal_mode") == "wal"
    await database.close()


async def test_tables_and_migrations_agree(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        def is_ours(name: str | None, kind: str, parents: object) -> bool:
            return not (kind == "table" and str(name).startswith(("shard_fts", "shard_terms", "shard_vectors")))

        opts = {"compare_type": True, "compare_server_default": True, "include_name": is_ours}
        return list(compare_metadata(MigrationContext.configure(connection, opts=opts), METADATA))

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


def test_revisions_count_up_to_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions[::-1] == [f"{number:04d}" for number in range(1, len(revisions) + 1)]
    assert revisions[0] == HEAD


async def test_a_newer_versions_database_is_refused(home: Path) -> None:
    with closing(sqlite3.connect(home / FILE_NAME)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9000'")
        connection.commit()
    with pytest.raises(GatewayError, match=f"newer version.*9000.*{HEAD}") as caught:
        await open_database(home)
    assert str(home / FILE_NAME) in caught.value.message


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database at all" * 1000)
    with pytest.raises(GatewayError, match="damaged or no database") as caught:
        await open_database(tmp_path)
    assert str(tmp_path / FILE_NAME) in caught.value.message


async def test_a_damaged_file_is_named(home: Path) -> None:
    path = home / FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(GatewayError, match="damaged or no database") as caught:
        await open_database(home)
    assert str(path) in caught.value.message


async def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GatewayError, match="cannot open the database .*file/home"):
        await open_database(tmp_path / "file" / "home")


async def test_a_database_that_stays_locked_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    with closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(GatewayError, match="cannot open the database .*locked"):
            await open_database(home)


async def test_an_upgrade_that_breaks_off_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def migrate_and_break(connection: Connection) -> None:
        real_migrate(connection)
        raise RuntimeError("power cut")

    real_migrate = database_module.migrate
    monkeypatch.setattr(database_module, "migrate", migrate_and_break)
    with pytest.raises(RuntimeError):
        await open_database(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    monkeypatch.undo()
    database = await open_database(tmp_path)
    assert await count(database) == 0
    await database.close()


async def test_an_upgrade_leaves_logging_alone(tmp_path: Path) -> None:
    mine = logging.getLogger("tests.somebody")
    before = (logging.root.level, logging.root.handlers[:], logging.getLogger("alembic").level)
    await (await open_database(tmp_path)).close()
    assert not mine.disabled
    assert (logging.root.level, logging.root.handlers[:], logging.getLogger("alembic").level) == before


OPEN = """
import asyncio, sys
from pathlib import Path
from gateway.store.database import open_database
print("ready", flush=True)
sys.stdin.readline()
async def main():
    database = await open_database(Path(sys.argv[1]))
    await database.close()
asyncio.run(main())
print("alembic" in sys.modules)
"""


def start_together(home: Path, processes: int) -> list[str]:
    """What each process printed last; they open the database at the same moment."""
    command = [sys.executable, "-W", "error", "-c", OPEN, str(home)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(processes)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=30) for process in running]
    assert [process.returncode for process in running] == [0] * processes, results
    assert [errors for _, errors in results] == [""] * processes
    return [output.strip() for output, _ in results]


async def test_processes_may_start_at_once(tmp_path: Path) -> None:
    assert "True" in start_together(tmp_path, 2)
    database = await open_database(tmp_path)
    assert await count(database) == 0
    await database.close()


def test_a_start_without_an_upgrade_does_not_import_alembic(home: Path) -> None:
    assert start_together(home, 1) == ["False"]


async def test_a_start_that_waits_for_another_can_be_cancelled(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / f"{FILE_NAME}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(open_database(tmp_path), 0.1)
    os.close(descriptor)
    await (await asyncio.wait_for(open_database(tmp_path), 10)).close()


async def test_a_reader_sees_one_moment_and_holds_up_no_writer(database: Database) -> None:
    async with database.read() as reader:
        query = select(func.count()).select_from(FEEDBACK)
        assert (await reader.execute(query)).scalar_one() == 0
        async with database.write() as connection:
            await connection.execute(insert(FEEDBACK).values(RATING))
        assert (await reader.execute(query)).scalar_one() == 0
    assert await count(database) == 1


async def test_writers_take_turns(database: Database) -> None:
    async def write() -> None:
        async with database.write() as connection:
            seen = (await connection.execute(select(func.count()).select_from(FEEDBACK))).scalar_one()
            await connection.execute(insert(FEEDBACK).values({**RATING, "value": str(seen)}))

    await asyncio.gather(*(write() for _ in range(4)))
    async with database.read() as connection:
        values = (await connection.execute(select(FEEDBACK.c.value).order_by(FEEDBACK.c.id))).scalars().all()
    assert values == ["0", "1", "2", "3"]


async def test_a_write_that_fails_is_undone(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await connection.execute(insert(FEEDBACK).values(RATING))
            raise ZeroDivisionError
    assert await count(database) == 0


@in_a_file
async def test_free_pages_go_back_to_the_file_system(home: Path, database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(insert(FEEDBACK), [{**RATING, "comment": "x" * 1000} for _ in range(1000)])
    full = await database.used_bytes()
    async with database.write() as connection:
        await connection.execute(FEEDBACK.delete())
    assert await database.used_bytes() < full / 4
    assert await database.release_pages(100)
    while await database.release_pages(100):
        pass
    assert await pragma(database, "freelist_count") == 0
    await database.close()
    assert (home / FILE_NAME).stat().st_size < full / 4
