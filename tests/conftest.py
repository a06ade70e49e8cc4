"""Fixtures that every test may use: a gateway built from YAML text, and a way to call it as ASGI."""

from __future__ import annotations

import os
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import sources
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.config.spec import LlamaCppSpec
from gateway.gateway import Gateway
from gateway.runtime import Runtime
from tests.asgi import Client

ROOT = Path(__file__).parents[1]
Serve = Callable[..., Awaitable[Client]]


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


@asynccontextmanager
async def running(folder: Path, models: str, **policies: str) -> AsyncIterator[Client]:
    """A started gateway behind its whole ASGI application."""
    gateway, runtime = build_from(folder, models, **policies)
    await runtime.start()
    try:
        yield Client(gateway, runtime)
    finally:
        await runtime.close()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """`client = await serve(models, policy_name=policy)`; closed after the test."""
    open_ones = []

    async def start(models: str, **policies: str) -> Client:
        context = running(tmp_path / str(len(open_ones)), models, **policies)
        client = await context.__aenter__()
        open_ones.append(context)
        return client

    yield start
    for context in reversed(open_ones):
        await context.__aexit__(None, None, None)
