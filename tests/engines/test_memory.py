"""This machine's memory. What is said of GPUs was tried on a fake of NVML alone, and what is said of macOS on fakes of
its commands: there were neither where this was written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.engines.footprint import Footprint
from gateway.engines.memory import Machine, available_ram_bytes, cached_share, machine, measure, parse_bytes, warm

MIB, GIB = 1 << 20, 1 << 30
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
Write = Callable[[dict[str, str]], Path]


@pytest.fixture
def root(tmp_path: Path) -> Write:
    """A machine of 8 GiB, 6 of them available, and the files that are named."""

    def write(files: dict[str, str]) -> Path:
        meminfo = f"MemTotal: {8 << 20} kB\nMemFree: 1 kB\nMemAvailable: {6 << 20} kB\n"
        for name, text in {"proc/meminfo": meminfo, **files}.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "root"

    return write


def v1(folder: str, limit: int, used: int, cache: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory/{folder}"
    stat = f"inactive_file 7\ntotal_inactive_file {cache}\ntotal_active_file 0\ntotal_shmem 5\n"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    return {f"{folder}/{name}": str(text) for name, text in zip(names, (limit, used, stat), strict=True)}


def v2(folder: str, limit: int | str, used: int, cache: int = 0) -> dict[str, str]:
    stat = f"anon 7\nfile {cache + 9}\nactive_file {cache}\ninactive_file 0\nshmem 9\n"
    names = ("memory.max", "memory.current", "memory.stat")
    texts = (f"{limit}\n", f"{used}\n", stat)
    return {f"sys/fs/cgroup/{folder}/{name}": text for name, text in zip(names, texts, strict=True)}


V1_GROUP = "9:name=systemd:/\n4:memory:{}\n0::/\n"


def test_without_a_limit_it_is_the_machine(root: Write) -> None:
    where = root({"proc/self/cgroup": "0::/\n"})
    assert machine(where).ram_bytes == 8 * GIB
    assert available_ram_bytes(where) == 6 * GIB
    (where / "proc/self/cgroup").unlink()
    assert machine(where).ram_bytes == 8 * GIB


def test_a_container_has_its_limit(root: Write) -> None:
    where = root({"proc/self/cgroup": "0::/pod/box\n", **v2("pod/box", 2 * GIB, GIB, GIB // 4)})
    assert machine(where).ram_bytes == 2 * GIB
    assert available_ram_bytes(where) == 2 * GIB - GIB + GIB // 4  # files it has read can be dropped


def test_the_limits_of_those_above_count_too(root: Write) -> None:
    files = {**v2("pod", 3 * GIB, 2 * GIB), **v2("pod/box", "max", GIB), **v2("pod/box/inner", 4 * GIB, GIB)}
    where = root({"proc/self/cgroup": "0::/pod/box/inner\n", **files})
    assert machine(where).ram_bytes == 3 * GIB
    assert available_ram_bytes(where) == GIB


def test_a_limit_above_the_machine_is_none(root: Write) -> None:
    where = root({"proc/self/cgroup": V1_GROUP.format("/box"), **v1("box", 9223372036854771712, GIB)})
    assert machine(where).ram_bytes == 8 * GIB
    assert available_ram_bytes(where) == 6 * GIB


@pytest.mark.parametrize("path", ["/", "/docker/4f5e", "/../4f5e"], ids=["own", "the host's", "beside"])
def test_an_older_container_has_its_limit_whatever_it_is_called(root: Write, path: str) -> None:
    where = root({"proc/self/cgroup": V1_GROUP.format(path), **v1("", GIB, GIB // 2, GIB // 8)})
    assert machine(where).ram_bytes == GIB
    assert available_ram_bytes(where) == GIB // 2 + GIB // 8


def test_nothing_is_free_above_a_limit(root: Write) -> None:
    where = root({"proc/self/cgroup": V1_GROUP.format("/box"), **v1("box", GIB, 2 * GIB)})
    assert available_ram_bytes(where) == 0


@on_linux
def test_this_machine_has_memory() -> None:
    here = machine()
    assert 0 < available_ram_bytes() <= here.ram_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# What a process takes

HOLDS_40_MIB = """
import subprocess, sys
held = bytearray(40 << 20)
for at in range(0, len(held), 4096):
    held[at] = 1
child = None
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
print("here", child.pid if child else "", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """A process with 40 MiB, and its child with as much."""
    argv = [sys.executable, "-c", HOLDS_40_MIB, HOLDS_40_MIB]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline().split()[1])
        process.kill()


@on_linux
def test_children_count(family: tuple[int, int]) -> None:
    parent, child = family
    both, one = measure(parent), measure(child)
    assert both is not None and one is not None and one.gpu_bytes == 0
    assert 40 * MIB < one.ram_bytes < 60 * MIB
    assert 80 * MIB < both.ram_bytes < 120 * MIB


@on_linux
def test_one_that_is_gone_takes_nothing_that_could_be_known() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert measure(process.pid) is None  # it has ended, and nobody has asked how
    process.wait()
    assert measure(process.pid) is None


