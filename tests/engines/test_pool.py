"""The pool keeps models running and gives out leases."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.engines import Patience
from gateway.engines.footprint import Footprint
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.pool import Pool
from gateway.engines.resident import Stage
from gateway.errors import BackendTimeout, BackendUnavailable, Overloaded
from tests.engines.conftest import QUICK, add, lease_of, site
from tests.engines.fakes import KEY, Fake, is_known

MakePool = Callable[..., Pool]


@pytest.fixture
async def make_pool(tmp_path: Path) -> AsyncIterator[MakePool]:
    """`make_pool(Fake(…), …, patience=…)`; closed after the test, and nothing of it may be left."""
    pools: list[Pool] = []

    def make(*fakes: Fake, patience: Patience = QUICK) -> Pool:
        pools.append(Pool(site(tmp_path, patience)))
        add(pools[-1], *fakes)
        return pools[-1]

    yield make
    pids = [state.pid for pool in pools for state in pool.states().values()]
    for pool in pools:
        await pool.close()
    assert not any(pid and is_known(pid) for pid in pids)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition: Callable[[], object]) -> None:
    """For what nobody waits for in a running gateway."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_lease_waits_for_the_model(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(Fake())
    assert not pool.is_ready
    await pool.start()
    assert pool.states()["fake"].stage is Stage.LOADING
    async with lease_of(pool, "fake") as lease:
        assert pool.is_ready
        state = pool.states()["fake"]
        assert (state.stage, state.busy, state.slots, state.waiting) == (Stage.BUSY, 1, 2, 0)
        assert lease.url.endswith(str(state.pid)) and (lease.key, lease.id) == (KEY, "fake")
        assert state.loaded_s is not None and 0 < state.loaded_s < 20
    assert pool.states()["fake"].busy == 0


async def test_a_pool_without_models_is_ready(make_pool: MakePool) -> None:
    pool = make_pool()
    await pool.start()
    assert pool.is_ready and pool.states() == {}


async def test_models_start_side_by_side_and_one_that_fails_stops_no_other(make_pool: MakePool) -> None:
    pool = make_pool(Fake(name="a"), Fake("fail", name="b"), Fake(name="team/c"))
    await pool.start()
    async with lease_of(pool, "a") as a, lease_of(pool, "team/c") as c:
        assert a.url != c.url
    with pytest.raises(BackendUnavailable) as caught:
        async with lease_of(pool, "b"):
            pass
    assert caught.value.message == "model 'b' is not running: its model file is missing"
    assert int(caught.value.headers["retry-after"]) >= 1
    assert not pool.is_ready
    assert (pool.states()["b"].stage, pool.states()["b"].last_error) == (Stage.FAILED, "its model file is missing")


async def test_those_who_wait_learn_at_once_that_the_start_failed(make_pool: MakePool) -> None:
    pool = make_pool(Fake("crash at start"), patience=replace(QUICK, first_retry_s=3600, longest_retry_s=3600))
    await pool.start()

    async def ask() -> None:
        async with lease_of(pool, "fake"):
            pass

    async with asyncio.timeout(10):
        ends = await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True)
        ends += await asyncio.gather(ask(), return_exceptions=True)  # during the pause, too
    assert [str(end) for end in ends] == ["model 'fake' is not running: it ended while starting (SIGSEGV)"] * 6
    for end in ends:
        assert isinstance(end, BackendUnavailable) and 3590 <= int(end.headers["retry-after"]) <= 3600


async def test_a_crashed_model_is_leased_again_after_its_restart(make_pool: MakePool) -> None:
    pool = make_pool(Fake())
    await pool.start()
    async with lease_of(pool, "fake") as lease:
        pid = pool.states()["fake"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: pool.states()["fake"].stage is Stage.LOADING)
        assert not pool.is_ready
        async with lease_of(pool, "fake", time.monotonic() + 20) as other:
            assert other.url != lease.url
            assert pool.states()["fake"].busy == 2
    state = pool.states()["fake"]
    assert (state.restarts, state.last_error, state.busy) == (1, "it crashed (SIGKILL)", 0)


async def test_a_pause_longer_than_the_deadline_is_said_at_once(make_pool: MakePool) -> None:
    pool = make_pool(Fake(), patience=replace(QUICK, first_retry_s=60, longest_retry_s=60))
    await pool.start()
    async with lease_of(pool, "fake"):
        pid = pool.states()["fake"].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pool.states()["fake"].pid is None)
    async with asyncio.timeout(5):
        with pytest.raises(BackendUnavailable, match=r"it crashed \(SIGKILL\)") as caught:
            async with lease_of(pool, "fake", time.monotonic() + 30):
                pass
    assert 55 <= int(caught.value.headers["retry-after"]) <= 61


