"""Somebody's server command behind a lease, and nothing of it left afterwards, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.engines import Launch
from gateway.engines.process import ProcessEngine
from gateway.engines.server_child import PORT, owners
from gateway.engines.server_command import ServerCommand, executable
from tests.engines.conftest import QUICK, Watch
from tests.engines.fakes import is_alive
from tests.engines.test_orphans import wait_until

FAKE = Path(__file__).with_name("fake_command.py")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of orphans and of owners of ports")


@dataclass(frozen=True)
class Commanded(ProcessEngine):
    play: str
    folder: Path
    name: str = "fake"
    slots: int = 1
    more: tuple[tuple[str, Any], ...] = ()

    def launch(self) -> Launch:
        argv = [sys.executable, str(FAKE), self.play, "--port", PORT]
        return replace(
            ServerCommand(argv, "FAKE_KEY", env={"FAKE_PIDS": str(self.folder / "pids")}), **dict(self.more)
        ).launch(self.name)

    @property
    def pids(self) -> list[int]:
        try:
            return [int(line) for line in (self.folder / "pids").read_text().split()]
        except FileNotFoundError:
            return []

    @property
    def are_gone(self) -> bool:
        return not any(is_alive(pid) for pid in self.pids)


def is_ready(child: Any) -> bool:
    return child.state == "ready"


def get(url: str) -> bytes:
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        return connection.makefile("rb").readline()


@pytest.mark.parametrize("play", ["serves", "loads"])
async def test_it_is_ready_when_the_server_says_so(watch: Watch, tmp_path: Path, play: str) -> None:
    child = watch(engine := Commanded(play, tmp_path))
    child.start()
    await child.until(is_ready)
    assert child.lease is not None
    assert child.lease.url.startswith("http://127.0.0.1:") and child.lease.url.endswith("/v1")
    assert b"200" in await asyncio.to_thread(get, child.lease.url)
    await child.stop()
    assert engine.are_gone


@on_linux
async def test_the_key_is_in_the_environment_alone(watch: Watch, tmp_path: Path) -> None:
    child = watch(engine := Commanded("serves", tmp_path))
    child.start()
    await child.until(is_ready)
    assert child.lease is not None and child.lease.key and child.pid is not None
    key = child.lease.key.encode()
    for pid in (child.pid, *engine.pids):
        assert key not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert key in Path(f"/proc/{engine.pids[0]}/environ").read_bytes()


async def test_what_it_prints_is_logged_without_its_key(watch: Watch, tmp_path: Path) -> None:
    child = watch(Commanded("says", tmp_path))
    child.start()
    await child.until(is_ready)
    assert list(child.last_lines)[1:3] == ["stdout", "stderr '' ***"]


@pytest.mark.parametrize(
    "play", ["leaves children", *(pytest.param(play, marks=pytest.mark.slow) for play in ("has children", "deaf"))]
)
async def test_nothing_is_left_when_it_is_stopped(watch: Watch, tmp_path: Path, play: str) -> None:
    child = watch(engine := Commanded(play, tmp_path))
    child.start()
    await child.until(is_ready)
    assert not engine.are_gone
    await child.stop()
    assert engine.are_gone


async def test_nothing_is_left_of_one_that_was_still_loading(watch: Watch, tmp_path: Path) -> None:
    child = watch(engine := Commanded("never listens", tmp_path))
    child.start()
    await asyncio.to_thread(wait_until, lambda: len(engine.pids) == 2)
    started = time.monotonic()
    await child.stop()
    assert engine.are_gone
    assert time.monotonic() - started < 2, "it has nothing to finish, and gets no time for it"


@on_linux
async def test_nothing_is_left_when_the_child_itself_is_killed(watch: Watch, tmp_path: Path) -> None:
    child = watch(engine := Commanded("never listens", tmp_path), patience=replace(QUICK, first_retry_s=60))
    child.start()
    await asyncio.to_thread(wait_until, lambda: len(engine.pids) == 2)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    await child.until(lambda child: child.last_error)
    await asyncio.to_thread(wait_until, lambda: engine.are_gone)  # they are not ours, so we cannot wait for them


async def test_a_crash_is_seen_and_what_it_left_is_cleared_away(watch: Watch, tmp_path: Path) -> None:
    child = watch(engine := Commanded("has children", tmp_path), patience=replace(QUICK, first_retry_s=60))
    child.start()
    await child.until(is_ready)
    os.kill(engine.pids[0], signal.SIGKILL)
    await child.until(lambda child: child.state == "starting")
    assert child.last_error == "it crashed (SIGKILL)"
    assert engine.are_gone


@pytest.mark.parametrize(("play", "how"), [("ends", "exit status 3"), ("crashes", "SIGSEGV")])
async def test_a_command_that_ends_at_once_says_how(watch: Watch, tmp_path: Path, play: str, how: str) -> None:
    child = watch(Commanded(play, tmp_path))
    child.start()
    await child.until(lambda child: child.last_error)
    assert child.last_error == f"it ended while starting ({how})"


async def test_a_port_that_somebody_took_is_no_failure(watch: Watch, tmp_path: Path) -> None:
    child = watch(engine := Commanded("steps aside once", tmp_path))
    child.start()
    await asyncio.to_thread(wait_until, lambda: (tmp_path / "taken").exists() and (tmp_path / "taken").read_text())
    port = int((tmp_path / "taken").read_text())
    with socket.create_server(("127.0.0.1", port)):
        (tmp_path / "listening").touch()
        await child.until(is_ready)
    assert child.restarts == 0 and len(engine.pids) == 2
    assert child.lease is not None and f":{port}/" not in child.lease.url


@on_linux
def test_who_listens_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert owners(server.getsockname()[1]) == {os.getuid()}
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        assert owners(unheard.getsockname()[1]) == set()


def run_child(settings: Mapping[str, Any]) -> tuple[str, int]:
    """What it says while its stdin stays open, and its exit status."""
    command = [sys.executable, "-m", "gateway.engines.server_child"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(dict(settings)) + "\n")
        process.stdin.flush()
        return process.stdout.read(), process.wait(timeout=20)


@pytest.mark.parametrize(
    ("more", "failed"),
    [
        ({"argv": ["/nowhere/vllm", "serve"]}, "its server command cannot be started: No such file or directory"),
        ({"gguf_files": [("/nowhere/m.gguf", "model file")]}, "its model file is missing"),
        ({"gguf_files": [(str(FAKE), "projector file")]}, "its projector file is not a GGUF file"),
    ],
)
def test_what_cannot_be_started_says_why(tmp_path: Path, more: dict[str, Any], failed: str) -> None:
    settings = Commanded("serves", tmp_path, more=tuple(more.items())).launch().settings
    assert run_child(settings) == (json.dumps({"failed": failed}) + "\n", 1)


def test_a_child_whose_parent_is_already_gone_does_nothing(tmp_path: Path) -> None:
    engine = Commanded("serves", tmp_path)
    assert run_child({**engine.launch().settings, "parent_pid": 1}) == ("", 0)
    assert engine.pids == []


def test_variables_can_be_set_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN", "away")
    code = "import json, os; open('said', 'w').write(json.dumps([os.environ.get(n) for n in ('TAKEN', 'PORT', 'SET')]))"
    command = ServerCommand([sys.executable, "-c", code], "KEY", env={"TAKEN": None, "PORT": PORT, "SET": "x"})
    monkeypatch.chdir(tmp_path)
    assert run_child(command.launch("m").settings) == ("", 0)
    taken, port, given = json.loads((tmp_path / "said").read_text())
    assert taken is None and given == "x" and 0 < int(port) < 65536


def test_the_child_imports_little() -> None:
    code = "import sys, gateway.engines.server_child; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"asyncio", "pydantic", "fastapi", "orjson", "http.client"}


def test_commands_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "serve-it"
    program.write_text("#!/bin/sh\n")
    assert executable(str(program)) is None, "it may not be run"
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    find: Callable[[str], str | None] = executable
    assert find("serve-it") == find(str(program)) == find("~/serve-it") == str(program)
    assert find("not-there") is None
