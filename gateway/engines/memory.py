"""This machine's memory: how much there is, what is free, what a process takes, and which files are in it.

Everything here reads files and may block for a moment: callers run it in a thread. GPUs are NVIDIA's, by NVML (the
extra `gpu`); without it, and for those of others, there is no GPU memory to speak of. Apple's GPUs use main memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.engines.footprint import Footprint

ROOT = Path("/")
PAGE = mmap.PAGESIZE
READ_AHEAD_BYTES = 128 * 1024  # more at once and Linux passes over the rest
WINDOW_BYTES = 1 << 30
COMMAND_TIMEOUT_S = 5.0
UNITS = {"": 1, "b": 1} | {
    name: base**power
    for base, suffix in ((1000, "b"), (1024, "ib"))
    for power, name in enumerate((letter + suffix for letter in "kmgt"), 1)
}
AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*|%)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Machine:
    """Main memory that this process may use, and that of all GPUs together."""

    ram_bytes: int
    gpu_bytes: int


def parse_bytes(text: str | int, total: int) -> int:
    """`12GiB`, `800MB` or `80%` of `total`; a bare number is bytes. Raises: ValueError."""
    found = AMOUNT.fullmatch(str(text))
    unit = found[2].lower() if found else ""
    if found is None or (unit != "%" and unit not in UNITS):
        raise ValueError(f"'{text}' is no amount of memory: write it like 12GiB, 800MB or 80%")
    number = float(found[1])
    if unit == "%" and number > 100:
        raise ValueError(f"'{text}' is more than there is: a share goes up to 100%")
    amount = int(total * number / 100 if unit == "%" else number * UNITS[unit])
    if amount < 1:
        raise ValueError(f"'{text}' is no memory at all")
    return amount


# How much there is


def machine(root: Path = ROOT) -> Machine:
    """`root`: where /proc and /sys are. A container's limit counts as the machine's."""
    limits = [group.limit for group in _groups(root)]
    return Machine(
        min([_physical(root), *limits]), _ask_gpus(lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total)
    )


def gpu_count() -> int:
    """NVIDIA's; 0 where there is none, or no way to ask."""
    return _ask_gpus(lambda nvml, gpu: 1)


def available_ram_bytes(root: Path = ROOT) -> int:
    """What can be taken without swapping: what only caches files can be dropped, so it does not count as used."""
    free = [group.limit - group.used for group in _groups(root)]
    return max(0, min([_available(root), *free]))


def _physical(root: Path) -> int:
    if platform.system() == "Darwin":
        return int(_output("sysctl", "-n", "hw.memsize"))
    return _fields(root / "proc/meminfo")["MemTotal"] * 1024


def _available(root: Path) -> int:
    if platform.system() == "Darwin":
        said = _output("vm_stat")
        page = re.search(r"page size of (\d+) bytes", said)
        counts = re.findall(r"Pages (?:free|inactive|speculative|purgeable):\s+(\d+)", said)
        return (int(page[1]) if page else PAGE) * sum(map(int, counts))
    return _fields(root / "proc/meminfo")["MemAvailable"] * 1024


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT_S).stdout


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name, a number and perhaps a unit."""
    lines = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group with a limit; `used` without what only caches files."""

    limit: int
    used: int


