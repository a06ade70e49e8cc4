"""The gateway's database: SQLite under `GATEWAY_HOME`, or PostgreSQL that several gateways share. It is opened, brought
to this version's tables, and read and written through."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sqlalchemy import ColumnElement, Connection, Table, column, select, table
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from gateway.errors import GatewayError
from gateway.store import sqlite

FILE_NAME = "gateway.db"
HEAD = "0012"  # newest file in migrations/versions; revisions are four digits, counted up
MIGRATIONS = Path(__file__).parent / "migrations"
CLOSE_POLL_S = 0.02
CLOSE_WITHIN_S = 5.0  # in which tasks that still read or write give their connections back
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
VERSION = table("alembic_version", column("version_num"))


class Kind(Protocol):
    """What each kind of database does in a way of its own: the modules `sqlite` and `postgres`."""

    @property
    def MOST_VALUES(self) -> int: ...  # of one statement
    def entered(
        self, context: AbstractAsyncContextManager[AsyncConnection]
    ) -> AbstractAsyncContextManager[AsyncConnection]: ...
    def tells_of_no_table(self, error: DatabaseError) -> bool: ...
    def upsert(self, table: Table) -> Any: ...
    def time_text(self, form: str, seconds: ColumnElement[int]) -> ColumnElement[str]: ...
    async def is_prepared(self, connection: AsyncConnection) -> bool: ...
    def upgrading(self, engine: AsyncEngine) -> AbstractAsyncContextManager[None]: ...
    async def next_ids(self, connection: AsyncConnection, table: Table, count: int) -> Sequence[int]: ...
    async def used_bytes(self, connection: AsyncConnection) -> int: ...
    async def journal_bytes(self, connection: AsyncConnection, others: int) -> int: ...
    async def release_pages(self, engine: AsyncEngine, at_most: int) -> bool: ...
    async def rewrite(self, engine: AsyncEngine) -> None: ...


@dataclass(frozen=True)
class Database:
    """An open database; make it with `open_database`, and close it in the event loop that opened it.

    The engines share one pool: `writer`'s transactions come one after the other, `joiner`'s beside each other.
    `in_use`: holds the lock that tells `gateway restore` to keep off; None where nobody does.
    """

    kind: Kind
    engine: AsyncEngine
    reader: AsyncEngine
    writer: AsyncEngine
    joiner: AsyncEngine
    in_use: BinaryIO | None = None

    @property
    def name(self) -> str:
        """For people, without its password."""
        return str(self.path) if self.path is not None else self.engine.url.render_as_string(hide_password=True)

    @property
    def path(self) -> Path | None:
        """Of the file, where it is one."""
        return Path(self.engine.url.database or "") if self.kind is sqlite else None

    @property
    def is_shared(self) -> bool:
        """Other gateways, on other machines, may use it too."""
        return self.kind is not sqlite

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that sees one moment of the database until it is left. Readers and a writer never wait for each
        other."""
        return self.kind.entered(self.reader.connect())

    def write(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection in a transaction: committed at the end, rolled back on an error. Nobody else writes meanwhile,
        in whichever process, so that it may read first and then write.

        Raises: OperationalError where another writer holds the lock for longer than `BUSY_TIMEOUT_S`.
        """
        return self.kind.entered(self.writer.begin())

    def join(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """The same for statements that need not be alone: they add rows, or add to rows in an order that all keep to.
        Where the database can, they run beside others'."""
        return self.kind.entered(self.joiner.begin())

    async def used_bytes(self) -> int:
        async with self.read() as connection:
            return await self.kind.used_bytes(connection)

    async def journal_bytes(self, others: int) -> int:
        """What the journal takes, about. Args: `others`: bytes of what has a limit of its own."""
        async with self.read() as connection:
            return await self.kind.journal_bytes(connection, others)

    async def release_pages(self, at_most: int) -> bool:
        """Give up to `at_most` free pages back to the file system; True while more are left."""
        return await self.kind.release_pages(self.engine, at_most)

    async def rewrite(self) -> None:
        """So that nothing deleted is left in the file, and it is as small as it can be. Writers wait meanwhile.

        Raises: OperationalError.
        """
        await self.kind.rewrite(self.engine)

    async def close(self) -> None:
        """Connections that are in use are waited for: given back later, nobody would close them."""
        pool, until = self.engine.pool, time.monotonic() + CLOSE_WITHIN_S
        while isinstance(pool, QueuePool) and pool.checkedout() and time.monotonic() < until:
            await asyncio.sleep(CLOSE_POLL_S)
        await self.engine.dispose()
        if self.in_use is not None:
            self.in_use.close()


async def open_database(home: Path, url: str | None = None) -> Database:
    """Open `home/gateway.db`, or the PostgreSQL database at `url`; its tables are upgraded. Of the file, the folder
    (0700) and itself (0600) are made where they are missing.

    Raises: GatewayError where it cannot be opened, is damaged, or was written by a newer version.
    """
    database = _in_file(home / FILE_NAME) if url is None else _at(url)
    name = database.name
    try:
        if not await _is_current(database):
            await _upgrade(database)
    except OperationalError as exc:  # locked, read-only, disk full, nobody there
        await database.close()
        raise GatewayError(f"cannot open the database {name}: {exc.orig}") from exc
    except DatabaseError as exc:
        await database.close()
        hint = "damaged or no database" if database.path is not None else "none that can be used"
        message = f"the database {name} is {hint} ({exc.orig}): put a backup there, or move it away"
        raise GatewayError(message) from exc
    except BaseException:
        await database.close()
        raise
    return database


def _in_file(path: Path) -> Database:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sqlite.make_file(path)
        in_use = sqlite.hold(path, fcntl.LOCK_SH)
    except BlockingIOError:
        raise GatewayError(f"the database {path} is being restored: try again once that is done") from None
    except OSError as exc:
        advice = ": GATEWAY_HOME has to be a folder that can be written" if exc.errno in NOT_WRITABLE else ""
        raise GatewayError(f"cannot open the database {path}: {exc.strerror or exc}{advice}") from exc
    engine = sqlite.make_engine(path)
    writer = sqlite.for_writing(engine)
    return Database(sqlite, engine, engine, writer, writer, in_use)


def _at(url: str) -> Database:
    from gateway.store import postgres  # here: a server with a file needs nothing of it

    engine = postgres.make_engine(url)
    return Database(postgres, engine, *postgres.engines(engine))


async def _is_current(database: Database) -> bool:
    """Is it as this version wants it? Raises: GatewayError where it is a newer version's."""
    async with database.read() as connection:
        try:
            version = (await connection.execute(select(VERSION.c.version_num))).scalar()
        except DatabaseError as exc:
            if database.kind.tells_of_no_table(exc):
                return False
            raise
        is_prepared = await database.kind.is_prepared(connection)
    if version is not None and version > HEAD:
        instead = "set GATEWAY_HOME to another folder" if database.path is not None else "name another database"
        raise GatewayError(
            f"the database {database.name} was written by a newer version of the gateway (its tables are {version}, "
            f"this version knows {HEAD}): upgrade the gateway, or {instead}"
        )
    return version == HEAD and is_prepared


async def _upgrade(database: Database) -> None:
    """One process at a time; the upgrade is one transaction, all of it or nothing."""
    async with database.kind.upgrading(database.engine):
        if not await _is_current(database):  # else another process was first
            async with database.write() as connection:
                await connection.run_sync(migrate)


def place_in(connection: AsyncConnection) -> str:
    """Where a value goes in a statement for the driver."""
    return "?" if connection.dialect.paramstyle == "qmark" else "%s"


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to a revision, inside the connection's transaction; back too, as far as there are steps back."""
    # imported here: 0.3 s that a start without an upgrade does not pay
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

    config = Config()  # no ini file, so Alembic leaves logging alone
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    now = MigrationContext.configure(connection).get_current_revision() or ""
    steps = command.downgrade if revision.isdigit() and revision < now else command.upgrade
    steps(config, revision)