async def test_the_deadline_ends_the_wait_for_a_slow_start(make_pool: MakePool) -> None:
    pool = make_pool(Fake("never ready"))
    await pool.start()
    with pytest.raises(BackendTimeout, match="no time left to wait for model 'fake'"):
        async with lease_of(pool, "fake", time.monotonic() + 0.05):
            pass
    assert pool.states()["fake"].waiting == 0


async def test_a_full_queue_is_refused(make_pool: MakePool) -> None:
    pool = make_pool(Fake(slots=1))
    await pool.start()
    async with AsyncExitStack() as held:
        await held.enter_async_context(lease_of(pool, "fake"))
        waiters = [asyncio.create_task(held.enter_async_context(lease_of(pool, "fake"))) for _ in range(4)]
        await until(lambda: pool.states()["fake"].waiting == 4)
        with pytest.raises(Overloaded):
            await held.enter_async_context(lease_of(pool, "fake"))
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
    assert (pool.states()["fake"].busy, pool.states()["fake"].waiting) == (0, 0)


async def test_a_lease_is_given_back_however_it_ends(make_pool: MakePool) -> None:
    pool = make_pool(Fake())
    await pool.start()
    holding = asyncio.Event()

    async def hold() -> None:
        async with lease_of(pool, "fake"):
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    assert pool.states()["fake"].busy == 1
    task.cancel()
    await asyncio.wait({task})
    with pytest.raises(LookupError):
        async with lease_of(pool, "fake"):
            raise LookupError
    assert pool.states()["fake"].busy == 0


async def test_closing_refuses_those_who_wait(make_pool: MakePool) -> None:
    pool = make_pool(Fake("never ready"))

    async def ask() -> None:
        async with lease_of(pool, "fake"):
            pass

    with pytest.raises(BackendUnavailable, match="model 'fake' is not running"):
        await ask()
    await pool.start()
    waiter = asyncio.create_task(ask())
    await until(lambda: pool.states()["fake"].waiting == 1)
    await pool.close()
    with pytest.raises(BackendUnavailable, match="model 'fake' is not running"):
        await waiter
    assert pool.states()["fake"].stage is Stage.DORMANT


async def test_a_model_runs_until_nobody_keeps_it(make_pool: MakePool) -> None:
    old, new, shared = Fake(name="a"), Fake(name="a", slots=3), Fake(name="b")
    pool = make_pool(old, shared)
    await pool.start()
    async with pool.lease(old), pool.lease(shared):
        pids = [pool.states()[name].pid for name in ("a", "b")]
    pool.keep([new, shared])
    pool.current = (new, shared)
    async with pool.lease(new), pool.lease(old), pool.lease(shared):
        assert pool.states()["a"].slots == 3
        assert pool.states()["b"].pid == pids[1]
    pool.drop([old, shared])
    await until(lambda: not is_known(pids[0] or 0))
    with pytest.raises(KeyError):
        async with pool.lease(old):
            pass
    async with pool.lease(new), pool.lease(shared):
        assert is_known(pids[1] or 0)


async def test_closing_waits_for_those_that_are_leaving(make_pool: MakePool) -> None:
    fake = Fake()
    pool = make_pool(fake)
    await pool.start()
    async with pool.lease(fake):
        pid = pool.states()["fake"].pid
    pool.current = ()
    pool.drop([fake])
    await pool.close()
    assert pid and not is_known(pid)


async def waiting_as_it_goes(pool: Pool, fake: Fake) -> asyncio.Task[None]:
    """Who waits for a model that is then taken out."""

    async def ask() -> None:
        async with pool.lease(fake):
            pass

    await pool.start()
    waiter = asyncio.create_task(ask())
    await until(lambda: pool.states()["fake"].waiting == 1)
    pool.current = ()
    pool.drop([fake])
    return waiter


async def test_those_that_wait_for_a_model_that_goes_are_refused(make_pool: MakePool) -> None:
    fake = Fake("never ready")
    waiter = await waiting_as_it_goes(make_pool(fake), fake)
    with pytest.raises(BackendUnavailable):
        await asyncio.wait_for(waiter, 5)


async def test_those_that_wait_for_one_that_goes_before_it_is_started_are_refused(make_pool: MakePool) -> None:
    """What it will take is still being estimated: it has no process yet."""
    released = threading.Event()

    class Slow(Fake):
        def footprint(self) -> Footprint:
            released.wait(10)
            return super().footprint()

    fake = Slow("never ready")
    waiter = await waiting_as_it_goes(make_pool(fake), fake)
    released.set()
    with pytest.raises(BackendUnavailable):
        await asyncio.wait_for(waiter, 5)


def test_adding_a_model_touches_no_file(tmp_path: Path) -> None:
    Pool(site(tmp_path / "home")).keep([LlamaCppSettings("core", tmp_path / "missing.gguf")])
    assert list(tmp_path.iterdir()) == []
