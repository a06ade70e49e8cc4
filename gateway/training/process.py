"""The child that trains, seen from outside: started, listened to, and ended when nobody waits any more."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gateway.engines.environment import without_secrets
from gateway.errors import GatewayError
from gateway.training.pairs import Pair, written
from gateway.training.settings import Settings

COMMAND = (sys.executable, "-P", "-m", "gateway.training.child")
ADAPTER, PEFT, LOG = "adapter.gguf", "peft", "training.log"
LAST_LINES = 20
ENDS_WITHIN_S = 5.0
MAX_EVENT_BYTES = 1 << 20
Json = dict[str, Any]
Tell = Callable[[Json], None]


class TrainingFailed(GatewayError):
    """`code`: `unfit` (the examples or the model cannot be used), `out_of_memory` or `failed`."""

    def __init__(self, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


def put(folder: Path, pairs: list[Pair], held_out: list[Pair]) -> None:
    """What is trained on, for the child. Raises: OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, some in (("pairs", pairs), ("held_out", held_out)):
        path = folder / f"{name}.jsonl"
        path.touch(mode=0o600)
        path.write_bytes(written(some))


async def train(model_path: Path, folder: Path, settings: Settings, tell: Tell) -> Json:
    """Trains on what `put` has laid into `folder`, from its last checkpoint on if there is one. When this is cancelled
    the child ends; what it has reached stays.

    Args: `tell` is called with each event.
    Returns: the report of the last one. Raises: TrainingFailed.
    """
    wanted = {
        "parent_pid": os.getpid(),
        "model_path": str(model_path),
        "folder": str(folder),
        "settings": settings.as_json(),
    }
    done: Json | None = None
    async with _child(folder / LOG) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(wanted).encode() + b"\n")
        with suppress(ConnectionError):  # it is gone: it says below why, or nothing
            await child.stdin.drain()
        while line := await child.stdout.readline():
            event: Json = json.loads(line)
            if event["event"] == "failed":
                raise TrainingFailed(event["why"], event["code"])
            if event["event"] == "done":
                done = event
            else:
                tell(event)
        status = await child.wait()
    if done is None:
        words = _last_words(folder / LOG)
        raise TrainingFailed(f"the process that trains ended unexpectedly (exit status {status})" + words)
    return {name: value for name, value in done.items() if name != "event"}


@asynccontextmanager
async def _child(log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Raises: TrainingFailed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        try:
            child = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=MAX_EVENT_BYTES,
                start_new_session=True,
                env=without_secrets(os.environ),
            )
        except OSError as exc:
            raise TrainingFailed(f"the process that trains cannot be started: {exc.strerror}") from None
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
            try:
                await asyncio.wait_for(child.wait(), ENDS_WITHIN_S)
            except TimeoutError:
                child.kill()
                await child.wait()


def _last_words(log: Path) -> str:
    try:
        with log.open(errors="replace") as lines:
            last = [line.strip() for line in deque(lines, LAST_LINES) if line.strip()]
    except OSError:
        return ""
    return f": {last[-1][:200]}" if last else ""
