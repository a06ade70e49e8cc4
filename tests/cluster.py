"""Several gateways as processes on one PostgreSQL and one Redis, behind nginx: as docs/replicas.md sets them up."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from gateway.access.keys import Wanted, create_key
from gateway.store.database import open_database
from tests.http.programs import program
from tests.shared_servers import Postgres, Redis

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "replicas.md").read_text("utf-8")
MODELS = """
database_url: ${DATABASE}
redis_url: ${REDIS}
models:
  core:
    engine: scripted
    replies: [{text: "one two three", first_token_ms: 20, usage: {prompt_tokens: 10, completion_tokens: 10}}]
    price: {output_usd_per_mtok: 1000}
  slow:
    engine: scripted
    replies: [{text: "one two three four five six seven eight nine ten eleven twelve", between_ms: 500}]
"""
POLICY = "policy: default\nserves: [auto]\nroutes: [{name: all, answer: {model: core}}]\n"
READY_WITHIN_S = 60.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Replica:
    name: str
    folder: Path
    env: dict[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "policies").mkdir(exist_ok=True)
        (self.folder / "models.yaml").write_text(MODELS)
        (self.folder / "policies" / "default.yaml").write_text(POLICY)
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(self.port), "--models", "models.yaml"]
        env = {**os.environ, **self.env, "GATEWAY_HOME": str(self.folder), "GATEWAY_REPLICA": self.name}
        env["PYTHONPATH"] = str(ROOT)
        with (self.folder / "log").open("ab") as log:
            command += ["--policies", "policies"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=env)
        await self.until(self._is_ready)

    async def _is_ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return (await self.get("/readyz"))[0] == 200
        except OSError:
            return False

    async def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as reply:
                return reply.status, await reply.text()

    async def gauge(self, name: str) -> float:
        _, text = await self.get("/metrics")
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return float(found[1])

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(READY_WITHIN_S):
            while not await condition():
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self) -> None:
        """As a restart does: it finishes what it has begun."""
        assert self.process is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 60)


@dataclass(frozen=True)
class Outcome:
    """Of one request. `status` 0: the connection broke. `at`: unix seconds of its end."""

    status: int
    began: float
    at: float
    trace: str = ""
    text: str = ""


@dataclass
class Cluster:
    folder: Path
    postgres: Postgres
    redis: Redis
    replicas: list[Replica]
    port: int = field(default_factory=free_port)
    nginx: subprocess.Popen[bytes] | None = None

    @classmethod
    async def started(cls, folder: Path, postgres: Postgres, redis: Redis, count: int = 3) -> Cluster:
        env = {"DATABASE": postgres.url(), "REDIS": redis.url}
        replicas = [Replica(f"r{number}", folder / f"r{number}", env) for number in range(count)]
        cluster = cls(folder, postgres, redis, replicas)
        await asyncio.gather(*(replica.start() for replica in replicas))  # the first to come makes the tables
        cluster._start_nginx()
        return cluster

    def _start_nginx(self) -> None:
        """With the configuration that the page gives."""
        found = re.search(r"```nginx\n(.*?)```", PAGE, re.DOTALL)
        assert found is not None
        ports = iter(replica.port for replica in self.replicas)
        page = re.sub(r"server gateway-\d:8080", lambda _: f"server 127.0.0.1:{next(ports)}", found[1])
        page = re.sub(r"listen \S+( \S+)?;", f"listen 127.0.0.1:{self.port};", page)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};\n" for kind in kinds)
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder}/pid; worker_processes 1; error_log stderr warn;\n"
            f"events {{}}\nhttp {{ access_log off; {temporary} {page} }}\n"
        )
        with (self.folder / "nginx.log").open("wb") as log:
            command = [program("nginx"), "-e", "stderr", "-p", self.folder, "-c", self.folder / "nginx.conf"]
            self.nginx = subprocess.Popen(command, stdout=log, stderr=log)

    async def close(self) -> None:
        for process in (self.nginx, *(replica.process for replica in self.replicas)):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in (self.nginx, *(replica.process for replica in self.replicas)):
            if process is not None:
                await asyncio.to_thread(process.wait, 60)

    async def key(self, name: str, **limits: Any) -> dict[str, str]:
        """The headers of a new key, once all replicas know it."""
        database = await open_database(self.folder, self.postgres.url())
        _, token = await create_key(database, name, Wanted(limits=limits))
        await database.close()
        headers = {"authorization": f"Bearer {token}"}
        proxied = {**headers, "x-forwarded-for": "192.0.2.1"}  # without a key, a server serves its own machine

        for replica in self.replicas:

            async def is_known(replica: Replica = replica) -> bool:
                return (await replica.get("/v1/models", proxied))[0] == 200

            await replica.until(is_known)
        return headers

    async def ask(
        self, session: aiohttp.ClientSession, headers: dict[str, str], model: str = "auto", *, stream: bool = False
    ) -> Outcome:
        body = {"model": model, "messages": [{"role": "user", "content": "Count."}], "stream": stream, "max_tokens": 10}
        began = time.time()
        try:
            url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
            async with session.post(url, json=body, headers=headers) as reply:
                text = await reply.text()
                trace = reply.headers.get("x-gateway-trace", "")
                return Outcome(reply.status, began, time.time(), trace, text)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Outcome(0, began, time.time())

    async def journalled(self) -> set[str]:
        return set(self.postgres.run("SELECT id FROM journal").split())


class Load:
    """Clients that ask one request after the other, until they are stopped."""

    def __init__(self, cluster: Cluster, headers: dict[str, str], clients: int = 50) -> None:
        self._cluster, self._headers, self._clients = cluster, headers, clients
        self.outcomes: list[Outcome] = []
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        await self._session.close()

    async def _client(self) -> None:
        while not self._stopping.is_set():
            outcome = await self._cluster.ask(self._session, self._headers)
            self.outcomes.append(outcome)
            if outcome.status != 200:
                await asyncio.sleep(0.02)  # as any client pauses

    @property
    def statuses(self) -> Counter[int]:
        return Counter(outcome.status for outcome in self.outcomes)

    def slowest_s(self, since: float) -> float:
        """Of the requests that ended after that."""
        return max((one.at - one.began for one in self.outcomes if one.at >= since), default=0.0)


def finish_reason(text: str) -> str | None:
    """Of a stream; None where it broke off."""
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return None
    found = [choice["finish_reason"] for event in events[:-1] for choice in orjson.loads(event).get("choices", ())]
    return next((reason for reason in reversed(found) if reason), None)
