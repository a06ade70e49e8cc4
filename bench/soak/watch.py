"""What the server has at a moment: memory, files, sockets, threads, tasks, engines, rows."""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.soak.site import Site

EVERY_S = 5.0
LINE = re.compile(r"^(\w+)(?:\{[^}]*\})? ([-+.e\d]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """`at_s` since the beginning; `requests` that the server has counted, `rows` of them that are in the journal."""

    at_s: float
    rss_mb: float
    files: int
    sockets: int
    threads: int
    tasks: int
    engines: int
    in_flight: int
    requests: int
    rows: int
    waiting: int
    dropped: int
    wal_mb: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def metrics(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Sums over all labels, by name."""
    sums: dict[str, float] = {}
    async with session.get(f"{url}/metrics") as reply:
        for name, value in LINE.findall(await reply.text()):
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


async def take(site: Site, session: aiohttp.ClientSession, began: float) -> Sample:
    """Raises: aiohttp.ClientError, OSError."""
    told = await metrics(session, site.url)
    status = Path(f"/proc/{site.pid}/status").read_text()
    rows = await asyncio.to_thread(site.rows)
    opened = _opened(site.pid)
    sockets = sum(name.startswith("socket:") for name in opened)
    return Sample(
        at_s=round(time.monotonic() - began, 1),
        rss_mb=round(_field(status, "VmRSS") / 1024, 2),
        files=len(opened) - sockets,
        sockets=sockets,
        threads=_field(status, "Threads"),
        tasks=int(told["gateway_tasks"]),
        engines=len(site.engines()),
        in_flight=int(told["gateway_requests_in_flight"]),
        requests=int(told.get("gateway_requests_total", 0)),
        rows=rows,
        waiting=int(told["gateway_journal_waiting"]),
        dropped=int(told["gateway_journal_dropped"]),
        wal_mb=round(site.wal_bytes() / 2**20, 2),
    )


async def keep_watch(
    site: Site, session: aiohttp.ClientSession, began: float, samples: list[Sample], until: asyncio.Event
) -> None:
    while not until.is_set():
        samples.append(await take(site, session, began))
        with suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), EVERY_S)


async def at_rest(site: Site, session: aiohttp.ClientSession, began: float, within_s: float) -> Sample:
    """The least of what it has within so long, while nothing is under way and nothing waits to be written."""
    give_up_at = time.monotonic() + within_s
    least: Sample | None = None
    while time.monotonic() < give_up_at:
        found = await take(site, session, began)
        is_idle = found.in_flight == 0 and found.waiting == 0
        if is_idle and (least is None or _size(found) < _size(least)):
            least = found
        await asyncio.sleep(1.0)
    return least or await take(site, session, began)


def _size(sample: Sample) -> int:
    return sample.sockets + sample.files + sample.tasks


def _opened(pid: int) -> list[str]:
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            names.append(os.readlink(link))
    return names


def _field(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0
