"""Of several gateways on one database one works in the background, as long as it holds the lock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway import runtime
from gateway.store import postgres as store
from gateway.store.database import open_database
from gateway.tasks import ended
from tests.conftest import running
from tests.shared_servers import Postgres

MODELS = "models:\n  m1: {engine: scripted, replies: [{text: hi}]}\n"
POLICY = "policy: default\nserves: [auto]\nroutes: [{name: all, answer: {model: m1}}]"
WORK = {"shards' workshop", "training", "learning loop", "adapters on trial"}
LEADERS = f"FROM pg_locks WHERE locktype = 'advisory' AND objid = {store.LEADING} AND granted"


async def until_there_is(work: set[str]) -> None:
    async with asyncio.timeout(10):
        while {task.get_name() for task in asyncio.all_tasks()} & WORK != work:
            await asyncio.sleep(0.01)


async def test_a_leader_that_has_lost_its_lock_rests_until_it_leads_again(
    tmp_path: Path, postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(store, "LEADER_POLL_S", 0.01)
    other = await open_database(Path(), postgres_url)
    async with running(tmp_path, MODELS, database_url=postgres_url, default=POLICY) as client:
        working = asyncio.create_task(client.runtime.work())
        await until_there_is(WORK)
        ending = asyncio.create_task(asyncio.to_thread(postgres.run, f"SELECT pg_terminate_backend(pid) {LEADERS}"))
        async with store.leading(other.engine):
            await ending
            await until_there_is(set())
        await until_there_is(WORK)
        await ended([working])
        await until_there_is(set())
    await other.close()
