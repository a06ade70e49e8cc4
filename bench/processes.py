"""What the bench starts and watches: processes on one core each, their CPU time and memory, as /proc tells them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STOP_WITHIN_S = 5.0


class BenchError(Exception):
    """The message says what is missing, and what to do."""


@dataclass(frozen=True)
class Cores:
    """The gateway has one core alone; the mock upstream and the driver share the other."""

    gateway: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first two that this process may use. Raises: BenchError."""
        if not Path("/proc/self/stat").exists() or shutil.which("taskset") is None:
            raise BenchError("the bench needs Linux and taskset (package util-linux)")
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise BenchError("the bench needs two CPU cores")
        return cls(
            int(os.environ.get("BENCH_GATEWAY_CORE", usable[0])), int(os.environ.get("BENCH_LOAD_CORE", usable[1]))
        )


class Process:
    """A command in a session of its own, kept to some cores, and all that it starts."""

    def __init__(
        self,
        argv: Sequence[str],
        cores: Sequence[int],
        *,
        log: Path | None = None,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`log`: where its output goes; None: its stdout is for `output`, the rest goes nowhere."""
        pinned = [*_nice(), "taskset", "-c", ",".join(map(str, cores)), *argv]
        with open(log or os.devnull, "ab") as out:
            self._popen = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=out if log else subprocess.PIPE,
                stderr=out,
                cwd=folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self._log = log
        _favour(self.pid)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    @property
    def last_words(self) -> str:
        """The end of its log, on one line."""
        text = self._log.read_text(errors="replace") if self._log else ""
        return " ".join(text.split())[-300:]

    def cpu_s(self) -> float:
        """User and system time of it and its descendants."""
        return sum(cpu_s_of(pid) for pid in tree_of(self.pid))

    def memory_mb(self) -> float:
        """Memory of it and its descendants, where shared pages count once."""
        return sum(_pss_kb(pid) for pid in tree_of(self.pid)) / 1024

    def output(self, within_s: float) -> str:
        """Its whole stdout, once it has ended. Raises: BenchError."""
        try:
            out, _ = self._popen.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.stop()
            raise BenchError(f"{self._popen.args!r} took longer than {within_s:.0f} s") from None
        if self._popen.returncode:
            raise BenchError(f"{self._popen.args!r} ended with {self._popen.returncode}")
        return bytes(out).decode()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._popen.send_signal(signal.SIGINT)

    def wait(self, within_s: float) -> int:
        """Returns: its exit status."""
        return self._popen.wait(within_s)

    def stop(self) -> None:
        """End it and what it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(STOP_WITHIN_S)
                break
        with suppress(ProcessLookupError):  # what it left behind
            os.killpg(self.pid, signal.SIGKILL)


def tree_of(root: int) -> list[int]:
    """A process and its descendants, root first."""
    children = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError):
                children[int(_stat(folder.name)[1])].append(int(folder.name))
    found = [root]
    for pid in found:  # grows meanwhile
        found += children[pid]
    return found


def free_port(first: int) -> int:
    """The first free one from here on; below those that outgoing connections take."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise BenchError(f"no port from {first} on is free")


def wait_until_closed(port: int) -> None:
    """Until nobody listens there any more; at most 5 s."""
    give_up_at = time.monotonic() + STOP_WITHIN_S
    while time.monotonic() < give_up_at:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.05)


@dataclass(frozen=True)
class StolenTime:
    """CPU time that the hypervisor gave to other machines, of all there was, since start-up."""

    stolen: int
    total: int

    @classmethod
    def now(cls) -> StolenTime:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return cls(ticks[7], sum(ticks))

    def share_since(self, earlier: StolenTime) -> float:
        return (self.stolen - earlier.stolen) / max(1, self.total - earlier.total)


def _stat(pid: int | str) -> list[str]:
    """From the state on: the command before it may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_s_of(pid: int) -> float:
    with suppress(OSError, IndexError):
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return 0.0  # it has ended


def _pss_kb(pid: int) -> int:
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def _nice() -> list[str]:
    """As root the bench goes before what else runs here, unless $BENCH_NICE says otherwise."""
    return ["nice", "-n", os.environ.get("BENCH_NICE", "-15")] if os.geteuid() == 0 else []


def _favour(pid: int) -> None:
    """The scheduler shares cores evenly among sessions, however nice their processes are, where it groups them."""
    if os.geteuid() == 0:
        with suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(os.environ.get("BENCH_NICE", "-15"))
