"""`gateway serve` in a process of its own: what it exports and logs until it has stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.conftest import ROOT, write_config
from tests.telemetry.receiver import receiver, values

MODELS = """
models:
  core: {{engine: scripted, replies: [{{text: hi}}]}}
telemetry: {{otlp: "{url}", headers: {{x-token: "${{TOKEN}}"}}, sample: 1.0, service_name: front}}
"""
PLAIN = "policy: default\nroutes: [{name: all, answer: {model: core}}]\n"
SECRET = "a-secret-of-the-collector"


class Served:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, *words: str) -> str:
        """The next one with all these words."""
        assert self.process.stderr is not None
        while line := (await asyncio.wait_for(self.process.stderr.readline(), 30)).decode():
            self.lines.append(line)
            if all(word in line for word in words):
                return line
        raise AssertionError(f"no {words} in {''.join(self.lines)}")

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.lines if line.startswith("{")]


async def start(folder: Path, *arguments: str) -> Served:
    models, policies = folder / "models.yaml", folder / "policies"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--port", "0"),
        *("--models", str(models), "--policies", str(policies), *arguments),
        cwd=ROOT,
        env={**os.environ, "GATEWAY_HOME": str(folder / "home"), "TOKEN": SECRET, "COLUMNS": "200"},
        stderr=asyncio.subprocess.PIPE,
    )
    return Served(process)


async def test_a_server_exports_logs_and_flushes_before_it_ends(tmp_path: Path) -> None:
    async with receiver() as collector:
        write_config(tmp_path, MODELS.format(url=collector.url), default=PLAIN)
        served = await start(tmp_path, "--log-format", "json", "--access-log")
        try:
            url = (await served.line("listens on")).split("listens on ")[1].split()[0]
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
                reply = await client.post("/v1/chat/completions", json=body, headers={"x-request-id": f"id-{SECRET}"})
                assert reply.status_code == 200
                await served.line('"/v1/chat/completions"')
                served.process.send_signal(signal.SIGUSR1)
                await served.line("log level: debug")
                assert (await client.get("/v1/admin/log-level")).json()["level"] == "debug"
        finally:
            served.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(served.process.wait(), 30) == 0
    assert collector.headers[0]["x-token"] == SECRET
    assert collector.resource["service.name"] == "front"
    root = collector.span("POST /v1/chat/completions")
    assert root.trace_id.hex() == reply.headers["x-gateway-trace"]
    assert values(root.attributes)["http.response.status_code"] == 200
    assert collector.metric("gateway_requests").sum.data_points[0].as_double == 1, "the last ones, before it ended"
    access = next(line for line in served.objects if line["logger"] == "gateway.api.access_log")
    assert access["trace_id"] == reply.headers["x-gateway-trace"] and access["status"] == 200
    assert SECRET not in "".join(served.lines)
