"""kill -9 of the server under load: how soon it serves again, and which rows are gone."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.soak.clients import Clients
from bench.soak.site import Site, kill

LOAD_S = 6.0  # before each
GONE_WITHIN_S = 10.0


@dataclass(frozen=True)
class Crash:
    """`answered`: requests since the last start that had ended, `lost`: those of them without a row, the oldest
    `oldest_lost_s` before the kill. `engines_gone_s`: how long its engines outlived it. `ready_s`: from the next start
    until it was ready."""

    answered: int
    lost: int
    oldest_lost_s: float
    engines_gone_s: float
    ready_s: float
    is_sound: bool


async def crash(site: Site, clients: Clients, count: int) -> Crash:
    known = set(clients.ids)
    async with clients.at_work(count):
        await asyncio.sleep(LOAD_S)
        engines, at = site.engines(), time.time()
        kill(site.pid)
    engines_gone_s = await _gone(engines, at)
    ready_s = await asyncio.to_thread(site.start)
    rows = await asyncio.to_thread(site.journalled)
    answered = {id: when for id, when in clients.ids.items() if id not in known}
    lost = [when for id, when in answered.items() if id not in rows]
    return Crash(
        answered=len(answered),
        lost=len(lost),
        oldest_lost_s=round(at - min(lost), 2) if lost else 0.0,
        engines_gone_s=engines_gone_s,
        ready_s=round(ready_s, 2),
        is_sound=await asyncio.to_thread(site.is_sound),
    )


async def _gone(pids: list[int], since: float) -> float:
    with suppress(TimeoutError):
        async with asyncio.timeout(GONE_WITHIN_S):
            while any(_lives(pid) for pid in pids):
                await asyncio.sleep(0.02)
    return round(time.time() - since, 2)


def _lives(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False
