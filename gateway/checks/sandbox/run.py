"""Starts the child, waits for its word, ends it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import gateway

log = logging.getLogger(__name__)
START_S = 20.0  # for an interpreter to start, on a busy machine
LAST_WORDS_S = 1.0  # between the end of what it says and its own
MAX_SAID_BYTES = 16 * 1024
BOOT = """
import sys, types
for name, place in (("gateway", sys.argv[1]), ("gateway.checks", sys.argv[1] + "/checks")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place]
from gateway.checks.sandbox import child
child.main()
"""
"""Not through the packages themselves, which import much."""


@dataclass(frozen=True)
class Outcome:
    """`was_run` is False where it could not be shut in; `reason`: what went wrong, in words; `layers`: the walls."""

    was_run: bool
    reason: str = ""
    layers: tuple[str, ...] = ()

    @property
    def is_right(self) -> bool:
        return self.was_run and not self.reason


@dataclass(frozen=True)
class Job:
    """`tests`: Python that raises where it fails; `examples`: texts with `>>>` lines; `allow_unconfined`: run it also
    where it cannot be shut in."""

    code: str
    tests: Sequence[str] = ()
    examples: Sequence[str] = ()
    timeout_s: float = 5.0
    memory_mb: int = 256
    allow_unconfined: bool = False


NOBODYS = Outcome(False, "nobody waits for it")


async def run(job: Job) -> Outcome:
    """In a thread; whoever does not want the outcome any more ends the child, too."""
    running = _Running(job)
    try:
        return await asyncio.to_thread(running.outcome)
    except asyncio.CancelledError:
        running.end()
        raise


class _Running:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._child: subprocess.Popen[bytes] | None = None
        self._token = secrets.token_hex(16)
        self._is_unwanted = False

    def outcome(self) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="onion-code-") as folder:
            if self._is_unwanted:
                return NOBODYS
            argv = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", BOOT, str(Path(gateway.__file__).parent)]
            try:
                child = self._child = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={},
                    cwd=folder,
                    start_new_session=True,
                )
            except OSError as exc:
                log.error("a sandbox does not start: %s", exc.strerror)
                return Outcome(False, "it does not start")
            try:
                if self._is_unwanted:  # since before there was a child to end
                    return NOBODYS
                return self._heard(child, folder)
            finally:
                self.end()
                child.wait()
                for pipe in (child.stdin, child.stdout):
                    if pipe is not None:
                        with suppress(OSError):
                            pipe.close()

    def end(self) -> None:
        self._is_unwanted = True
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _heard(self, child: subprocess.Popen[bytes], folder: str) -> Outcome:
        assert child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):
            child.stdin.write(self._given(folder))
            child.stdin.close()
        lines = _Lines(child.stdout.fileno())
        ready = lines.next(time.monotonic() + START_S)
        if ready is None or not ready.startswith("ready "):
            return Outcome(False, "it does not start")
        layers = tuple(json.loads(ready.removeprefix("ready ")))
        if not ({"landlock", "seccomp"} <= set(layers) or self._job.allow_unconfined):
            return Outcome(False, "it cannot be shut in here", layers)
        said = lines.next(time.monotonic() + self._job.timeout_s)
        if said is None:
            return Outcome(True, f"no result within {self._job.timeout_s:g} s", layers)
        if not said.startswith(f"{self._token} "):
            return Outcome(True, _how(child), layers)
        return Outcome(True, json.loads(said.removeprefix(self._token))["reason"] or "", layers)

    def _given(self, folder: str) -> bytes:
        job = self._job
        return json.dumps(
            {
                "code": job.code,
                "tests": list(job.tests),
                "examples": list(job.examples),
                "folder": folder,
                "memory_bytes": job.memory_mb * 2**20,
                "cpu_s": job.timeout_s,
                "unconfined": job.allow_unconfined,
                "token": self._token,
            }
        ).encode("utf-8", "replace")


class _Lines:
    """Reads lines of a pipe, within a time and a size."""

    def __init__(self, source: int) -> None:
        self._source = source
        self._read = b""

    def next(self, due: float) -> str | None:
        """None where nothing has come in time; "" where nothing more will, or too much has."""
        waiting = select.poll()
        waiting.register(self._source, select.POLLIN)
        while b"\n" not in self._read and len(self._read) < MAX_SAID_BYTES:
            left_s = due - time.monotonic()
            if left_s <= 0 or not waiting.poll(left_s * 1000):
                return None
            piece = os.read(self._source, 4096)
            if not piece:
                return ""
            self._read += piece
        line, found, self._read = self._read.partition(b"\n")
        return line.decode("utf-8", "replace") if found else ""


def _how(child: subprocess.Popen[bytes]) -> str:
    with suppress(subprocess.TimeoutExpired, ValueError):
        status = child.wait(LAST_WORDS_S)
        if status < 0:
            return f"it ended by {signal.Signals(-status).name}"
    return "it ended before its tests did"
