"""The real core model as several entries, with room for two: nothing fails, nothing is over budget."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.memory import measure
from gateway.engines.resident import Stage
from tests.asgi import Client, Response
from tests.conftest import Serve

pytestmark = pytest.mark.model
CONTEXT = 512
PATIENCE_S = 60.0  # for a first swap, on a busy machine
ENTRY = """
  {name}: {{engine: llama.cpp, source: 'file:{path}', context: 512, slots: 2, threads: 1, residency: on_demand}}"""


def entries(path: Path, names: str, room_for: float) -> str:
    """models.yaml with so many models, and a budget for so many of them."""
    one = LlamaCppSettings("m", path, context=CONTEXT, slots=2).footprint().ram_bytes
    models = "".join(ENTRY.format(name=name, path=path) for name in names)
    return f"models:{models}\nmemory_budget: {int(one * room_for)}\n"


class Crowd:
    """Clients that ask, each one request after the other, until the time is up and one model has gone for another."""

    def __init__(self, client: Client, names: str, seconds: float) -> None:
        self.client, self.names, self.end = client, names, time.monotonic() + seconds
        self.latest = self.end + PATIENCE_S
        self.failed: list[str] = []
        self.took_s: list[float] = []
        self.swaps = 0
        self.most = 0

    async def run(self, size: int) -> None:
        self.client.runtime.pool.on_event = self._note
        watch = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._ask(random.Random(seed)) for seed in range(size)))
        watch.cancel()

    async def _ask(self, draw: random.Random) -> None:
        while (now := time.monotonic()) < self.end or (self.swaps == 0 and now < self.latest):
            name = draw.choice(self.names)
            began = time.monotonic()
            is_stream = draw.random() < 0.5
            reply = await ask(self.client, name, stream=is_stream, max_tokens=draw.choice([1, 8, 24]))
            if reply.status != 200 or reply.gateway["model"] != name:
                self.failed.append(f"{name}: {reply.status} {reply.body[:200]!r}")
            self.took_s.append(time.monotonic() - began)
            await asyncio.sleep(draw.choice([0, 0, 0.2]))

    def _note(self, event: object) -> None:
        self.swaps += getattr(event, "reason", None) == "room"

    async def _watch(self) -> None:
        """What all their processes really take."""
        while True:
            states = self.client.runtime.pool.states().values()
            pids = [state.pid for state in states if state.pid is not None]
            found = [await asyncio.to_thread(measure, pid) for pid in pids]
            self.most = max(self.most, sum(one.ram_bytes for one in found if one is not None))
            await asyncio.sleep(0.1)

    def told(self) -> str:
        cuts = statistics.quantiles(self.took_s, n=20)
        return (
            f"{len(self.took_s)} requests, {self.swaps} swaps, p50 {cuts[9]:.2f} s, p95 {cuts[18]:.2f} s, "
            f"at most {self.most / 2**20:.0f} MiB of {self.client.runtime.pool.budget.ram_bytes / 2**20:.0f}"
        )


async def ask(client: Client, name: str, **fields: object) -> Response:
    call = client.start_chat("Say something.", model=name, **fields)
    return await call.done(timeout_s=120)


@pytest.mark.parametrize(
    ("names", "clients", "seconds"),
    [("abc", 4, 5), pytest.param("abcde", 8, 120, marks=pytest.mark.slow)],
    ids=["three models, five seconds", "five models, two minutes"],
)
async def test_more_models_than_there_is_room_for(
    serve: Serve, core_model_path: Path, names: str, clients: int, seconds: float
) -> None:
    client = await serve(entries(core_model_path, names, room_for=2.1))
    crowd = Crowd(client, names, seconds)
    await crowd.run(clients)
    print(crowd.told())
    assert crowd.failed == []
    assert crowd.most <= client.runtime.pool.budget.ram_bytes
    assert crowd.swaps >= 1


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def kill(client: Client, name: str) -> None:
    pid = client.runtime.pool.states()[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: client.runtime.pool.states()[name].pid != pid)


async def loading(client: Client) -> None:
    """Killed while it is being loaded: it is started once more for the one who waits."""
    call = client.start_chat("Say something.", model="a", max_tokens=2)
    await until(lambda: client.runtime.pool.states()["a"].pid)
    await kill(client, "a")
    assert (await call.done(timeout_s=60)).status == 200


async def warm(client: Client) -> None:
    """Killed while nobody asks: it sleeps, until it is asked for."""
    assert (await ask(client, "a", max_tokens=2)).status == 200
    await kill(client, "a")
    await until(lambda: client.runtime.pool.states()["a"].stage is Stage.DORMANT)


async def busy(client: Client) -> None:
    """Killed while it answers: that request fails in words, and the next is answered."""
    call = client.start_chat("Count from one to a hundred.", model="a", max_tokens=300, stream=True)
    await asyncio.wait_for(call.wrote.wait(), 60)
    await kill(client, "a")
    reply = await call.done(timeout_s=60)
    assert b'"error"' in reply.body and b"[DONE]" not in reply.body


async def unloading(client: Client) -> None:
    """Killed while it goes for another."""
    assert (await ask(client, "a", max_tokens=2)).status == 200
    pid = client.runtime.pool.states()["a"].pid
    assert pid is not None
    other = client.start_chat("Say something.", model="b", max_tokens=2)
    await until(lambda: client.runtime.pool.states()["a"].stage is Stage.UNLOADING)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was quick
    assert (await other.done(timeout_s=60)).status == 200


@pytest.mark.parametrize(
    "story",
    [busy, *(pytest.param(story, marks=pytest.mark.slow) for story in (loading, warm, unloading))],
    ids=lambda story: story.__name__,
)
async def test_an_engine_that_is_killed_recovers(
    serve: Serve, core_model_path: Path, story: Callable[[Client], Awaitable[None]]
) -> None:
    client = await serve(entries(core_model_path, "ab", room_for=1.2))
    await story(client)
    assert (await ask(client, "a", max_tokens=2)).status == 200
