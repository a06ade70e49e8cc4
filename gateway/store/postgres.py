"""All that is true of PostgreSQL only: connection settings, locking, sizes. Its driver is psycopg: extra `postgres`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, event, func, literal_column, make_url, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.errors import GatewayError
from gateway.store.tables import JOURNAL, METADATA

MOST_VALUES = 65_535  # of one statement
BUSY_TIMEOUT_S = 5.0  # as long as a writer waits for another
ENTERED_WITHIN_S = 10.0  # a connection of the pool or a new one, and in a transaction
LEFT_WITHIN_S = 5.0  # the same, after nobody waits for it any more
CONNECTIONS, MORE_CONNECTIONS = 5, 15  # kept open, and opened beside them when there is much to do
POLL_S, LEADER_POLL_S = 0.1, 1.0
# Numbers of locks, within one database.
WRITING, UPGRADING, LEADING = 7_266_001, 7_266_002, 7_266_003
ALONE = "gateway_alone"  # execution option: the transaction takes the writers' lock
SETTINGS = {
    "application_name": "onion-gateway",
    "connect_timeout": 5,
    # a machine that is gone holds no lock for long, and no request
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "options": f"-c lock_timeout={BUSY_TIMEOUT_S:g}s -c idle_in_transaction_session_timeout=30s -c TimeZone=UTC",
}
ALL_TABLES = (*METADATA.tables, "shard_fts", "shard_vectors")
ROW_BYTES = 150  # of the journal, beside its values: the row's head and two indexes
SAMPLED_ROWS = 2000
LEAVING = set[asyncio.Future[None]]()  # of those who were cancelled


def make_engine(url: str) -> AsyncEngine:
    """Raises: GatewayError where the driver is not installed."""
    made = make_url(url.replace("postgres://", "postgresql://", 1)).set(drivername="postgresql+psycopg")
    known = {name: value for name, value in SETTINGS.items() if name not in made.query}
    try:
        engine = create_async_engine(
            made,
            connect_args=known,
            pool_size=CONNECTIONS,
            max_overflow=MORE_CONNECTIONS,
            pool_pre_ping=True,  # what was connected before the server was started anew is not used again
        )
    except ModuleNotFoundError as exc:
        hint = "pip install 'onion-gateway[postgres]'"
        raise GatewayError(f"the database {made.render_as_string()} wants {exc.name}: {hint}") from exc

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        _adapt(connection.driver_connection.adapters)

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(ALONE):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITING})")

    return engine


def _adapt(adapters: Any) -> None:
    """Texts: PostgreSQL stores no NUL character; what a client has sent is not lost for one. Sums of large integers: as
    integers, and means as floats."""
    from psycopg.adapt import Loader
    from psycopg.types.string import StrDumper, StrDumperUnknown

    class Number(Loader):
        def load(self, data: Any) -> int | float:
            text = bytes(data)
            return int(text) if text.lstrip(b"-").isdigit() else float(text)

    class Text(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

    class UnknownText(StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

    adapters.register_dumper(str, Text)
    adapters.register_dumper(str, UnknownText)
    adapters.register_loader("numeric", Number)


def engines(engine: AsyncEngine) -> tuple[AsyncEngine, AsyncEngine, AsyncEngine]:
    """For reading one moment of the database, for writing alone, and for writing beside others. One pool."""
    writing = engine.execution_options(isolation_level="READ COMMITTED")
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return reading, writing.execution_options(**{ALONE: True}), writing


@asynccontextmanager
async def entered(context: AbstractAsyncContextManager[AsyncConnection]) -> AsyncIterator[AsyncConnection]:
    """Who is cancelled while a connection is made for it leaves none behind, which nobody else would close.

    Raises: OperationalError where there is none within `ENTERED_WITHIN_S`, as of a server that has stopped: its
    machine confirms what is sent to it, so that no limit of the connection's own is reached.
    """
    entering = asyncio.ensure_future(context.__aenter__())
    try:
        async with asyncio.timeout(ENTERED_WITHIN_S):
            connection = await asyncio.shield(entering)
    except (asyncio.CancelledError, TimeoutError) as exc:
        leaving = asyncio.ensure_future(_left(context, entering))
        LEAVING.add(leaving)
        leaving.add_done_callback(LEAVING.discard)
        if isinstance(exc, TimeoutError):
            why = TimeoutError(f"no connection within {ENTERED_WITHIN_S:g} s")
            raise OperationalError(None, None, why) from exc
        raise
    async with AsyncExitStack() as stack:
        stack.push_async_exit(context)
        yield connection


async def _left(
    context: AbstractAsyncContextManager[AsyncConnection], entering: asyncio.Future[AsyncConnection]
) -> None:
    await asyncio.wait({entering}, timeout=LEFT_WITHIN_S)
    entering.cancel()  # where it has not ended: it would keep its place in the pool for as long as nobody answers
    with suppress(SQLAlchemyError, OSError, asyncio.CancelledError):
        await entering
        await context.__aexit__(None, None, None)


def tells_of_no_table(error: DatabaseError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "42P01"


def upsert(table: Table) -> Any:
    """An insert that may say `on_conflict_do_update`."""
    return postgresql.insert(table)


def time_text(form: str, seconds: ColumnElement[int]) -> ColumnElement[str]:
    """Args: `form` as for `strftime`: of %Y, %m, %d and %H."""
    for ours, theirs in (("%Y", "YYYY"), ("%m", "MM"), ("%d", "DD"), ("%H", "HH24"), ("T", '"T"'), ("Z", '"Z"')):
        form = form.replace(ours, theirs)
    utc: ColumnElement[Any] = func.timezone(literal_column("'UTC'"), func.to_timestamp(seconds))
    return func.to_char(utc, literal_column(f"'{form}'"))  # no parameters, so that it is the same in GROUP BY


async def is_prepared(connection: AsyncConnection) -> bool:
    return True


@asynccontextmanager
async def upgrading(engine: AsyncEngine) -> AsyncIterator[None]:
    """Around an upgrade: one process at a time, on whichever machine."""
    async with _locked(engine, UPGRADING, POLL_S):
        yield


@asynccontextmanager
async def leading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Wait until no other gateway leads, and lead as long as the block lasts and its connection holds."""
    async with _locked(engine, LEADING, LEADER_POLL_S) as connection:
        yield connection


