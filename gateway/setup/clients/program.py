"""Runs a client's program, and ends it with all that it started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.setup.clients import Failure, Server, Trial

GRACE_S = 10.0  # beyond the client's own timeout, for its start


@dataclass(frozen=True, slots=True)
class Ran:
    """`status` is None for a program that was ended because it took too long."""

    status: int | None
    output: str
    errors: str

    @property
    def last_line(self) -> str:
        lines = [line.strip() for line in (self.errors or self.output).splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"it ended with status {self.status}"


async def run(
    argv: Sequence[str],
    within_s: float,
    *,
    given: str = "",
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Ran:
    """`given` goes to its standard input; `environ` is laid over this process's own. Raises: OSError."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environ or {})},
        cwd=folder,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(within_s):
            output, errors = await process.communicate(given.encode())
    except TimeoutError:
        return Ran(None, "", "")
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Ran(process.returncode, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


def timed_out(server: Server) -> Failure:
    return Failure(f"no answer within {server.timeout_s:g} s", code="timeout")


def trials_of(ran: Ran, program: str, server: Server) -> list[Trial]:
    """From the JSON lines that our scripts for the SDKs print, one a request; what is missing has failed."""
    reports: dict[bool, dict[str, Any]] = {}
    for line in ran.output.splitlines():
        if line.startswith('{"stream"'):
            report = json.loads(line)
            reports[report["stream"]] = report
    out = []
    for is_stream in (False, True):
        report = reports.get(is_stream, {})
        failure: Failure | None = timed_out(server) if ran.status is None else Failure(ran.last_line)
        if report:
            error = report.get("error")
            failure = Failure(error["message"], error.get("status"), error.get("code")) if error else None
        version = report.get("version")
        out.append(
            Trial(
                is_stream,
                f"{program} {version}" if version else program,
                report.get("text", ""),
                report.get("model"),
                report.get("path"),
                report.get("first_s"),
                report.get("whole_s"),
                failure,
            )
        )
    return out
