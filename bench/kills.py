"""kill -9 under load, of one process after the other: what clients see, what is lost, when all is well again."""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.processes import BenchError, tree_of
from bench.report import Setting, put_between_markers, table
from bench.soak.clients import TIMEOUT, Act, Clients, completions, core, long_stream
from bench.soak.site import Site, kill, site
from bench.targets import tools_folder

MARK = "kills"
CLIENTS, WORKERS = 20, 2
BEFORE_S, AFTER_S = 6.0, 6.0  # of load around each kill; after it from when the server is ready again
READY_WITHIN_S = 60.0
ACTS: dict[Act, int] = {completions: 6, long_stream: 3, core: 3}
WELL = ("200", "to its end")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """One request: how it ended, and when, in unix seconds; `trace` where the server has begun an answer."""

    began: float
    at: float
    end: str
    trace: str | None

    @property
    def is_well(self) -> bool:
        return self.end in WELL


@dataclass(frozen=True)
class Kill:
    """`ends`: of the requests that did not end well; `late_s`: when the last of them ended after the kill; `lost`: rows
    of requests that ended well; `down_s`: until the first request was answered that came after it."""

    victim: str
    asked: int
    ends: Counter[str]
    late_s: float
    lost: int
    oldest_lost_s: float
    down_s: float
    ready_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=3, help="that each is killed")
    parser.add_argument("--out", type=Path, help="the page to write to; else the table is only printed")


def run(options: argparse.Namespace, say: Say) -> None:
    """Raises: BenchError."""
    with tempfile.TemporaryDirectory(prefix="gateway-kills-") as folder, site(Path(folder), tools_folder()) as here:
        here.arguments = ("--workers", str(WORKERS))
        kills = asyncio.run(_kills(here, options.times, say))
    text = summary(kills)
    print(text)
    if options.out is not None:
        options.out.write_text(put_between_markers(options.out.read_text(), MARK, text))


async def _kills(here: Site, count: int, say: Say) -> list[Kill]:
    await asyncio.to_thread(here.start)
    kills = []
    async with aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = Clients(here.url, here.key, session, random.Random(1))
        for _ in range(count):
            for victim in VICTIMS:
                kills.append(await _kill(here, clients, victim))
                say(str(kills[-1]))
    return kills


async def _kill(here: Site, clients: Clients, victim: str) -> Kill:
    with _asking(clients) as (asked, stop):
        await asyncio.sleep(BEFORE_S)
        restarts = (await _workers(here, clients.session))["restarts"] + 1 if victim == "worker" else 0
        tree, pid, at = tree_of(here.pid), VICTIMS[victim](here), time.time()
        kill(pid)
        if victim == "supervisor":
            await asyncio.to_thread(_start_again, here)
        ready_s = await _ready_again(here, clients.session, pid, len(tree), restarts) - at
        await asyncio.sleep(AFTER_S)
        await stop()
    await asyncio.sleep(1.5)  # the last batch of rows
    rows = await asyncio.to_thread(here.journalled)
    bad = [one for one in asked if not one.is_well]
    lost = [one for one in asked if one.is_well and one.trace is not None and one.trace not in rows]
    first = min((one.at for one in asked if one.began > at and one.is_well), default=time.time())
    return Kill(
        victim=victim,
        asked=len(asked),
        ends=Counter(one.end for one in bad),
        late_s=round(max((one.at for one in bad), default=at) - at, 2),
        lost=len(lost),
        oldest_lost_s=round(at - min((one.at for one in lost), default=at), 2),
        down_s=round(first - at, 2),
        ready_s=round(ready_s, 2),
    )


def _start_again(here: Site) -> None:
    """As systemd does, at once."""
    assert here.process is not None
    here.process.wait(10)
    here.start()


async def _workers(here: Site, session: aiohttp.ClientSession) -> dict[str, int]:
    async with session.get(f"{here.url}/healthz") as reply:
        told: dict[str, int] = (await reply.json())["workers"]
        return told


