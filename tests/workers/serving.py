"""`gateway serve --workers N` in processes of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gateway.access.keys import Wanted, create_key
from gateway.store.database import open_database

GATEWAY = [sys.executable, "-m", "gateway"]
PROMPT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
PATIENCE_S = 60.0
MODELS = """
models:
  m1: {{engine: scripted, replies: [{{text: one two, first_token_ms: 20}}]}}
  caller:
    engine: scripted
    replies: [{{when: {{contains: begin}}, tool_calls: [{{name: look}}]}}, {{text: done}}]
  words: {{engine: scripted, replies: [{{text: "{thirty}", between_ms: 50}}]}}
  endless: {{engine: scripted, replies: [{{text: "{thousand}", between_ms: 60}}]}}
  dear:
    engine: scripted
    price: {{input_usd_per_mtok: 0, output_usd_per_mtok: 1000}}
    replies:
      - {{text: x, first_token_ms: 50, usage: {{prompt_tokens: 1, completion_tokens: 100, total_tokens: 101}}}}
  remote: {{engine: openai, base_url: "{upstream}", model: up, api_key: k}}
  away: {{engine: openai, base_url: ["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"], model: up}}
  attached: {{engine: attach, url: "{upstream}", model: scripted, slots: 1}}
""".replace("{thirty}", " ".join(["word"] * 30)).replace("{thousand}", " ".join(["word"] * 1000))
UPSTREAM = (
    {"when": {"contains": "long"}, "text": "w " * 1000, "between_ms": 20},
    {"text": "yes", "first_token_ms": 60},
)
ANSWERS = {"default": "{model: m1}", "stay": "{model: caller}", "count": "{model: words}"}
ANSWERS |= {"two-places": "{model: remote, slots: 2}"}


@dataclass
class Served:
    """A gateway with its supervisor as `process`, and a client that opens a connection for each request.

    Args: `key`: an administrator's, with which everything is asked that says no other.
    """

    folder: Path
    process: asyncio.subprocess.Process
    client: aiohttp.ClientSession
    key: str
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    async def get(self, path: str, key: str | None = None) -> Any:
        async with self.client.get(self.url + path, headers=self._headers(key)) as reply:
            return await reply.json() if reply.content_type == "application/json" else await reply.text()

    async def ask(self, key: str | None = None, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {**PROMPT, **more}
        async with self.client.post(f"{self.url}/v1/chat/completions", json=body, headers=self._headers(key)) as reply:
            return reply.status, await reply.json()

    @asynccontextmanager
    async def stream(self, key: str | None = None, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        body = {**PROMPT, "stream": True, **more}
        async with self.client.post(f"{self.url}/v1/chat/completions", json=body, headers=self._headers(key)) as reply:
            yield reply

    def _headers(self, key: str | None) -> dict[str, str]:
        return {"authorization": f"Bearer {key or self.key}"}

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


def models(upstream_url: str) -> str:
    return MODELS.format(upstream=upstream_url)


@asynccontextmanager
async def serving(folder: Path, empty_database: Path, upstream_url: str, more: str = "") -> AsyncIterator[Served]:
    """With two workers, both of which answer. Args: `more`: of models.yaml."""
    (folder / "policies").mkdir()
    (folder / "models.yaml").write_text(more + models(upstream_url))
    for name, answer in ANSWERS.items():
        text = f"policy: {name}\nroutes: [{{name: all, answer: {answer}}}]\n"
        (folder / "policies" / f"{name}.yaml").write_text(text)
    (folder / "home").mkdir()
    shutil.copy(empty_database, folder / "home")
    key = await made_key(folder / "home", "admin", is_admin=True)
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(*GATEWAY, "serve", "--port", "0", "--workers", "2"),
            cwd=folder,
            env=environment(folder),
            stdout=log,
            stderr=log,
        )
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as client:
        served = Served(folder, process, client, key)
        try:
            served.port = await served.until(lambda: process.returncode is None and _port(served.log))
            await served.until(served.all_running)
            yield served
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def made_key(home: Path, name: str, *, is_admin: bool = False, **limits: Any) -> str:
    """In the database, as `gateway keys` makes it."""
    database = await open_database(home)
    try:
        return (await create_key(database, name, Wanted(is_admin=is_admin, limits=limits)))[1]
    finally:
        await database.close()


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "GATEWAY_HOME": str(folder / "home"), "COLUMNS": "200"}


def _port(log: str) -> int | None:
    _, found, rest = log.partition("listens on http://127.0.0.1:")
    return int(rest.split()[0]) if found and "\n" in rest else None