def _groups(root: Path) -> Iterator[_Group]:
    """Of this process and those above it. Linux only."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        folder = top / path.lstrip("/")
        if ".." in folder.parts or not folder.is_dir():  # named as another namespace sees it
            folder = top
        for place in (folder, *folder.parents):
            group = _group(place, is_v2=not controllers)
            if group is not None:
                yield group
            if place == top:
                break


def _group(folder: Path, *, is_v2: bool) -> _Group | None:
    """None where it has no limit."""
    names = ("memory.max", "memory.current") if is_v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    caches = ("inactive_file", "active_file") if is_v2 else ("total_inactive_file", "total_active_file")
    try:
        limit, used = ((folder / name).read_text().strip() for name in names)
        stat = _fields(folder / "memory.stat")
    except OSError:
        return None
    if not limit.isdecimal():
        return None
    return _Group(int(limit), max(0, int(used) - sum(stat.get(cache, 0) for cache in caches)))


# What a process takes


def measure(pid: int, root: Path = ROOT) -> Footprint | None:
    """A process and its descendants; None once it is gone.

    Main memory is PSS: what several share is shared out among them. RSS where that cannot be read, and on macOS.
    Inside a container the driver may not know our process numbers: `gpu_bytes` is 0 then.
    """
    if platform.system() == "Darwin":
        taken = _taken_on_macos(pid)
    else:
        family = _family(pid, root)
        taken = {member: size for member in family if (size := _pss(member, root)) is not None}
    if pid not in taken:
        return None
    return Footprint(sum(taken.values()), _ask_gpus(lambda nvml, gpu: _gpu_taken(nvml, gpu, taken)))


def _family(pid: int, root: Path) -> list[int]:
    parents: dict[int, int] = {}
    for folder in (root / "proc").iterdir():
        if folder.name.isdecimal():
            try:
                after_name = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(folder.name)] = int(after_name[1])
    return _with_descendants(pid, parents)


def _with_descendants(pid: int, parents: dict[int, int]) -> list[int]:
    children = defaultdict(list)
    for child, parent in parents.items():
        children[parent].append(child)
    family = [pid]
    for member in family:  # grows meanwhile
        family += children.pop(member, ())
    return family


def _pss(pid: int, root: Path) -> int | None:
    folder = root / "proc" / str(pid)
    try:
        return _fields(folder / "smaps_rollup")["Pss"] * 1024
    except (FileNotFoundError, PermissionError, KeyError):
        pass
    except OSError:  # it is ending
        return None
    try:
        return int((folder / "statm").read_text().split()[1]) * PAGE
    except OSError:
        return None


def _taken_on_macos(pid: int) -> dict[int, int]:
    rows = [line.split() for line in _output("ps", "-axo", "pid=,ppid=,rss=").splitlines()]
    sizes = {int(row[0]): int(row[2]) * 1024 for row in rows}
    family = _with_descendants(pid, {int(row[0]): int(row[1]) for row in rows})
    return {member: sizes[member] for member in family if member in sizes}


def _gpu_taken(nvml: Any, gpu: Any, pids: Iterable[int]) -> int:
    running = nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    return sum(process.usedGpuMemory or 0 for process in running if process.pid in pids)


def _ask_gpus(question: Callable[[Any, Any], int]) -> int:
    """The sum over all GPUs; 0 where there is none, or no way to ask."""
    try:
        import pynvml as nvml
    except ImportError:
        return 0
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return 0
    try:
        return sum(question(nvml, nvml.nvmlDeviceGetHandleByIndex(n)) for n in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return 0
    finally:
        nvml.nvmlShutdown()


# Files in memory


def warm(paths: Iterable[Path]) -> None:
    """Have the kernel begin to read these files, without waiting for their contents. Nothing happens on macOS, and for
    a file that cannot be opened."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            for at in range(0, os.fstat(file).st_size, READ_AHEAD_BYTES):
                os.posix_fadvise(file, at, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        except OSError:  # not something to read ahead
            continue
        finally:
            os.close(file)


def cached_share(path: Path) -> float | None:
    """How much of a file is in the page cache, from 0 to 1. None where that cannot be known: not on Linux, or for a
    file that this user could not write (Linux says that all of it is there)."""
    if platform.system() != "Linux":
        return None
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() and not os.access(path, os.W_OK):
                return None
            if not status.st_size:
                return 1.0
            there = sum(_resident(file.fileno(), at, status.st_size) for at in range(0, status.st_size, WINDOW_BYTES))
    except OSError:
        return None
    return there / -(-status.st_size // PAGE)


def _resident(file: int, at: int, size: int) -> int:
    """Pages of one window of a file. Raises: OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    length = min(WINDOW_BYTES, size - at)
    begin = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, file, at)
    if begin == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        pages = ctypes.create_string_buffer(-(-length // PAGE))
        if libc.mincore(begin, length, pages) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return len(pages.raw) - pages.raw.count(0)
    finally:
        libc.munmap(begin, length)
