"""The server and its upstream, in processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.onion import core_model
from bench.ours import make_key
from bench.processes import BenchError, Cores, Process, free_port, tree_of
from bench.targets import ROOT, ask, filled

HERE = Path(__file__).parent
READY_WITHIN_S = 120.0
GRACE_S = 15.0
LONG = " ".join(str(number) for number in range(400))


@dataclass
class Site:
    """`home` is GATEWAY_HOME; `url` without a path; `process` the server, a new one after each start; `arguments`: more
    of `gateway serve`."""

    folder: Path
    cores: Cores
    upstream_port: int
    port: int
    key: str = ""
    process: Process | None = None
    arguments: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "GATEWAY_HOME": str(self.home)}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> float:
        """Returns: seconds until it was ready. Raises: BenchError."""
        argv = [sys.executable, "-m", "gateway", "serve", "--port", str(self.port), "--grace-s", str(GRACE_S)]
        argv += ["--models", str(self.folder / "models.yaml"), "--policies", str(self.folder / "policies")]
        argv += self.arguments
        log, began = self.folder / "gateway.log", time.monotonic()
        cores = [self.cores.gateway, self.cores.load]
        self.process = Process(argv, cores, log=log, folder=ROOT, env=self.environment)
        while time.monotonic() < began + READY_WITHIN_S:
            if self.process.has_ended:
                raise BenchError(f"the gateway has ended: {self.process.last_words}")
            with suppress(OSError):
                ask(self.port, "/readyz")
                return time.monotonic() - began
            time.sleep(0.02)
        raise BenchError(f"the gateway is not ready: {self.process.last_words}")

    def engines(self) -> list[int]:
        """Processes that the server has started, and those that they have."""
        return tree_of(self.pid)[1:]

    def write_models(self, comment: str) -> None:
        """Another comment is another configuration: it is read, checked and swapped in."""
        text = filled((HERE / "models.yaml").read_text(), {"up": f"http://127.0.0.1:{self.upstream_port}"})
        self._replace(f"# {comment}\n{text}")

    def break_models(self) -> None:
        self._replace("models: [this is none\n")

    def _replace(self, text: str) -> None:
        new = self.folder / "models.yaml.new"
        new.write_text(text)
        new.replace(self.folder / "models.yaml")

    def journalled(self) -> dict[str, float]:
        """When the requests that have a row came, by trace."""
        with closing(self._database()) as connection:
            return dict(connection.execute("SELECT id, created FROM journal"))

    def rows(self) -> int:
        with closing(self._database()) as connection:
            return int(connection.execute("SELECT count(*) FROM journal").fetchone()[0])

    def is_sound(self) -> bool:
        with closing(self._database()) as connection:
            return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{(self.home / 'gateway.db').as_uri()}?mode=ro", uri=True)

    def wal_bytes(self) -> int:
        with suppress(FileNotFoundError):
            return (self.home / "gateway.db-wal").stat().st_size
        return 0


@contextmanager
def site(folder: Path, tools: Path) -> Iterator[Site]:
    """With its upstream running; the server is for the caller to start. Raises: BenchError."""
    core_model(tools)
    here = Site(folder, Cores.of_this_machine(), free_port(9300), free_port(9320))
    here.home.mkdir(parents=True)
    (here.home / "models").symlink_to(tools / "models")  # fetched once
    shutil.copytree(HERE / "policies", folder / "policies")
    (folder / "script.yaml").write_text(filled((HERE / "script.yaml").read_text(), {"long": LONG}))
    here.write_models("as it was at first")
    here.key = make_key(here.home)
    argv = [sys.executable, "-m", "gateway", "scripted", str(folder / "script.yaml")]
    argv += ["--port", str(here.upstream_port)]
    with Process(argv, [here.cores.load], log=folder / "upstream.log", folder=ROOT):
        try:
            yield here
        finally:
            if here.process is not None:
                here.process.stop()


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
