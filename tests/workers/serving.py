"""`gateway serve --workers N` in processes of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

GATEWAY = [sys.executable, "-m", "gateway"]
POLICY = "policy: default\nroutes: [{name: all, answer: {model: m1}}]\n"
PROMPT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
PATIENCE_S = 20.0


@dataclass
class Served:
    """A gateway with its supervisor as `process`, and a client that opens a connection for each request."""

    folder: Path
    process: asyncio.subprocess.Process
    client: aiohttp.ClientSession
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    async def get(self, path: str, key: str | None = None) -> Any:
        async with self.client.get(self.url + path, headers=_headers(key)) as reply:
            return await reply.json() if reply.content_type == "application/json" else await reply.text()

    async def ask(self, key: str | None = None, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {**PROMPT, **more}
        async with self.client.post(f"{self.url}/v1/chat/completions", json=body, headers=_headers(key)) as reply:
            return reply.status, await reply.json()

    @asynccontextmanager
    async def stream(self, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        body = {**PROMPT, "stream": True, **more}
        async with self.client.post(f"{self.url}/v1/chat/completions", json=body) as reply:
            yield reply

    def workers(self) -> list[int]:
        """Their process numbers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"gateway.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    async def until(self, holds: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
        """What it says once that is true; it may be a coroutine's."""
        give_up_at = time.monotonic() + within_s
        while time.monotonic() < give_up_at:
            found = holds()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(self.log)

    async def all_running(self, count: int = 2) -> bool:
        try:
            return bool((await self.get("/healthz"))["workers"]["running"] == count)
        except aiohttp.ClientError:
            return False

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@asynccontextmanager
async def serving(folder: Path, models: str, policy: str = POLICY, *arguments: str) -> AsyncIterator[Served]:
    """With two workers, both of which answer."""
    (folder / "policies").mkdir()
    (folder / "models.yaml").write_text(textwrap.dedent(models))
    (folder / "policies" / "default.yaml").write_text(textwrap.dedent(policy))
    words = [*GATEWAY, "serve", "--port", "0", "--workers", "2", *arguments]
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *words, cwd=folder, env=_environment(folder), stdout=log, stderr=log
        )
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as client:
        served = Served(folder, process, client)
        try:
            served.port = await served.until(lambda: process.returncode is None and _port(served.log))
            await served.until(served.all_running)
            yield served
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _port(log: str) -> int | None:
    _, found, rest = log.partition("listens on http://127.0.0.1:")
    return int(rest.split()[0]) if found and "\n" in rest else None


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "GATEWAY_HOME": str(folder / "home"), "COLUMNS": "200"}


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}
