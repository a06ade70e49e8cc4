"""What is measured: the entries of targets.toml, and how one of them is started."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.processes import BenchError, Cores, Process, free_port, wait_until_closed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CHAT = "/v1/chat/completions"
FIRST_PORT = 9200
POLL_S = 0.02


def tools_folder() -> Path:
    """Where peers are installed, and where partial results go."""
    return Path(os.environ.get("BENCH_TOOLS") or ROOT / ".bench").absolute()


class Target(BaseModel):
    """See targets.toml. Texts may hold {up}, {port} and the like; {model} and the others stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    command: str
    files: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    env: dict[str, str] = {}
    model: str = "bench"
    path: str = CHAT
    port_file: str | None = None  # it chooses its own port and writes it there
    ready_s: float = 60
    pip: tuple[str, ...] = ()
    npm: str | None = None
    apt: str | None = None
    base: bool = False
    has_cascades: bool = False

    def program(self, tools: Path) -> str:
        """What tells whether it is installed: for npm the script behind the interpreter."""
        words = shlex.split(self.command)
        return words[1 if self.npm else 0].replace("{tools}", str(tools)).replace("{bench}", str(HERE))

    def is_installed(self, tools: Path) -> bool:
        program = self.program(tools)
        return (Path(program).exists() if self.npm else shutil.which(program) is not None) and (
            shutil.which(shlex.split(self.command)[0].replace("{tools}", str(tools))) is not None
        )

    def how_to_install(self, name: str) -> str:
        return f"apt-get install {self.apt}" if self.apt else f"bench/setup {name}"


def known_targets() -> dict[str, Target]:
    entries = tomllib.loads((HERE / "targets.toml").read_text())
    return {name: Target.model_validate(entry) for name, entry in entries.items()}


@dataclass(frozen=True)
class Site:
    """Where targets run: what they stand before, what they may use, and which core is theirs."""

    upstream_port: int
    folder: Path
    tools: Path
    cores: Cores


@dataclass(frozen=True)
class Running:
    """A target that answers. `process` is None for the upstream itself."""

    port: int
    process: Process | None = None
    path: str = CHAT
    model: str = "bench"
    headers: Mapping[str, str] = field(default_factory=dict)
    start_s: float | None = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            wait_until_closed(self.port)


def start(name: str, target: Target, site: Site, cores: Sequence[int] | None = None) -> Running:
    """Returns when it has given a right answer. `cores`: that it may use; None: the site's for it.

    Raises: BenchError.
    """
    folder = site.folder / name
    folder.mkdir(exist_ok=True)
    port = free_port(FIRST_PORT)
    texts = {
        "up": f"http://127.0.0.1:{site.upstream_port}",
        "upport": str(site.upstream_port),
        "port": str(port),
        "port2": str(free_port(port + 1)),
        "bench": str(HERE),
        "tools": str(site.tools),
        "dir": str(folder),
    }
    for file in target.files:
        (folder / Path(file).name).write_text(filled((HERE / file).read_text(), texts))
    if target.port_file:
        (folder / target.port_file).unlink(missing_ok=True)
    env = {key: filled(value, texts) for key, value in target.env.items()}
    began = time.monotonic()
    process = Process(
        shlex.split(filled(target.command, texts)),
        cores or [site.cores.gateway],
        log=site.folder / f"{name}.log",
        folder=folder,
        env=env,
    )
    try:
        headers = {key: filled(value, texts) for key, value in target.headers.items()}
        running = Running(port, process, target.path, target.model, headers)
        port = _wait_until_ready(running, target, folder, began)
        return Running(port, process, target.path, target.model, headers, time.monotonic() - began)
    except BaseException:
        process.stop()
        raise


def _wait_until_ready(running: Running, target: Target, folder: Path, began: float) -> int:
    """Returns: the port at which it answers."""
    process, port = running.process, running.port
    assert process is not None
    body = json.dumps(chat_body(running.model)).encode()
    while time.monotonic() - began < target.ready_s:
        if process.has_ended:
            raise BenchError(f"it has ended: {process.last_words}")
        with suppress(OSError, ValueError):
            if target.port_file:
                port = int((folder / target.port_file).read_text())
            if b'"choices"' in ask(port, running.path, body, running.headers):
                return port
        time.sleep(POLL_S)
    raise BenchError(f"no right answer within {target.ready_s:.0f} s: {process.last_words}")


def filled(text: str, texts: Mapping[str, str]) -> str:
    """`{name}` becomes what `texts` has for it; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: texts.get(found[1], found[0]), text)


def ask(
    port: int, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, within_s: float = 5
) -> bytes:
    """Raises: OSError, also for every status that is not 200."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=body, headers={"Content-Type": "application/json", **(headers or {})}
    )
    with urllib.request.urlopen(request, timeout=within_s) as reply:
        return bytes(reply.read())


SENTENCE = "The quick brown fox jumps over the lazy dog and then explains, at some length, why it did. "


def chat_body(model: str, *, streams: bool = False, is_big: bool = False) -> dict[str, object]:
    """A chat request of 1 kB, or of 100 kB."""
    body: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": SENTENCE * 3},
            {"role": "user", "content": SENTENCE * (1100 if is_big else 7)},
        ],
        "temperature": 0.7,
        "max_tokens": 256,
        "user": "bench",
    }
    if streams:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body
