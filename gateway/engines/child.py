"""What the children have in common that the gateway starts: how they speak with it, and how they end.

One line of JSON settings comes in by stdin, one line goes out by stdout: `{"ready": {"url": …}}` or
`{"failed": "why"}`. Then a child serves until its stdin is closed. Imports little: it is started for every model.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

Say = Callable[[dict[str, Any]], None]


class Unfit(Exception):
    """It cannot be served; the message goes to the gateway, and may go on to its clients: no paths."""


def prctl(option: int, value: int) -> None:
    """On Linux; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Linux: have the kernel send this when the thread that started this process ends."""
    prctl(PR_SET_PDEATHSIG, how)


def read_settings() -> dict[str, Any]:
    """Ends the process if nobody waits for it any more."""
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)
    settings: dict[str, Any] = json.loads(line)
    if os.getppid() != settings["parent_pid"]:  # it went before the kernel was told to watch it
        os._exit(0)
    return settings


def take_stdout() -> Say:
    """Keep stdout for our one line: whatever else is printed, by C++ too, goes to stderr."""
    ours = os.dup(1)
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        os.write(ours, json.dumps(what).encode() + b"\n")

    return say


def keep_to_cpus(cpus: list[int]) -> None:
    """Linux: this process, and what it starts, run on these alone. Raises: Unfit."""
    if not cpus:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise Unfit("this system has no way to keep it to some CPUs: leave its key cpus out")
    try:
        os.sched_setaffinity(0, cpus)
    except OSError:
        raise Unfit(f"its key cpus names none that it may use here: {sorted(os.sched_getaffinity(0))}") from None


def check_gguf(path: str, what: str) -> None:
    """Raises: Unfit for what llama.cpp would only say in its log."""
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise Unfit(f"its {what} is not a GGUF file")
    except FileNotFoundError:
        raise Unfit(f"its {what} is missing") from None
    except OSError as exc:
        raise Unfit(f"its {what} cannot be read: {exc.strerror}") from None