async def _ready_again(here: Site, session: aiohttp.ClientSession, gone: int, processes: int, restarts: int) -> float:
    """When all workers and the engine are there (unix seconds): as many processes as there were, of the workers as
    many restarts. Raises: BenchError."""
    give_up_at = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up_at:
        await asyncio.sleep(0.05)
        tree = tree_of(here.pid)
        if gone in tree or len(tree) < processes:
            continue
        with suppress(aiohttp.ClientError, OSError, KeyError):
            workers = await _workers(here, session)
            async with session.get(f"{here.url}/readyz") as reply:
                if reply.status == 200 and workers["running"] == workers["wanted"] and workers["restarts"] >= restarts:
                    return time.time()
    raise BenchError(f"not ready again within {READY_WITHIN_S:g} s")


@contextmanager
def _asking(clients: Clients) -> Iterator[tuple[list[Asked], Callable[[], asyncio.Future[list[None]]]]]:
    """Clients at work. Gives: what they have asked, and what stops them."""
    asked: list[Asked] = []
    until = asyncio.Event()
    acts, weights = zip(*ACTS.items(), strict=True)

    async def ask() -> None:
        while not until.is_set():
            (act,) = clients.random.choices(acts, weights)
            clients.asked.set(None)
            began = time.time()
            try:
                end = await act(clients)
            except (aiohttp.ClientError, OSError) as exc:
                end = type(exc).__name__
            asked.append(Asked(began, time.time(), end, clients.asked.get()))
            await asyncio.sleep(0.05 if asked[-1].is_well else 0.2)

    tasks = [asyncio.create_task(ask()) for _ in range(CLIENTS)]

    def stop() -> asyncio.Future[list[None]]:
        until.set()
        return asyncio.gather(*tasks)

    yield asked, stop


def _engine(here: Site) -> int:
    """Raises: BenchError."""
    for pid in tree_of(here.pid)[1:]:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"gateway.workers" not in command and b"gateway" in command:
            return pid
    raise BenchError("there is no engine to kill")


def _worker(here: Site) -> int:
    """Raises: BenchError."""
    for pid in tree_of(here.pid)[1:]:
        if b"gateway.workers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise BenchError("there is no worker to kill")


VICTIMS: dict[str, Callable[[Site], int]] = {"worker": _worker, "engine": _engine, "supervisor": lambda here: here.pid}
NAMED = {"worker": "one of two workers", "engine": "the core model's engine", "supervisor": "the supervisor"}


def summary(kills: Sequence[Kill]) -> str:
    """Markdown."""
    setting = Setting.of_this_machine({}, {})
    head = ["kill -9 of", "clients saw", "rows lost", "an answer again after", "all ready after"]
    rows = []
    for victim in VICTIMS:
        of = [one for one in kills if one.victim == victim]
        ends: Counter[str] = sum((one.ends for one in of), Counter())
        seen = ", ".join(f"{count} × {_told(end)}" for end, count in ends.most_common()) or "no failure"
        rows.append(
            [
                NAMED[victim],
                f"{seen}; of {sum(one.asked for one in of):,}, the last {max(one.late_s for one in of):.1f} s after",
                f"{sum(one.lost for one in of)}, at most {max(one.oldest_lost_s for one in of):.2f} s old",
                _range([one.down_s for one in of]),
                _range([one.ready_s for one in of]),
            ]
        )
    return (
        f"`python -m bench kills`, {setting.date}: {CLIENTS} clients at `--workers {WORKERS}`, the core model and an "
        f"upstream, each killed {len(kills) // len(VICTIMS)} times; {setting.machine}, driver included.\n\n"
        + table(head, rows)
    )


TOLD = {
    "cut": "a stream cut, without its end",
    "an error said so": "a stream ended by an error event",
    "ServerDisconnectedError": "the connection closed before an answer",
    "ClientOSError": "the connection reset",
    "ClientConnectorError": "the connection refused",
    "ClientPayloadError": "a stream broken off",
}


def _told(end: str) -> str:
    return TOLD.get(end, end)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f} s"
