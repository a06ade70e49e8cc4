from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.store.database import FILE_NAME, Database, open_database
from gateway.trace import RequestTrace, Spend, Usage

Hop = tuple[str, str | None, float | None]  # model, why it was left, cost


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables and no rows: copying it is faster than migrating in each test."""
    home = tmp_path_factory.mktemp("empty")

    async def make() -> None:
        await (await open_database(home)).close()

    asyncio.run(make())
    return home / FILE_NAME


@pytest.fixture
def home(tmp_path: Path, empty_database: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home / FILE_NAME)
    return home


@pytest.fixture
async def database(home: Path) -> AsyncIterator[Database]:
    database = await open_database(home)
    yield database
    await database.close()


@pytest.fixture
def make_trace() -> Callable[..., RequestTrace]:
    """A finished trace with one model hop for each (model, why it was left, cost)."""

    def make(
        *hops: Hop, name: str = "auto", ms: float = 5.0, status: int = 200, error: str | None = None
    ) -> RequestTrace:
        trace = RequestTrace(name, stream=True, key="app")
        trace.policy, trace.route, trace.status = "default", "rest", status
        for model, left, cost_usd in hops or (("core", None, 0.25),):
            with trace.span("model", model) as hop:
                hop.spend = Spend(model, Usage(10, 4), cost_usd, 0.1)
                hop.left = left
                trace.answered_by = trace.answered_by if left else model
        trace.error = error
        trace.ended = trace.started + ms / 1e3
        trace.first_chunk = trace.started + 0.001
        return trace

    return make
