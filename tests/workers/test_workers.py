"""Several processes serve one port: what they share, and what happens when one of them dies."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.access.keys import revoke_key
from gateway.serve import Address, listen
from gateway.store.database import open_database
from tests.upstream import upstream
from tests.workers.serving import GATEWAY, PATIENCE_S, UPSTREAM, Served, environment, is_gone, made_key, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
CLIENTS = 50
AGREED_S = 2.0


class Servers:
    """The one that runs; a test that ends it leaves it to the next to start another."""

    def __init__(self, factory: pytest.TempPathFactory, empty_database: Path, upstream_url: str) -> None:
        self._factory, self._empty_database, self._upstream_url = factory, empty_database, upstream_url
        self._open = AsyncExitStack()
        self._running: Served | None = None

    async def running(self) -> Served:
        if self._running is None or self._running.process.returncode is not None:
            folder = self._factory.mktemp("served")
            self._running = await self._open.enter_async_context(
                serving(folder, self._empty_database, self._upstream_url)
            )
        return self._running

    async def close(self) -> None:
        try:
            if self._running is not None and self._running.process.returncode is None:
                assert await self._running.stop() == 0
        finally:
            await self._open.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> AsyncIterator[Servers]:
    async with upstream(*UPSTREAM) as one:
        servers = Servers(tmp_path_factory, empty_database, one.url)
        yield servers
        await servers.close()


@pytest_asyncio.fixture(loop_scope="module")
async def served(servers: Servers) -> Served:
    return await servers.running()


def rows(served: Served, policy: str, having: str = "true") -> int:
    """Of the journal, by now."""
    with sqlite3.connect(served.folder / "home" / "gateway.db") as database:
        query = f"select count(*) from journal where policy = ? and {having}"
        return int(database.execute(query, [policy]).fetchone()[0])


def sockets(pid: int) -> int:
    """That it has open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(descriptor).startswith("socket:")
        except OSError:
            continue  # closed by now
    return found


async def key(served: Served, name: str, **limits: Any) -> str:
    """A new one, once all workers know it: many requests in a row are let in, each on a connection of its own."""
    token = await made_key(served.folder / "home", name, **limits)
    await served.until(lambda: _is(_statuses(served, token), {200}))
    return token


async def _statuses(served: Served, key: str) -> set[int]:
    return set(await asyncio.gather(*(_status(served, key) for _ in range(12))))


