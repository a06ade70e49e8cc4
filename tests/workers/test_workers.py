"""Several processes serve one port: what they share, and what happens when one of them dies."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.access.keys import Wanted, create_key, revoke_key
from gateway.serve import Address, listen
from gateway.store.database import open_database
from tests.shared_servers import Redis
from tests.upstream import upstream
from tests.workers.serving import PATIENCE_S, Served, is_gone, serving

MODEL = "models:\n  m1: {engine: scripted, replies: [{text: 'one two', first_token_ms: 20}]}\n"
SLOW = "models:\n  m1: {engine: scripted, replies: [{text: '%s', between_ms: 50}]}\n"
CLIENTS = 50
AGREED_S = 2.0


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    return tmp_path


def rows(served: Served) -> int:
    with sqlite3.connect(served.folder / "home" / "gateway.db") as database:
        return int(database.execute("select count(*) from journal").fetchone()[0])


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
    """Made in the database, as `gateway keys` makes it, once all workers know it."""
    database = await open_database(served.folder / "home")
    try:
        _, token = await create_key(database, name, Wanted(limits=limits))
    finally:
        await database.close()
    await until_known(served, token)
    return token


async def until_known(served: Served, key: str) -> None:
    """By both workers: many requests in a row are let in, each on a connection of its own."""

    async def is_known() -> bool:
        statuses = await asyncio.gather(*(_status(served, key) for _ in range(12)))
        return set(statuses) == {200}

    await served.until(is_known)


async def _status(served: Served, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    async with served.client.get(f"{served.url}/v1/key", headers=headers) as reply:
        return reply.status


async def test_both_workers_answer_and_their_journal_and_metrics_are_one(folder: Path) -> None:
    async with serving(folder, SLOW % " ".join(["word"] * 20)) as served:
        before = {pid: sockets(pid) for pid in served.workers()}
        assert len(before) == 2
        asking = [asyncio.create_task(served.ask()) for _ in range(40)]
        await served.until(lambda: all(sockets(pid) > count + 2 for pid, count in before.items()))
        in_flight = re.search(r"^gateway_requests_in_flight (\S+)", await served.get("/metrics"), re.MULTILINE)
        assert in_flight is not None and float(in_flight[1]) == 40
        assert {status for status, _ in await asyncio.gather(*asking)} == {200}

        metrics = await served.get("/metrics")
        assert 'gateway_requests_total{model="m1",policy="default",route="all",status="200"} 40.0' in metrics
        assert "gateway_workers 2.0" in metrics and "gateway_requests_in_flight 0.0" in metrics
        assert rows(served) == 40  # /metrics has had all of them written
        assert await served.stop() == 0
        assert "failed" not in served.log


async def test_what_one_worker_did_is_known_to_the_other(folder: Path) -> None:
    """By feedback on its answer, and by who goes on with its tool calls."""
    call = "{when: {contains: begin}, tool_calls: [{name: look}]}"
    models = f"models:\n  m1: {{engine: scripted, replies: [{call}, {{text: done}}]}}\n"
    async with serving(folder, models) as served:

        async def rated() -> int:
            status, body = await served.ask()
            assert status == 200
            async with served.client.post(f"{served.url}/v1/feedback", json={"id": body["id"], "value": True}) as reply:
                return reply.status

        assert Counter(await asyncio.gather(*(rated() for _ in range(10)))) == {201: 10}

        asked = [{"role": "user", "content": "begin"}]
        made = (await served.ask(messages=asked))[1]["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": made["tool_calls"][0]["id"], "content": "found"}
        for _ in range(8):
            assert (await served.ask(messages=[*asked, made, result]))[0] == 200
        await served.get("/metrics")
        with sqlite3.connect(folder / "home" / "gateway.db") as database:
            query = "select count(*) from journal where json_extract(trace, '$.facts.stayed')"
            assert database.execute(query).fetchone()[0] == 8


async def test_limits_are_exact_over_all_workers_and_a_key_revoked_counts_in_all(folder: Path) -> None:
    price = "price: {input_usd_per_mtok: 0, output_usd_per_mtok: 1000}"
    reply = "{text: x, first_token_ms: 50, usage: {prompt_tokens: 1, completion_tokens: 100, total_tokens: 101}}"
    async with serving(folder, f"{MODEL}  dear: {{engine: scripted, {price}, replies: [{reply}]}}\n") as served:
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

        database = await open_database(folder / "home")
        await revoke_key(database, "few")
        await database.close()
        revoked = time.monotonic()
        await served.until(lambda: _is(_status(served, few), 401))
        await asyncio.sleep(max(0.0, revoked + AGREED_S - time.monotonic()))
        assert set(await asyncio.gather(*(_status(served, few) for _ in range(12)))) == {401}

        poor = await key(served, "poor", usd_per_day=1.0)
        dear = {"model": "dear", "max_tokens": 100}  # $0.10
        asked = await asyncio.gather(*(served.ask(poor, **dear) for _ in range(CLIENTS)))
        assert sum(status == 200 for status, _ in asked) == 10
        assert {body["error"]["code"] for status, body in asked if status != 200} == {"insufficient_quota"}
        assert (await served.get("/v1/key", poor))["used"]["day"]["usd"] == pytest.approx(1.0)


async def test_what_gateways_tell_each_other_reaches_and_leaves_all_workers(folder: Path, redis_server: Redis) -> None:
    urls = ["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"]
    models = f"redis_url: {redis_server.url}\nmodels:\n  m1: {{engine: openai, base_url: {urls}, model: up}}\n"
    redis = pytest.importorskip("redis.asyncio")
    async with (
        serving(folder, models) as served,
        redis.from_url(redis_server.url) as client,
        client.pubsub() as news,
    ):
        database = await open_database(folder / "home")
        _, admin = await create_key(database, "admin", Wanted(is_admin=True))
        await database.close()
        await until_known(served, admin)
        await news.subscribe("onion-gateway")
        headers = {"authorization": f"Bearer {admin}"}
        async with served.client.post(f"{served.url}/v1/admin/keys", json={"name": "b"}, headers=headers) as reply:
            assert reply.status == 200
        async with asyncio.timeout(PATIENCE_S):
            while (message := await news.get_message(ignore_subscribe_messages=True, timeout=1.0)) is None:
                pass
        assert orjson.loads(message["data"])["about"] == "keys"

        place = hashlib.sha256("\n".join(("m1", *urls)).encode()).hexdigest()
        aside = {"of": place, "place": 1, "is_of_key": False, "pause_s": 60, "why": "gone"}
        redis_server.run("PUBLISH", "onion-gateway", orjson.dumps({"about": "aside", "from": "x", **aside}).decode())
        await served.until(lambda: _says(served, 'gateway_addresses_up{model="m1"} 1.0', admin))


async def _says(served: Served, line: str, key: str) -> bool:
    return line in str(await served.get("/metrics", key)).splitlines()


async def test_places_of_a_node_and_of_the_gateway_are_shared(folder: Path) -> None:
    policy = "policy: default\nroutes: [{name: all, answer: {model: m1, slots: 2}}]\n"
    async with upstream({"text": "yes", "first_token_ms": 60}) as one:
        models = f"models:\n  m1: {{engine: openai, base_url: '{one.url}', model: up, api_key: k}}\n"
        async with serving(folder, models, policy) as served:
            counts = Counter(status for status, _ in await asyncio.gather(*(served.ask() for _ in range(30))))
            assert counts == {200: 10, 429: 20}  # two at once, and four that wait for each


async def test_a_reload_is_agreed_and_a_broken_file_changes_nothing(folder: Path) -> None:
    async with serving(folder, MODEL) as served:
        another = "database_url: postgresql://nobody@127.0.0.1:9/none\n"  # which counts at the next start, for all
        (folder / "models.yaml").write_text(another + MODEL.replace("one two", "three"))

        async def words() -> set[str]:
            answers = await asyncio.gather(*(served.ask() for _ in range(12)))
            return {body["choices"][0]["message"]["content"] for _, body in answers}

        await served.until(lambda: _holds(words(), "three"))
        first = time.monotonic()
        await served.until(lambda: _is(words(), {"three"}))
        assert time.monotonic() - first < AGREED_S

        (folder / "models.yaml").write_text("models: [")
        await served.until(lambda: _all_stale(served))
        assert await words() == {"three"}
        os.kill(served.workers()[0], signal.SIGKILL)  # the next one has what is served, not what the file says
        await served.until(lambda: _restarted(served, 1))
        assert await words() == {"three"}


async def _is(finding: Any, wanted: object) -> bool:
    return bool(await finding == wanted)


async def _holds(finding: Any, wanted: str) -> bool:
    return wanted in await finding


async def _all_stale(served: Served) -> bool:
    told = await asyncio.gather(*(served.get("/healthz") for _ in range(12)))
    return {one["config"]["status"] for one in told} == {"stale"}


async def _restarted(served: Served, times: int) -> bool:
    try:
        workers = (await served.get("/healthz"))["workers"]
    except aiohttp.ClientError:
        return False
    return bool(workers == {"running": 2, "wanted": 2, "restarts": times})


async def test_what_a_killed_worker_held_is_let_go(folder: Path) -> None:
    """Its place at a server that has one, and in the limits of a key; others go on."""
    async with upstream({"when": {"contains": "long"}, "text": "w " * 1000, "between_ms": 20}, {"text": "yes"}) as one:
        models = f"models:\n  m1: {{engine: attach, url: '{one.url}', model: scripted, slots: 1}}\n"
        async with serving(folder, models) as served:
            await served.until(lambda: _is(_ready(served), "ready"))
            single = await key(served, "single", concurrent=1)
            long = {"messages": [{"role": "user", "content": "long"}]}
            before = {pid: sockets(pid) for pid in served.workers()}
            headers = {"authorization": f"Bearer {single}"}
            body = {"model": "auto", "stream": True, **long}
            async with served.client.post(f"{served.url}/v1/chat/completions", json=body, headers=headers) as reply:
                await reply.content.readany()
                assert (await served.ask(single))[0] == 429
                other = await key(served, "other")
                waiting = asyncio.create_task(served.ask(other))  # for the one place
                busy = max(before, key=lambda pid: sockets(pid) - before[pid])
                os.kill(busy, signal.SIGKILL)
                with pytest.raises(aiohttp.ClientError):  # cut, and not ended
                    await reply.content.read()
            try:
                assert (await waiting)[0] == 200
            except aiohttp.ClientError:
                pass  # it was at the same worker
            assert (await served.ask(other))[0] == 200
            assert (await served.ask(single))[0] == 200
            await served.until(lambda: _restarted_with(served, other))


async def _ready(served: Served) -> str:
    return str((await served.get("/readyz"))["status"])


async def _restarted_with(served: Served, key: str) -> bool:
    workers = (await served.get("/healthz"))["workers"]
    return bool(workers["running"] == 2 and workers["restarts"] == 1)


async def test_under_load_a_killed_worker_costs_its_own_requests_only_and_all_others_are_journalled(
    folder: Path,
) -> None:
    async with serving(folder, MODEL) as served:
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
        await served.until(lambda: _restarted(served, 1))
        since = answered
        await served.until(lambda: answered > since + 50)
        is_over.set()
        await asyncio.gather(*clients)
        assert failed <= 16  # those that it was answering
        await served.get("/metrics")
        written = rows(served)
        assert answered - 200 < written <= answered + failed  # of the last quarter of a second nothing is known
        assert await served.stop() == 0


async def test_a_worker_is_started_once_there_is_room_for_it_again(folder: Path) -> None:
    async with serving(folder, MODEL) as served:
        supervisor = served.process.pid
        most = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, most[1]))
        os.kill(served.workers()[0], signal.SIGKILL)
        await served.until(lambda: "a worker cannot be started (" in served.log)
        assert len(served.workers()) == 1
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, most)
        await served.until(lambda: len(served.workers()) == 2)
        await served.until(served.all_running)
        assert await served.stop() == 0


async def test_no_program_that_a_worker_starts_has_its_sockets(folder: Path) -> None:
    async with serving(folder, MODEL) as served:
        for pid in served.workers():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            for descriptor in words[words.index(b"gateway.workers.worker") + 1 :][:2]:
                told = Path(f"/proc/{pid}/fdinfo/{descriptor.decode()}").read_text()
                assert int(told.partition("flags:")[2].split()[0], 8) & os.O_CLOEXEC


def test_on_a_path_who_comes_before_the_workers_waits_for_them(tmp_path: Path) -> None:
    with listen(Address(uds=tmp_path / "s")), socket.socket(socket.AF_UNIX) as early:
        early.connect(str(tmp_path / "s"))


async def test_a_port_that_is_served_is_refused_and_nothing_is_left_of_a_killed_supervisor(folder: Path) -> None:
    async with serving(folder, MODEL) as served:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "--port", str(served.port), "--workers", "2"),
            cwd=folder,
            env={**os.environ, "GATEWAY_HOME": str(folder / "home"), "COLUMNS": "200"},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == 1 and b"cannot listen on" in said
        pids = served.workers()
        served.process.kill()
        await served.process.wait()
        await served.until(lambda: all(is_gone(pid) for pid in pids), within_s=3.0)


async def test_a_stop_lets_an_open_stream_end_and_journals_it(folder: Path) -> None:
    async with serving(folder, SLOW % " ".join(["word"] * 20)) as served:
        pids = served.workers()
        async with served.stream() as reply:
            await reply.content.readany()
            served.process.send_signal(signal.SIGTERM)
            await served.until(lambda: _turns_away(served))
            said = (await reply.content.read()).decode()
        assert said.endswith("data: [DONE]\n\n")
        assert await asyncio.wait_for(served.process.wait(), PATIENCE_S) == 0
        assert rows(served) >= 1 and served.log.count("failed") == 0
        assert all(is_gone(pid) for pid in pids)


async def _turns_away(served: Served) -> bool:
    return set(await asyncio.gather(*(_status(served, "none") for _ in range(6)))) == {503}


async def test_a_second_signal_ends_all_at_once(folder: Path) -> None:
    async with serving(folder, SLOW % " ".join(["word"] * 1000)) as served:
        async with served.stream() as reply:
            await reply.content.readany()
            served.process.send_signal(signal.SIGTERM)
            await served.until(lambda: _turns_away(served))
            began = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            assert "[DONE]" not in (await reply.content.read()).decode()
            await asyncio.wait_for(served.process.wait(), PATIENCE_S)
        assert time.monotonic() - began < 6