def test_memory_that_is_shared_is_shared_out(root: Write) -> None:
    files = {f"proc/{pid}/stat": f"{pid} (a) b) c) S {parent} 1" for pid, parent in ((10, 1), (11, 10), (12, 11))}
    files |= {f"proc/{pid}/smaps_rollup": f"0-1 ---p [rollup]\nRss: 900 kB\nPss: {pid} kB\n" for pid in (10, 11, 12)}
    where = root({**files, "proc/13/stat": "13 (other) S 1 1", "proc/13/smaps_rollup": "Pss: 5000 kB\n"})
    assert measure(10, where) == Footprint(33 * 1024)
    assert measure(11, where) == Footprint(23 * 1024)
    assert measure(99, where) is None
    (where / "proc/12/stat").write_bytes(b"12 (\xff) S 11 1")  # a process may call itself anything
    assert measure(12, where) == Footprint(12 * 1024)


def test_where_shares_cannot_be_read_it_is_all_that_is_mapped(root: Write) -> None:
    where = root({"proc/10/stat": "10 (a) S 1 1", "proc/10/statm": "900 25 3 4"})
    assert measure(10, where) == Footprint(25 * os.sysconf("SC_PAGE_SIZE"))


# GPUs


class NvmlError(Exception):
    pass


class FakeNvml(ModuleType):
    """Two GPUs of 24 and 16 GiB; `running` are pairs of a process and its bytes, by GPU."""

    NVMLError = NvmlError

    def __init__(self, running: dict[int, list[tuple[int, int | None]]], broken: str = "") -> None:
        super().__init__("pynvml")
        self.running, self.broken, self.opened = running, broken, 0

    def nvmlInit(self) -> None:
        if self.broken == "nvmlInit":
            raise NvmlError
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
        if self.broken == "nvmlDeviceGetMemoryInfo":
            raise NvmlError
        return type("Memory", (), {"total": (24, 16)[gpu] * GIB})

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[Any]:
        running = self.running.get(gpu, [])
        return [type("Process", (), {"pid": pid, "usedGpuMemory": size}) for pid, size in running]


def test_gpus_are_added_up(root: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml({0: [(10, GIB), (99, 5 * GIB)], 1: [(11, 2 * GIB), (10, None)]})
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    files = {f"proc/{pid}/stat": f"{pid} (a) S {parent} 1" for pid, parent in ((10, 1), (11, 10))}
    where = root({**files, "proc/10/smaps_rollup": "Pss: 4 kB\n", "proc/11/smaps_rollup": "Pss: 4 kB\n"})
    assert machine(where) == Machine(8 * GIB, 40 * GIB)
    assert measure(10, where) == Footprint(8192, 3 * GIB)
    assert nvml.opened == 0


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_does_not_answer_is_no_gpu(root: Write, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    nvml = FakeNvml({}, broken)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert machine(root({})).gpu_bytes == 0 and nvml.opened == 0


def test_without_the_library_there_is_no_gpu(root: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert machine(root({})).gpu_bytes == 0


# macOS

COMMANDS = {
    "sysctl": 'test "$*" = "-n hw.memsize" && echo 17179869184',
    "vm_stat": """cat <<END
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               1000.
Pages active:                             9000.
Pages inactive:                            200.
Pages speculative:                          30.
Pages purgeable:                             4.
END""",
    "ps": 'test "$*" = "-axo pid=,ppid=,rss=" && printf "  1 0 77\\n 10 1 100\\n 11 10 20\\n 12 1 5\\n"',
}


def test_on_macos_its_commands_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert machine(tmp_path) == Machine(16 * GIB, 0)
    assert available_ram_bytes(tmp_path) == 1234 * 16384
    assert measure(10) == Footprint(120 * 1024)
    assert measure(13) is None
    assert cached_share(tmp_path / "ps") is None


# Amounts


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("12GiB", 12 * GIB),
        ("1.5 GiB", 3 * GIB // 2),
        ("800MB", 800_000_000),
        ("64kB", 64_000),
        ("1KiB", 1024),
        ("2 TiB", 2048 * GIB),
        ("7gib", 7 * GIB),
        ("80%", 800),
        ("12.5 %", 125),
        (4096, 4096),
        ("100B", 100),
    ],
)
def test_amounts_are_read(text: str | int, amount: int) -> None:
    assert parse_bytes(text, 1000) == amount


@pytest.mark.parametrize("text", ["", "much", "12 apples", "GiB", "-1GB", "1e9", "12GiBs", "0", "0%", "101%", "٣GB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' is "):
        parse_bytes(text, 1000)


# Files in memory


def drop(path: Path) -> bool:
    """Put it out of the page cache; False where that cannot be done, as in a file system that is memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_share(path) == 0


@on_linux
def test_a_file_is_warmed_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(24 * MIB))
    assert cached_share(path) == 1
    if not drop(path):
        pytest.skip("files stay in memory here")
    with open(path, "rb") as file:
        file.read(MIB)
        assert 0 < (cached_share(path) or 0) < 1
    warm([tmp_path / "missing", tmp_path, path])
    give_up_at = time.monotonic() + 20
    while cached_share(path) != 1 and time.monotonic() < give_up_at:
        time.sleep(0.01)  # the disk is still at it
    assert cached_share(path) == 1


@on_linux
def test_what_cannot_be_known_is_none(tmp_path: Path) -> None:
    assert cached_share(tmp_path / "missing") is None
    assert cached_share(tmp_path) is None
    (tmp_path / "empty").touch()
    assert cached_share(tmp_path / "empty") == 1