async def _status(served: Served, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    async with served.client.get(f"{served.url}/v1/key", headers=headers) as reply:
        return reply.status


async def test_both_workers_answer_and_their_journal_and_metrics_are_one(served: Served) -> None:
    before = {pid: sockets(pid) for pid in served.workers()}
    assert len(before) == 2
    asking = [asyncio.create_task(served.ask(model="count")) for _ in range(40)]
    await served.until(lambda: all(sockets(pid) > count + 2 for pid, count in before.items()))
    await served.until(lambda: _is(_in_flight(served), 40.0))
    assert {status for status, _ in await asyncio.gather(*asking)} == {200}

    metrics = await served.get("/metrics")
    assert 'gateway_requests_total{model="words",policy="count",route="all",status="200"} 40.0' in metrics
    assert "gateway_workers 2.0" in metrics and "gateway_requests_in_flight 0.0" in metrics
    assert rows(served, "count") == 40  # /metrics has had all of them written
    assert "failed" not in served.log


async def _in_flight(served: Served) -> float:
    found = re.search(r"^gateway_requests_in_flight (\S+)", await served.get("/metrics"), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_what_one_worker_did_is_known_to_the_other(served: Served) -> None:
    """By feedback on its answer, and by who goes on with its tool calls."""
    headers = {"authorization": f"Bearer {served.key}"}

    async def rated() -> int:
        status, body = await served.ask(model="stay")
        assert status == 200
        rating = {"id": body["id"], "value": True}
        async with served.client.post(f"{served.url}/v1/feedback", json=rating, headers=headers) as reply:
            return reply.status

    assert Counter(await asyncio.gather(*(rated() for _ in range(10)))) == {201: 10}

    asked = [{"role": "user", "content": "begin"}]
    made = (await served.ask(model="stay", messages=asked))[1]["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": made["tool_calls"][0]["id"], "content": "found"}
    for _ in range(8):
        assert (await served.ask(model="stay", messages=[*asked, made, result]))[0] == 200
    await served.get("/metrics")
    assert rows(served, "stay", "json_extract(trace, '$.facts.stayed')") == 8


async def test_limits_are_exact_over_all_workers_and_a_key_revoked_counts_in_all(served: Served) -> None:
    often = await key(served, "often", requests_per_minute=20)
    counts = Counter(status for status, _ in await asyncio.gather(*(served.ask(often) for _ in range(CLIENTS))))
    assert counts == {200: 20, 429: CLIENTS - 20}
    used = (await served.get("/v1/key", often))["used"]
    assert used["minute"]["requests"] == 20 and used["day"]["requests"] == 20

    few = await key(served, "few", concurrent=3)
    done: Counter[int] = Counter()

    async def ask_until_answered() -> None:
        while (await served.ask(few))[0] != 200:
            done[429] += 1
        done[200] += 1

    await asyncio.gather(*(ask_until_answered() for _ in range(20)))
    assert done[200] == 20 and done[429] > 0
    assert (await served.get("/v1/key", few))["used"]["minute"]["open"] == 0

    database = await open_database(served.folder / "home")
    await revoke_key(database, "few")
    await database.close()
    revoked = time.monotonic()
    await served.until(lambda: _is(_statuses(served, few), {401}))
    assert time.monotonic() - revoked < AGREED_S

    poor = await key(served, "poor", usd_per_day=1.0)
    dear = {"model": "dear", "max_tokens": 100}  # $0.10
    asked = await asyncio.gather(*(served.ask(poor, **dear) for _ in range(CLIENTS)))
    assert sum(status == 200 for status, _ in asked) == 10
    assert {body["error"]["code"] for status, body in asked if status != 200} == {"insufficient_quota"}
    assert (await served.get("/v1/key", poor))["used"]["day"]["usd"] == pytest.approx(1.0)


async def test_places_of_a_node_and_of_the_gateway_are_shared(served: Served) -> None:
    asking = (served.ask(model="two-places") for _ in range(30))
    counts = Counter(status for status, _ in await asyncio.gather(*asking))
    assert counts == {200: 10, 429: 20}  # two at once, and four that wait for each


async def test_a_reload_is_agreed_and_a_broken_file_changes_nothing(served: Served) -> None:
    config = served.folder / "models.yaml"
    text, restarts = config.read_text(), await restarts_so_far(served)
    another = "database_url: postgresql://nobody@127.0.0.1:9/none\n"  # which counts at the next start, for all
    config.write_text(another + text.replace("one two", "three"))

    async def words() -> set[str]:
        answers = await asyncio.gather(*(served.ask() for _ in range(12)))
        return {body["choices"][0]["message"]["content"] for _, body in answers}

    await served.until(lambda: _holds(words(), "three"))
    first = time.monotonic()
    await served.until(lambda: _is(words(), {"three"}))
    assert time.monotonic() - first < AGREED_S

    config.write_text("models: [")
    await served.until(lambda: _all_have(served, "stale"))
    assert await words() == {"three"}
    os.kill(served.workers()[0], signal.SIGKILL)  # the next one has what is served, not what the file says
    await served.until(lambda: _is(_restarts(served), restarts + 1))
    assert await words() == {"three"}

    config.write_text(text)
    await served.until(lambda: _is(words(), {"one two"}))
    await served.until(lambda: _all_have(served, "current"))


async def _is(finding: Any, wanted: object) -> bool:
    return bool(await finding == wanted)


async def _holds(finding: Any, wanted: str) -> bool:
    return wanted in await finding


async def _all_have(served: Served, status: str) -> bool:
    told = await asyncio.gather(*(served.get("/healthz") for _ in range(12)))
    return {one["config"]["status"] for one in told} == {status}


async def _restarts(served: Served) -> int | None:
    """So far; None while not all workers run."""
    try:
        workers = (await served.get("/healthz"))["workers"]
    except aiohttp.ClientError:
        return None
    return int(workers["restarts"]) if workers["running"] == workers["wanted"] == 2 else None


async def test_what_a_killed_worker_held_is_let_go(served: Served) -> None:
    """Its place at a server that has one, and in the limits of a key; others go on."""
    await served.until(lambda: _is(_ready(served), "ready"))
    restarts = await restarts_so_far(served)
    single = await key(served, "single", concurrent=1)
    other = await key(served, "other")
    long = {"messages": [{"role": "user", "content": "long"}]}
    before = {pid: sockets(pid) for pid in served.workers()}
    async with served.stream(single, model="attached", **long) as reply:
        await reply.content.readany()
        assert (await served.ask(single, model="attached"))[0] == 429
        busy = await served.until(lambda: _only_one_with_more(before))
        waiting = asyncio.create_task(served.ask(other, model="attached"))  # for the one place
        os.kill(busy, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):  # cut, and not ended
            await reply.content.read()
    try:
        assert (await waiting)[0] == 200
    except aiohttp.ClientError:
        pass  # it was at the same worker
    assert (await served.ask(other, model="attached"))[0] == 200
    assert (await served.ask(single, model="attached"))[0] == 200
    await served.until(lambda: _is(_restarts(served), restarts + 1))


def _only_one_with_more(before: dict[int, int]) -> int | None:
    """The worker that has more sockets than before, once connections of what has ended are closed."""
    more = [pid for pid, count in before.items() if sockets(pid) > count]
    return more[0] if len(more) == 1 else None


async def restarts_so_far(served: Served) -> int:
    """Once all workers run: those of an earlier test may still be on their way."""
    await served.until(lambda: _all_run(served))
    return int((await served.get("/healthz"))["workers"]["restarts"])


async def _all_run(served: Served) -> bool:
    return await _restarts(served) is not None


async def _ready(served: Served) -> str:
    return str((await served.get("/readyz"))["status"])


async def test_under_load_a_killed_worker_costs_its_own_requests_only_and_all_others_are_journalled(
    served: Served,
) -> None:
    restarts = await restarts_so_far(served)
    await served.get("/metrics")
    before = rows(served, "default")
    answered = failed = 0
    is_over = asyncio.Event()

    async def keep_asking() -> None:
        nonlocal answered, failed
        while not is_over.is_set():
            try:
                status, _ = await served.ask()
                assert status == 200
                answered += 1
            except aiohttp.ClientError:
                failed += 1

    clients = [asyncio.create_task(keep_asking()) for _ in range(16)]
    await served.until(lambda: answered > 50)
    os.kill(served.workers()[0], signal.SIGKILL)
    await served.until(lambda: _is(_restarts(served), restarts + 1))
    since = answered
    await served.until(lambda: answered > since + 50)
    is_over.set()
    await asyncio.gather(*clients)
    assert failed <= 16  # those that it was answering
    await served.get("/metrics")
    written = rows(served, "default") - before
    assert answered - 200 < written <= answered + failed  # of the last quarter of a second nothing is known


async def test_a_worker_is_started_once_there_is_room_for_it_again(served: Served) -> None:
    await restarts_so_far(served)
    supervisor = served.process.pid
    most = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, most[1]))
    try:
        os.kill(served.workers()[0], signal.SIGKILL)
        await served.until(lambda: "a worker cannot be started (" in served.log)
        assert len(served.workers()) == 1
    finally:
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, most)
    await served.until(lambda: len(served.workers()) == 2)
    await served.until(served.all_running)


