"""What goes wrong while it serves: engines that are killed, configurations that change or break, backups."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.soak.site import Site, kill
from bench.targets import ROOT

EVERY_S = 10.0  # one of them, by turns
ENGINE_BACK_WITHIN_S = 60.0
CONFIG_WITHIN_S = 20.0
Say = Callable[[str], None]


@dataclass
class Trouble:
    """`engine_back_s`: how long after each kill the core model was ready again. `faults`: what did not recover."""

    site: Site
    session: aiohttp.ClientSession
    say: Say
    random: random.Random
    engine_back_s: list[float] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    async def keep_making(self, until: asyncio.Event) -> None:
        acts = (self.change_configuration, self.kill_engine, self.break_configuration, self.back_up)
        while not until.is_set():
            for act in acts:
                with suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), EVERY_S * self.random.uniform(0.7, 1.3))
                if until.is_set():
                    return
                await act()
                self.done[act.__name__] = self.done.get(act.__name__, 0) + 1

    async def kill_engine(self) -> None:
        engines = self.site.engines()
        if not engines:
            self.faults.append("there was no engine to kill")
            return
        began = time.monotonic()
        kill(engines[0])
        while not await self._status("/readyz", lambda told: told["status"] == "starting"):
            if time.monotonic() > began + 10:
                break  # it was back before anybody could look
        if await self._until("/readyz", lambda told: told["status"] == "ready", ENGINE_BACK_WITHIN_S):
            self.engine_back_s.append(round(time.monotonic() - began, 2))
        else:
            self.faults.append(f"a killed engine was not back after {ENGINE_BACK_WITHIN_S:g} s")

    async def change_configuration(self) -> None:
        before = await self._loaded_at()
        self.site.write_models(f"as of {time.time()}")
        if not await self._until("/healthz", lambda told: told["config"]["loaded_at"] > before, CONFIG_WITHIN_S):
            self.faults.append("a changed configuration was not loaded")

    async def break_configuration(self) -> None:
        self.site.break_models()
        if not await self._until("/healthz", lambda told: told["config"]["status"] == "stale", CONFIG_WITHIN_S):
            self.faults.append("a broken configuration was not noticed")
        self.site.write_models(f"as of {time.time()}")
        if not await self._until("/healthz", lambda told: told["config"]["status"] == "current", CONFIG_WITHIN_S):
            self.faults.append("a mended configuration was not loaded")

    async def back_up(self) -> None:
        command = [sys.executable, "-m", "gateway", "backup", str(self.site.folder / "copy.db")]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=self.site.environment, stdout=DEVNULL, stderr=PIPE
        )
        _, why = await process.communicate()
        if process.returncode:
            self.faults.append(f"no backup: {why.decode().strip()}")

    async def _loaded_at(self) -> float:
        async with self.session.get(f"{self.site.url}/healthz") as reply:
            return float((await reply.json())["config"]["loaded_at"])

    async def _status(self, path: str, is_so: Callable[[Any], bool]) -> bool:
        async with self.session.get(f"{self.site.url}{path}") as reply:
            found = is_so(await reply.json())
        await asyncio.sleep(0.02)
        return found

    async def _until(self, path: str, is_so: Callable[[Any], bool], within_s: float) -> bool:
        give_up_at = time.monotonic() + within_s
        while time.monotonic() < give_up_at:
            if await self._status(path, is_so):
                return True
        return False
