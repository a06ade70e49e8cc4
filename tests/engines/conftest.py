"""Fake servers, and how to wait for what they do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gateway.engines import Engine, Lease, Patience, Site
from gateway.engines.capped_log import CappedLog
from gateway.engines.pool import Pool
from gateway.engines.process import ChildProcess
from gateway.transport.client import PooledClient
from tests.engines.fakes import Fake

QUICK = Patience(start_s=20, exit_s=5, terminate_s=2, first_retry_s=0.01, longest_retry_s=0.1)


class Watched(ChildProcess):
    """A child process whose changes can be waited for."""

    def __init__(
        self,
        fake: Fake,
        log_path: Path,
        patience: Patience = QUICK,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._changed = asyncio.Event()
        self.states: list[str] = []
        lines, changed = CappedLog(log_path), self._note_change
        super().__init__(fake.name, fake.launch, lines, on_change=changed, patience=patience, now=now, sleep=sleep)

    def _note_change(self) -> None:
        self.states.append(str(self.state))
        self._changed.set()

    async def until(self, condition: Callable[[Watched], object]) -> None:
        async with asyncio.timeout(20):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()


Watch = Callable[..., Watched]


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    """`child = watch(Fake(...))`; stopped after the test, and nothing of it may be left."""
    children: list[Watched] = []

    def make(fake: Fake, **options: Any) -> Watched:
        children.append(Watched(fake, tmp_path / "logs" / f"{fake.name}.log", **options))
        return children[-1]

    yield make
    for child in children:
        await child.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def lease_of(pool: Pool, name: str, deadline: float | None = None) -> AbstractAsyncContextManager[Lease]:
    """A lease on the model that the pool now has under this name."""
    return pool.lease(next(engine for engine in pool.current if engine.name == name), deadline)


def add(pool: Pool, *engines: Engine) -> None:
    pool.keep(engines)
    pool.current = (*pool.current, *engines)


def site(home: Path, patience: Patience = QUICK, client: PooledClient | None = None) -> Site:
    """Engines that are asked what they know open the client: whoever starts such gives one, and closes it."""
    return Site(home / "logs", client or PooledClient(), patience)
