from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.database import FILE_NAME, Database, open_database


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables and no rows: copying it is faster than migrating in each test."""
    home = tmp_path_factory.mktemp("empty")

    async def make() -> None:
        await (await open_database(home)).close()

    asyncio.run(make())
    return home / FILE_NAME


@pytest.fixture
async def database(tmp_path: Path, empty_database: Path) -> AsyncIterator[Database]:
    shutil.copy(empty_database, tmp_path / FILE_NAME)
    database = await open_database(tmp_path)
    yield database
    await database.close()
