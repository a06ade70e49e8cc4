"""`gateway serve` on a machine where something is wrong: a small disk, one that takes no writes, a clock that is set.

Disks are tmpfs in a mount namespace of the server's own, which no privileges are needed for; nothing is mounted for
anybody else. What lies there is seen from outside through /proc.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.test_serve import free_port

GATEWAY = [sys.executable, "-m", "gateway"]
MODELS = "models: {m: {engine: scripted, price: {output_usd_per_mtok: 1}, replies: [{text: hi}]}}\n"
SPACE = ["unshare", "--user", "--map-root-user", "--mount"]
START_S = 60.0


@dataclass
class Machine:
    """`home`: GATEWAY_HOME, as this process can look at it. `before`: what its commands are started by."""

    process: subprocess.Popen[bytes]
    url: str
    home: Path
    folder: Path
    before: list[str]
    client: httpx.Client

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One of the gateway's, on the same machine."""
        there = ["sh", "-c", 'cd "$0" && exec "$@"', str(self.folder)]  # another namespace has no current folder
        command = [*self.before, *there, *GATEWAY, *words]
        return subprocess.run(command, env=_environment(self.folder), capture_output=True, text=True, timeout=60)

    def told(self, *words: str) -> Any:
        """The JSON that a command prints."""
        done = self.command(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.client.post(f"{self.url}{path}", json=body)

    def chat(self, text: str = "hello") -> httpx.Response:
        return self.post("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": text}]})

    def gauge(self, name: str) -> float:
        lines = self.client.get(f"{self.url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name)).split()[-1])

    def until(self, what: str, is_so: Any) -> None:
        give_up_at = time.monotonic() + 20
        while not is_so():
            assert time.monotonic() < give_up_at, f"{what}: {self.log}"
            time.sleep(0.05)

    def fill(self) -> Path:
        """Take all room that the disk has left. Removing the file gives it back."""
        filler = self.home / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break
        return filler


def _environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "GATEWAY_HOME": str(folder / "home"), **(more or {})}


@contextmanager
def machine(
    folder: Path,
    models: str = MODELS,
    *,
    disk: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Machine]:
    """A server that listens. `disk`: options of the tmpfs that GATEWAY_HOME lies on."""
    (folder / "policies").mkdir()
    (folder / "home").mkdir()
    (folder / "models.yaml").write_text(models)
    port = free_port()
    command = [*GATEWAY, "serve", "--port", str(port)]
    if disk is not None:
        _require_namespaces()
        mount = f"mount -t tmpfs -o {disk} tmpfs {shlex.quote(str(folder / 'home'))}"
        command = [*SPACE, "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=_environment(folder, environment), stdout=log, stderr=log)
    enter = ["nsenter", "-t", str(process.pid), "-m", "-U", "--preserve-credentials"] if disk is not None else []
    home = Path(f"/proc/{process.pid}/root") / (folder / "home").relative_to("/") if disk else folder / "home"
    here = Machine(process, f"http://127.0.0.1:{port}", home, folder, enter, httpx.Client(timeout=30))
    try:
        here.until("it listens", lambda: _listens(here))
        yield here
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, here.log
    finally:
        here.client.close()
        process.kill()
        process.wait(10)


def _listens(here: Machine) -> bool:
    assert here.process.poll() is None, here.log
    try:
        return here.client.get(f"{here.url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def _require_namespaces() -> None:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        pytest.skip("needs Linux and util-linux")
    done = subprocess.run([*SPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no namespace to mount in: {done.stderr[:80]}")
