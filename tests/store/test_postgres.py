"""What is PostgreSQL's alone; that it does all that SQLite does is tested where that is."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, insert, inspect, select, text
from sqlalchemy.exc import OperationalError

from gateway.errors import GatewayError
from gateway.store import database as database_module
from gateway.store import journal as journal_module
from gateway.store import postgres
from gateway.store.database import HEAD, Database, migrate, open_database
from gateway.store.feedback import Feedback
from gateway.store.journal import Journal
from gateway.store.residency import ResidencyRow, events, loaded_s
from gateway.store.tables import FEEDBACK, METADATA, RESIDENCY
from gateway.trace import RequestTrace
from tests.shared_servers import Postgres

MakeTrace = Callable[..., RequestTrace]
HERE = Path()
OUTSIDE = ("shard_fts", "shard_vectors")  # PostgreSQL's own


@pytest.fixture
async def shared(postgres_url: str) -> AsyncIterator[Database]:
    database = await open_database(HERE, postgres_url)
    yield database
    await database.close()


def differences(connection: Connection) -> list[object]:
    opts = {"compare_type": True, "include_name": lambda name, kind, parents: name not in OUTSIDE}
    return list(compare_metadata(MigrationContext.configure(connection, opts=opts), METADATA))


async def test_tables_and_migrations_agree(shared: Database) -> None:
    async with shared.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_processes_may_start_at_once_on_an_empty_database(postgres: Postgres) -> None:
    postgres.run("CREATE DATABASE bare")
    opened = await asyncio.gather(*(open_database(HERE, postgres.url("bare")) for _ in range(4)))
    async with opened[0].read() as connection:
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars().all() == [HEAD]
    for database in opened:
        await database.close()


async def test_an_upgrade_that_breaks_off_leaves_nothing_behind(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def migrate_and_break(connection: Connection) -> None:
        migrate(connection)
        raise RuntimeError("power cut")

    postgres.run("CREATE DATABASE broken")
    monkeypatch.setattr(database_module, "migrate", migrate_and_break)
    with pytest.raises(RuntimeError):
        await open_database(HERE, postgres.url("broken"))
    assert postgres.run("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", "broken") == "0"


async def test_a_newer_versions_database_is_refused(shared: Database, postgres_url: str) -> None:
    async with shared.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9000'"))
    with pytest.raises(GatewayError, match=f"newer version.*9000.*{HEAD}.*name another database"):
        await open_database(HERE, postgres_url)


async def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="cannot open the database postgresql") as caught:
        await open_database(HERE, f"postgresql://me:secret@/gateway?host={tmp_path}")
    assert "secret" not in caught.value.message and "me:***" in caught.value.message


async def test_who_reads_before_writing_is_alone(shared: Database) -> None:
    async def write() -> None:
        async with shared.write() as connection:
            seen = (await connection.execute(select(func.count()).select_from(FEEDBACK))).scalar_one()
            await asyncio.sleep(0)
            row = {"trace_id": "t", "created": 1.0, "metric": "good", "value": str(seen)}
            await connection.execute(insert(FEEDBACK).values(row))

    await asyncio.gather(*(write() for _ in range(8)))
    async with shared.read() as connection:
        values = (await connection.execute(select(FEEDBACK.c.value).order_by(FEEDBACK.c.id))).scalars().all()
    assert values == [str(number) for number in range(8)]


async def test_rows_are_added_while_somebody_writes_alone(shared: Database, make_trace: MakeTrace) -> None:
    journal = Journal(shared)
    journal.record(make_trace())
    async with shared.write():
        assert await asyncio.wait_for(journal.flush(), 2)
    await journal.close()


async def test_two_gateways_add_to_the_same_sums_in_any_order(
    shared: Database, postgres_url: str, make_trace: MakeTrace
) -> None:
    from gateway.store.spent import spent

    other = await open_database(HERE, postgres_url)
    journals = [Journal(shared), Journal(other)]
    names = [f"model-{number}" for number in range(20)]
    for _ in range(10):
        for journal, order in zip(journals, (names, names[::-1]), strict=True):
            for name in order:
                journal.record(make_trace((name, None, 0.25)))
        assert all(await asyncio.gather(*(journal.flush() for journal in journals)))
    [total] = await spent(shared)
    assert (total.sums.requests, total.cost_usd) == (400, 100.0)
    assert [journal.failures for journal in journals] == [0, 0]
    await other.close()


async def test_a_journal_that_is_too_large_loses_its_oldest(
    shared: Database, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "ROWS_A_DELETE", 50)
    journal = Journal(shared, max_size_mb=0.5)
    traces = [make_trace() for _ in range(3000)]
    for second, trace in enumerate(traces):
        trace.created += second
        journal.record(trace)
    assert await journal.flush()
    assert await shared.journal_bytes(0) > 2**20 / 2
    deleted = await journal.prune()
    assert 0 < deleted < 3000
    assert await shared.journal_bytes(0) <= 2**20 / 2
    assert await journal.prune() == 0, "though its files are as large as before"
    assert await journal.find(traces[-1].id) is not None and await journal.find(traces[0].id) is None


async def test_what_is_no_text_for_postgresql_is_kept_all_the_same(shared: Database, make_trace: MakeTrace) -> None:
    trace = make_trace(name="a\0b")
    journal = Journal(shared)
    journal.record(trace)
    assert await journal.flush() and journal.dropped == 0
    row = await journal.find(trace.id)
    assert row is not None and row.requested_model == "a\N{REPLACEMENT CHARACTER}b"
    feedback = Feedback(shared)
    await feedback.add(trace.id, "rating", "x\0y", comment="\0")
    [rating] = await feedback.of(trace.id)
    assert rating.value == "x\0y" and rating.comment == "\N{REPLACEMENT CHARACTER}"


async def test_models_of_two_gateways_are_loaded_beside_each_other(shared: Database) -> None:
    rows = [("a", 0.0, "warm"), ("b", 10.0, "warm"), ("a", 20.0, "dormant"), ("b", 40.0, "dormant")]
    async with shared.join() as connection:
        for replica, at, stage in rows:
            values = {"at": at, "model": "core", "stage": stage, "reason": "r", "why": "", "replica": replica}
            await connection.execute(insert(RESIDENCY).values(values))
    assert await loaded_s(shared, 0, 100) == {"core": 50.0}
    assert await events(shared, 0, 100, "a") == [
        ResidencyRow(0.0, "core", "warm", "r", ""),
        ResidencyRow(20.0, "core", "dormant", "r", ""),
    ]


async def test_one_gateway_leads_and_another_follows_it(shared: Database, postgres_url: str) -> None:
    other = await open_database(HERE, postgres_url)
    async with postgres.leading(shared.engine):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), postgres.leading(other.engine):
                pytest.fail("there are two")
    async with asyncio.timeout(5), postgres.leading(other.engine):
        pass
    await other.close()


async def test_newest_steps_go_back_and_forth(database: Database) -> None:
    async with database.write() as connection:
        await connection.run_sync(migrate, "0008")
        found = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        columns = await connection.run_sync(lambda sync: inspect(sync).get_columns("residency"))
    assert not {"answers", "answer_purges", "usage", "rivals"} & set(found)
    assert "replica" not in {column["name"] for column in columns}
    async with database.write() as connection:
        await connection.run_sync(migrate)
        assert await connection.run_sync(differences_of_any) == []


def differences_of_any(connection: Connection) -> list[object]:
    outside = (*OUTSIDE, "shard_terms")
    opts = {"include_name": lambda name, kind, parents: not str(name).startswith(outside)}
    return list(compare_metadata(MigrationContext.configure(connection, opts=opts), METADATA))


async def test_who_is_cancelled_while_it_connects_leaves_no_connection_behind(shared: Database) -> None:
    for turns in range(40):
        await shared.engine.dispose()

        async def look() -> None:
            async with shared.read() as connection:
                await connection.exec_driver_sql("SELECT 1")

        looking = asyncio.create_task(look())
        await asyncio.sleep(turns * 0.0003)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await asyncio.gather(*postgres.LEAVING)
    gc.collect()  # which warns of those that are still open


async def test_a_server_that_has_stopped_is_not_waited_for(
    shared: Database, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: Postgres = request.getfixturevalue("postgres")

    async def ask() -> int:
        async with shared.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(FEEDBACK))).scalar_one())

    ours = f"datname = '{shared.engine.url.database}' AND backend_type = 'client backend'"
    pids = set[int]()
    try:
        for _ in range(3):
            assert await ask() == 0, "by a connection of its own: those that nobody answers keep no place"
            pids |= {int(pid) for pid in server.run(f"SELECT pid FROM pg_stat_activity WHERE {ours}").split()}
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            with monkeypatch.context() as patched:
                patched.setattr(postgres, "ENTERED_WITHIN_S", 0.3)
                patched.setattr(postgres, "LEFT_WITHIN_S", 0.1)
                with pytest.raises(OperationalError, match="no connection within 0.3 s"):
                    await ask()
                await asyncio.sleep(0)  # which begins to leave
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await asyncio.gather(*postgres.LEAVING)
    assert await ask() == 0
    assert shared.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
