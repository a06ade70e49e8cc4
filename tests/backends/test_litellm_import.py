"""litellm is imported on the first request, once, off the event loop, and stays at home. In processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FIRST_REQUEST = """
import asyncio, builtins, json, logging, os, socket, sys, tempfile, time
from pathlib import Path
from tests.conftest import running
from tests.upstream import SINGLE
from tests.vendors import Anthropic, vendor

asked = []
resolve = socket.getaddrinfo
def watch(host, *rest, **more):
    asked.append(host)
    return resolve(host, *rest, **more)
socket.getaddrinfo = watch

async def main():
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1
    async with vendor(Anthropic) as up:
        models = f"models: {{m1: {{engine: litellm, model: {up.model}, base_url: '{up.url}', api_key: k}}}}"
        async with running(Path(tempfile.mkdtemp()), models, default=SINGLE) as client:
            before = "litellm" in sys.modules
            ticking = asyncio.create_task(tick())
            started = time.perf_counter()
            calls = [client.start_chat() for _ in range(5)]
            left = client.start_chat()
            await asyncio.sleep(0.1)
            left.leave()  # a client that leaves while it is imported takes nothing from the others
            replies = [await call.done(60) for call in calls]
            took_s = time.perf_counter() - started
            ticking.cancel()
            await left.done()
    from gateway.backends import litellm
    await litellm.close()
    print(json.dumps({
        "before": before, "after": "litellm" in sys.modules, "statuses": [reply.status for reply in replies],
        "took_s": took_s, "ticks": ticks,
        "asked": [host for host in asked if host not in ("127.0.0.1", None)],
        "requests": len(up.requests), "secret": os.environ.get("FROM_DOTENV"),
        "mcp": "litellm.proxy._experimental" in sys.modules,
    }))

asyncio.run(main())
"""


def first_request(tmp_path) -> tuple[dict, str]:  # type: ignore[no-untyped-def, type-arg]
    (tmp_path / ".env").write_text("FROM_DOTENV=read\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LITELLM")}
    run = subprocess.run(
        [sys.executable, "-c", FIRST_REQUEST],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), run.stderr


@pytest.mark.slow
def test_the_first_requests_wait_for_one_import_and_the_loop_goes_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    seen, stderr = first_request(tmp_path)
    assert (seen["before"], seen["after"]) == (False, True)
    assert seen["statuses"] == [200] * 5 and seen["requests"] == 5
    # It holds the interpreter for up to 0.35 s at a time, on a quiet machine, of about 4 s in all: parts of it are C.
    assert seen["ticks"] > 20 * seen["took_s"], "a tenth of what an idle loop would do"
    assert seen["asked"] == [], "it looks for no list of models on the network"
    assert seen["secret"] is None, "it reads no .env file"
    assert stderr == "", "and prints nothing"


def test_commands_that_answer_nothing_do_not_import_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "policies").mkdir()
    (tmp_path / "models.yaml").write_text(
        "models: {m: {engine: litellm, model: anthropic/claude-sonnet-4-5, api_key: k}}"
    )
    code = (
        "import sys\n"
        "from gateway.cli import app\n"
        "try:\n"
        "    app(['check', '--models', 'models.yaml', '--policies', 'policies'])\n"
        "except SystemExit as end:\n"
        "    print(end.code, 'litellm' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.splitlines()[-1] == "0 False", run.stdout + run.stderr
    assert "the key stands in the file as it is" in run.stdout + run.stderr
