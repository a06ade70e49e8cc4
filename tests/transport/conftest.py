"""Here tests run on both event loops: uvloop, on which `gateway serve` runs, and asyncio's own."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop

from gateway.transport.client import PooledClient


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_socket_left_open() -> Iterator[None]:
    before = _sockets()
    yield
    if _sockets() > before:
        gc.collect()  # of an earlier test, in a cycle
    after = _sockets()
    assert after <= before, f"{after - before} sockets are still open"


@pytest.fixture
async def client() -> AsyncIterator[PooledClient]:
    client = PooledClient()
    yield client
    await client.close()


def _sockets() -> int:
    """Open ones of this process."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        except FileNotFoundError:  # the one that lists them
            pass
    return count