@asynccontextmanager
async def _locked(engine: AsyncEngine, number: int, poll_s: float) -> AsyncIterator[AsyncConnection]:
    """A lock of this connection. It is asked for again and again, not waited for: who waits may be cancelled."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            while not await connection.scalar(select(func.pg_try_advisory_lock(number))):
                await asyncio.sleep(poll_s)
            yield connection
        finally:  # the connection goes back to its pool, and would keep the lock
            with suppress(DBAPIError):  # it is gone, and the lock with it
                await connection.execute(select(func.pg_advisory_unlock_all()))


async def next_ids(connection: AsyncConnection, table: Table, count: int) -> Sequence[int]:
    """Numbers for rows that are to be written now, above all that were ever used."""
    query = f"SELECT nextval(pg_get_serial_sequence('{table.name}', 'id')) FROM generate_series(1, {count:d})"
    return sorted((await connection.exec_driver_sql(query)).scalars())


async def used_bytes(connection: AsyncConnection) -> int:
    """Of all tables as they lie on disk: what was deleted is in it until PostgreSQL fills it again."""
    tables = " + ".join(f"pg_total_relation_size('{name}')" for name in ALL_TABLES)
    return int((await connection.exec_driver_sql(f"SELECT {tables}")).scalar_one())


async def journal_bytes(connection: AsyncConnection, others: int) -> int:
    """What the journal's rows take, by the mean of the newest. Files do not shrink when rows are deleted, so their
    sizes tell nothing."""
    newest = f"SELECT j AS row FROM {JOURNAL.name} j ORDER BY created DESC LIMIT {SAMPLED_ROWS}"
    query = f"SELECT (SELECT count(*) FROM {JOURNAL.name}), (SELECT avg(pg_column_size(row)) FROM ({newest}) newest)"
    found: Any = (await connection.exec_driver_sql(query)).one()
    rows, mean = found
    return int(rows * (float(mean or 0) + ROW_BYTES))


async def release_pages(engine: AsyncEngine, at_most: int) -> bool:
    """PostgreSQL's own autovacuum does that."""
    return False


async def rewrite(engine: AsyncEngine) -> None:
    """Write our tables anew, without what deleted rows left in them; each is locked meanwhile.

    Raises: OperationalError.
    """
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql(f"VACUUM FULL {', '.join(ALL_TABLES)}")
