"""The database under `GATEWAY_HOME`: opened, brought to this version's tables, and read and written through."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection, column, select, table
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from gateway.errors import GatewayError
from gateway.store import sqlite

FILE_NAME = "gateway.db"
IN_USE = ".in-use"  # behind the database's name: locked, shared, by every process that has it open
HEAD = "0010"  # newest file in migrations/versions; revisions are four digits, counted up
MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_POLL_S = 0.02
CLOSE_WITHIN_S = 5.0  # in which tasks that still read or write give their connections back
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
VERSION = table("alembic_version", column("version_num"))


@dataclass(frozen=True)
class Database:
    """An open database; make it with `open_database`, and close it in the event loop that opened it.

    Both engines share one pool: `writer`'s transactions take the write lock when they begin. `in_use`: holds the
    lock that tells `gateway restore` to keep off; None where nobody does.
    """

    path: Path
    engine: AsyncEngine
    writer: AsyncEngine
    in_use: BinaryIO | None = None

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that sees one moment of the database until it is left. Readers and a writer never wait for each
        other."""
        return self.engine.connect()

    def write(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection in a transaction: committed at the end, rolled back on an error.

        Raises: OperationalError where another writer holds the lock for longer than `sqlite.BUSY_TIMEOUT_S`.
        """
        return self.writer.begin()

    async def used_bytes(self) -> int:
        async with self.read() as connection:
            return await sqlite.used_bytes(connection)

    async def release_pages(self, at_most: int) -> bool:
        """Give up to `at_most` free pages back to the file system; True while more are left."""
        return await sqlite.release_pages(self.engine, at_most)

    async def rewrite(self) -> None:
        """So that nothing deleted is left in the file, and it is as small as it can be. Writers wait meanwhile.

        Raises: OperationalError.
        """
        await sqlite.rewrite(self.engine)

    async def close(self) -> None:
        """Connections that are in use are waited for: given back later, nobody would close them."""
        pool, until = self.engine.pool, time.monotonic() + CLOSE_WITHIN_S
        while isinstance(pool, QueuePool) and pool.checkedout() and time.monotonic() < until:
            await asyncio.sleep(LOCK_POLL_S)
        await self.engine.dispose()
        if self.in_use is not None:
            self.in_use.close()


async def open_database(home: Path) -> Database:
    """Open `home/gateway.db`: folder (0700) and file (0600) are made where they are missing, its tables upgraded.

    Raises: GatewayError where the file cannot be opened, is damaged, or was written by a newer version.
    """
    path = home / FILE_NAME
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        sqlite.make_file(path)
        in_use = hold(path, fcntl.LOCK_SH)
    except BlockingIOError:
        raise GatewayError(f"the database {path} is being restored: try again once that is done") from None
    except OSError as exc:
        advice = ": GATEWAY_HOME has to be a folder that can be written" if exc.errno in NOT_WRITABLE else ""
        raise GatewayError(f"cannot open the database {path}: {exc.strerror or exc}{advice}") from exc
    engine = sqlite.make_engine(path)
    database = Database(path, engine, sqlite.for_writing(engine), in_use)
    try:
        if not await _is_current(database):
            await _prepare(database)
    except OperationalError as exc:  # locked, read-only, disk full
        await database.close()
        raise GatewayError(f"cannot open the database {path}: {exc.orig}") from exc
    except DatabaseError as exc:
        await database.close()
        message = f"the database {path} is damaged or no database ({exc.orig}): put a backup there, or move it away"
        raise GatewayError(message) from exc
    except BaseException:
        await database.close()
        raise
    return database


async def _is_current(database: Database) -> bool:
    """Are the file and its tables as this version wants them? Raises: GatewayError where they are a newer version's."""
    async with database.read() as connection:
        try:
            version = (await connection.execute(select(VERSION.c.version_num))).scalar()
        except OperationalError as exc:
            if sqlite.tells_of_no_table(exc):
                return False
            raise
        is_prepared = await sqlite.is_prepared(connection)
    if version is not None and version > HEAD:
        raise GatewayError(
            f"the database {database.path} was written by a newer version of the gateway (its tables are {version}, "
            f"this version knows {HEAD}): upgrade the gateway, or set GATEWAY_HOME to another folder"
        )
    return version == HEAD and is_prepared


async def _prepare(database: Database) -> None:
    """One process at a time; the upgrade is one transaction, all of it or nothing."""
    async with _locked(database.path.with_name(database.path.name + ".lock")):
        await sqlite.prepare_file(database.engine)
        if not await _is_current(database):  # else another process was first
            async with database.write() as connection:
                await connection.run_sync(migrate)


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to a revision, inside the connection's transaction."""
    # imported here: 0.3 s that a start without an upgrade does not pay
    from alembic import command
    from alembic.config import Config

    config = Config()  # no ini file, so Alembic leaves logging alone
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


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
