from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.store.database import Database, open_database
from gateway.trace import RequestTrace, Spend, Usage

Hop = tuple[str, str | None, float | None]  # model, why it was left, cost


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


in_a_file = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests of what is SQLite's alone."""


def place_of(database: Database) -> list[str]:
    """What `open_database` takes."""
    if database.path is not None:
        return [str(database.path.parent)]
    return [".", database.engine.url.render_as_string(hide_password=False)]


async def again(database: Database) -> Database:
    """The same one, opened as by another process."""
    home, *url = place_of(database)
    return await open_database(Path(home), *url)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else None


@pytest.fixture
async def database(database_url: str | None, home: Path) -> AsyncIterator[Database]:
    """Each test runs with both kinds."""
    database = await open_database(home, database_url)
    yield database
    await database.close()
