"""All that is true of SQLite only: connection settings, locking, size, and giving space back."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import URL, ColumnElement, Connection, Table, event, func
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.errors import GatewayError
from gateway.store.sqlite_driver import connect

IN_USE = ".in-use"  # behind the database's name: locked, shared, by every process that has it open
LOCK_POLL_S = 0.02
with closing(sqlite3.connect(":memory:")) as _memory:  # of one statement: 999 to 250,000, as it was built
    MOST_VALUES = _memory.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
BUSY_TIMEOUT_S = 5.0
WAL_LIMIT_BYTES = 16 * 2**20  # what a -wal file is cut back to after a burst
# With WAL, `synchronous=NORMAL` means no fsync at commit, and never a broken file.
SETTINGS = f"PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; PRAGMA journal_size_limit={WAL_LIMIT_BYTES};"
BEGIN_OPTION = "sqlite_begin"  # execution option: how a transaction begins; None for none at all


def make_file(path: Path) -> None:
    """Create an empty database file, mode 0600 (SQLite gives -wal and -shm the same); one that exists is left as is."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def make_engine(path: Path) -> AsyncEngine:
    """An engine on the file. Transactions are real ones (the driver's own mode leaves out DDL and SELECT)."""
    url = URL.create("sqlite+aiosqlite", database=str(path))
    # the driver begins nothing by itself, the `begin` hook below does
    engine = create_async_engine(url, async_creator=partial(connect, path, BUSY_TIMEOUT_S))

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.run_async(_configure)

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        statement = connection.get_execution_options().get(BEGIN_OPTION, "BEGIN")
        if statement is not None:
            connection.exec_driver_sql(statement)

    return engine


async def _configure(driver: Any) -> None:
    cursor = await driver.executescript(SETTINGS)  # in one turn of the driver's thread
    await cursor.close()


def for_writing(engine: AsyncEngine) -> AsyncEngine:
    """The same pool; transactions take the write lock at once. One that reads first and then writes could not wait for
    it: SQLite fails it at once."""
    return engine.execution_options(**{BEGIN_OPTION: "BEGIN IMMEDIATE"})


def without_transactions(engine: AsyncEngine) -> AsyncEngine:
    """The same pool; each statement on its own, as some PRAGMAs want it."""
    return engine.execution_options(**{BEGIN_OPTION: None})


def entered(context: AbstractAsyncContextManager[AsyncConnection]) -> AbstractAsyncContextManager[AsyncConnection]:
    """As it is: its connections are made in no time."""
    return context


async def is_prepared(connection: AsyncConnection) -> bool:
    """False for a new file, and for one that came back from a backup made without WAL."""
    return (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar() == "wal"


def tells_of_no_table(error: DatabaseError) -> bool:
    return str(error.orig).startswith("no such table")


def upsert(table: Table) -> Any:
    """An insert that may say `on_conflict_do_update`."""
    return dialect.insert(table)


def time_text(form: str, seconds: ColumnElement[int]) -> ColumnElement[str]:
    """Args: `form` as for `strftime`: of %Y, %m, %d and %H."""
    return func.strftime(form, seconds, "unixepoch")


@asynccontextmanager
async def upgrading(engine: AsyncEngine) -> AsyncIterator[None]:
    """Around an upgrade: one process at a time. Brings settings up to date that live in the file itself."""
    async with _locked(Path(f"{engine.url.database}.lock")):
        await _prepare_file(engine)
        yield


def hold(path: Path, how: int) -> BinaryIO:
    """Lock a database's file of users, `fcntl.LOCK_SH` to use it or `LOCK_EX` to put another in its place, until what
    is returned is closed or the process ends. (Not the database itself: closing that would end SQLite's own locks.)

    Raises: BlockingIOError where others hold it, OSError.
    """
    descriptor = os.open(path.with_name(path.name + IN_USE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "rb")
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock file against other processes. It is asked for again and again, not waited for in a thread: a
    cancelled start leaves nothing behind."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise GatewayError(f"cannot lock the database: {path}: {exc.strerror or exc}") from exc
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)  # which lets go of the lock


async def _prepare_file(engine: AsyncEngine) -> None:
    """Not safe beside another process that does the same."""
    async with without_transactions(engine).connect() as connection:
        # only has an effect before the first table, and has to stand before WAL
        await connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
        await connection.exec_driver_sql("PRAGMA journal_mode=WAL")


async def rewrite(engine: AsyncEngine) -> None:
    """Write the whole file anew, without free pages and without what deleted rows left in it. Writers wait
    meanwhile, and room for a second file of its size is needed.

    Raises: OperationalError where others hold it for too long, or the disk is full.
    """
    async with without_transactions(engine).connect() as connection:
        # words of deleted shards go from FTS5's segments only as those are merged
        await connection.exec_driver_sql("INSERT INTO shard_fts(shard_fts) VALUES ('optimize')")
        await connection.exec_driver_sql("VACUUM")
        await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")  # where the old pages still are


async def used_bytes(connection: AsyncConnection) -> int:
    """Size of the database without its free pages (those are filled again before the file grows)."""
    pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
    free = (await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one()
    size = (await connection.exec_driver_sql("PRAGMA page_size")).scalar_one()
    return int((pages - free) * size)


async def journal_bytes(connection: AsyncConnection, others: int) -> int:
    """What the journal takes, about. Args: `others`: bytes of what has a limit of its own."""
    return await used_bytes(connection) - others


async def next_ids(connection: AsyncConnection, table: Table, count: int) -> Sequence[int]:
    """Numbers for rows that are to be written now, above all that were ever used."""
    query = "SELECT seq FROM sqlite_sequence WHERE name = ?"
    first = int((await connection.exec_driver_sql(query, (table.name,))).scalar() or 0) + 1
    return range(first, first + count)


async def release_pages(engine: AsyncEngine, at_most: int) -> bool:
    """Give free pages back to the file system, in one short write. True while more are left."""
    async with without_transactions(engine).connect() as connection:
        free = (await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one()
        if not free:
            return False
        # It gives back one page a step, and of the driver's calls only executescript takes every step of a statement
        # without columns (measured on 3.11: execute and fetchall take one).
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.executescript(f"PRAGMA incremental_vacuum({at_most:d})")
        left = (await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one()
        return 0 < int(left) < int(free)
