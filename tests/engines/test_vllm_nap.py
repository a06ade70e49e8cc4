"""vLLM sleeps where others need the GPU. Its server is played here: no GPU was there to run the real one on."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.engines import Residency
from gateway.engines.footprint import Footprint
from gateway.engines.plan import Rules
from gateway.engines.pool import Pool
from gateway.engines.resident import Stage
from gateway.engines.vllm import VllmSettings
from gateway.transport.client import PooledClient
from tests.engines.conftest import add, lease_of, site
from tests.engines.fake_programs import Program, program
from tests.engines.fakes import is_alive

TAKES = Footprint(100, 1000)


@dataclass(frozen=True)
class Vllm(VllmSettings):
    """One whose size is known."""

    def footprint(self) -> Footprint:
        return TAKES


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    client = PooledClient()
    pool = Pool(replace(site(tmp_path, client=client), measure=lambda pid: TAKES), rules=Rules(dwell_s=0))
    pool.budget = Footprint(10_000, 1500)
    yield pool
    await pool.close()
    await client.close()


def sleeper(tmp_path: Path, name: str, level: int, play: str = "serves") -> tuple[Program, Vllm]:
    fake = program(tmp_path / name, "VLLM_API_KEY", play)
    return fake, Vllm(name, "owner/name", command=str(fake.path), sleep=level, residency=Residency.ON_DEMAND)


def naps(fake: Program) -> list[str]:
    path = fake.path.with_suffix(".naps")
    return path.read_text().splitlines() if path.exists() else []


async def ask(pool: Pool, name: str) -> None:
    async with lease_of(pool, name):
        pass


WAKING = {
    1: ["/sleep?level=1", "/wake_up"],
    2: [
        "/sleep?level=2",
        "/wake_up?tags=weights",
        '/collective_rpc {"method":"reload_weights"}',
        "/wake_up?tags=kv_cache",
    ],
}


@pytest.mark.parametrize("level", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_it_sleeps_for_others_and_is_woken_in_the_same_process(pool: Pool, tmp_path: Path, level: int) -> None:
    (a, engine_a), (b, engine_b) = sleeper(tmp_path, "a", level), sleeper(tmp_path, "b", level)
    add(pool, engine_a, engine_b)
    await pool.start()
    await ask(pool, "a")
    pid = pool.states()["a"].pid
    await ask(pool, "b")
    assert pool.states()["a"].stage is Stage.SLEEPING
    assert pool.states()["a"].footprint == engine_a.asleep(TAKES) == Footprint(1100 if level == 1 else 100, 100)
    await ask(pool, "a")
    assert (pool.states()["a"].stage, pool.states()["a"].pid) == (Stage.WARM, pid)
    assert naps(a) == WAKING[level] and naps(b) == [f"/sleep?level={level}"]
    assert "--enable-sleep-mode" in a.argv and a.env["VLLM_SERVER_DEV_MODE"] == "1"


async def test_one_that_does_not_wake_is_started_anew(pool: Pool, tmp_path: Path) -> None:
    (a, engine_a), (_, engine_b) = sleeper(tmp_path, "a", 1, "does not wake"), sleeper(tmp_path, "b", 1)
    add(pool, engine_a, engine_b)
    await pool.start()
    await ask(pool, "a")
    pid = pool.states()["a"].pid
    await ask(pool, "b")
    await ask(pool, "a")
    assert pool.states()["a"].stage is Stage.WARM and pool.states()["a"].pid != pid
    assert pid is not None and not is_alive(pid)
    assert naps(a) == WAKING[1]


async def test_a_sleeper_goes_wholly_where_its_main_memory_is_needed(pool: Pool, tmp_path: Path) -> None:
    (_, engine_a), (_, engine_b) = sleeper(tmp_path, "a", 1), sleeper(tmp_path, "b", 1)
    pool.budget = Footprint(1150, 1500)
    add(pool, engine_a, engine_b)
    await pool.start()
    await ask(pool, "a")
    await ask(pool, "b")
    assert pool.states()["a"].stage is Stage.DORMANT


@pytest.mark.slow
async def test_a_sleeper_that_dies_is_started_anew_when_it_is_asked_for(pool: Pool, tmp_path: Path) -> None:
    (_, engine_a), (_, engine_b) = sleeper(tmp_path, "a", 1), sleeper(tmp_path, "b", 1)
    add(pool, engine_a, engine_b)
    await pool.start()
    await ask(pool, "a")
    await ask(pool, "b")
    pid = pool.states()["a"].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await ask(pool, "a")
    assert pool.states()["a"].stage is Stage.WARM and pool.states()["a"].pid != pid