async def test_no_program_that_a_worker_starts_has_its_sockets(served: Served) -> None:
    for pid in served.workers():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        for descriptor in words[words.index(b"gateway.workers.worker") + 1 :][:2]:
            told = Path(f"/proc/{pid}/fdinfo/{descriptor.decode()}").read_text()
            assert int(told.partition("flags:")[2].split()[0], 8) & os.O_CLOEXEC


async def test_on_a_path_who_comes_before_the_workers_waits_for_them(tmp_path: Path) -> None:
    with listen(Address(uds=tmp_path / "s")), socket.socket(socket.AF_UNIX) as early:
        early.connect(str(tmp_path / "s"))


async def test_a_stop_lets_an_open_stream_end_and_journals_it(served: Served) -> None:
    pids = served.workers()
    await served.get("/metrics")
    before, logged = rows(served, "count"), len(served.log)
    async with served.stream(model="count") as reply:
        await reply.content.readany()
        served.process.send_signal(signal.SIGTERM)
        await served.until(lambda: _is(_statuses(served, served.key), {503}))
        said = (await reply.content.read()).decode()
    assert said.endswith("data: [DONE]\n\n")
    assert await asyncio.wait_for(served.process.wait(), PATIENCE_S) == 0
    assert rows(served, "count") == before + 1 and "failed" not in served.log[logged:]
    assert all(is_gone(pid) for pid in pids)


async def test_a_second_signal_ends_all_at_once(served: Served) -> None:
    async with served.stream(model="endless") as reply:
        await reply.content.readany()
        served.process.send_signal(signal.SIGTERM)
        await served.until(lambda: _is(_statuses(served, served.key), {503}))
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert "[DONE]" not in (await reply.content.read()).decode()
        await asyncio.wait_for(served.process.wait(), PATIENCE_S)
    assert time.monotonic() - began < 6


async def test_a_port_that_is_served_is_refused_and_nothing_is_left_of_a_killed_supervisor(served: Served) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*GATEWAY, "serve", "--port", str(served.port), "--workers", "2"),
        cwd=served.folder,
        env=environment(served.folder),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1 and b"cannot listen on" in said
    pids = served.workers()
    served.process.kill()
    await served.process.wait()
    await served.until(lambda: all(is_gone(pid) for pid in pids), within_s=10.0)
