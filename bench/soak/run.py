"""The story of a soak: start, rest, load and trouble, rest, stop; then some crashes; then the verdict."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from bench.processes import BenchError
from bench.report import Setting, put_between_markers
from bench.soak.clients import TIMEOUT, Clients
from bench.soak.crash import Crash, crash
from bench.soak.picture import draw
from bench.soak.site import GRACE_S, Site, site
from bench.soak.trouble import Trouble
from bench.soak.verdict import Finding, judge, judge_crashes
from bench.soak.watch import Sample, at_rest, keep_watch
from bench.targets import tools_folder

PAGE, CHART, REPORT = "reliability.md", "reliability.svg", "soak.json"
WARM_S = 30.0  # of load before what is at rest is looked at: what is loaded once is loaded then
REST_S = 55.0  # connections to upstreams are kept for 35 s
Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30.0, help="of load")
    parser.add_argument("--clients", type=int, default=20, help="that ask at the same time")
    parser.add_argument("--crashes", type=int, default=5, help="kill -9 of the server, at the end")
    parser.add_argument("--seed", type=int, default=1, help="of what clients do")
    parser.add_argument(
        "--out", type=Path, help="folder of the page and its chart; else only .bench/soak.json is written"
    )


def run(options: argparse.Namespace, say: Say) -> None:
    """Raises: BenchError where it is not passed."""
    if options.minutes <= 0 or options.clients < 1:
        raise BenchError("--minutes and --clients are above 0")
    os.environ.setdefault("BENCH_NICE", "0")  # it is to be as others find it
    tools = tools_folder()
    with tempfile.TemporaryDirectory(prefix="gateway-soak-") as folder, site(Path(folder), tools) as here:
        told = asyncio.run(_soak(here, options, say))
    findings = [Finding(**finding) for finding in told["findings"]]
    tools.mkdir(exist_ok=True)
    (tools / REPORT).write_text(json.dumps(told, indent=1))
    if options.out is not None:
        samples = [Sample(**sample) for sample in told["samples"]]
        (options.out / CHART).write_text(draw(samples, "Soak: one server, everything at once", told["told"]))
        page = options.out / PAGE
        page.write_text(put_between_markers(page.read_text(), "soak", summary(told, findings)))
    for finding in findings:
        print(f"{'pass' if finding.is_passed else 'FAIL'}  {finding.name}: {finding.told}")
    say(f"written: {tools / REPORT}")
    if not all(finding.is_passed for finding in findings):
        raise BenchError("the soak was not passed")


async def _soak(here: Site, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    started_s = await asyncio.to_thread(here.start)
    say(f"ready after {started_s:.1f} s; {options.minutes:g} minutes of {options.clients} clients")
    chance = random.Random(options.seed)
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        clients, trouble = Clients(here.url, here.key, session, chance), Trouble(here, session, say, chance)
        await _load(clients, options.clients, WARM_S)
        before = await at_rest(here, session, time.monotonic(), REST_S)
        say(f"at rest: {_told(before)}")
        samples: list[Sample] = []
        began, stop = time.monotonic(), asyncio.Event()
        beside = (
            asyncio.create_task(keep_watch(here, session, began, samples, stop)),
            asyncio.create_task(trouble.keep_making(stop)),
            asyncio.create_task(_talk(samples, clients, say, stop)),
        )
        await _load(clients, options.clients, options.minutes * 60)
        stop.set()
        await asyncio.gather(*beside)
        after = await at_rest(here, session, began, REST_S)
        say(f"at rest: {_told(after)}")
        rows = await asyncio.to_thread(here.journalled)
        missing = sum(id not in rows for id in clients.ids)
        faults = [*trouble.faults, *clients.oddities, *_cut(clients)]
        findings = judge(before, samples, after, missing, len(clients.ids), faults)
        sent, outcomes = clients.sent, dict(clients.outcomes)
        findings.append(await _stop_in_order(here, clients, options.clients))
        crashes: list[Crash] = []
        try:
            await _crash_often(here, clients, options, crashes, say)
        except BenchError as exc:
            findings.append(Finding("it starts again", False, str(exc)))
    findings += judge_crashes(crashes)
    return {
        "told": f"{options.minutes:g} minutes, {sent:,} requests of {options.clients} clients",
        "minutes": options.minutes,
        "requests": sent,
        "started_s": round(started_s, 2),
        "outcomes": {" ".join(name): count for name, count in sorted(outcomes.items())},
        "trouble": trouble.done,
        "engine_back_s": trouble.engine_back_s,
        "crashes": [asdict(one) for one in crashes],
        "findings": [asdict(one) for one in findings],
        "before": before.as_json(),
        "after": after.as_json(),
        "samples": [sample.as_json() for sample in samples],
    }


async def _load(clients: Clients, count: int, seconds: float) -> None:
    async with clients.at_work(count):
        await asyncio.sleep(seconds)


async def _talk(samples: Sequence[Sample], clients: Clients, say: Say, stop: asyncio.Event) -> None:
    while not stop.is_set():
        if samples:
            say(f"{clients.sent:,} requests; {_told(samples[-1])}")
        try:
            await asyncio.wait_for(stop.wait(), 60)
        except TimeoutError:
            continue


def _told(sample: Sample) -> str:
    return (
        f"{sample.rss_mb:.1f} MB, {sample.files} files, {sample.sockets} sockets, {sample.threads} threads, "
        f"{sample.tasks} tasks, {sample.engines} engines, {sample.rows:,} of {sample.requests:,} rows, "
        f"WAL {sample.wal_mb:.1f} MB"
    )


def _cut(clients: Clients) -> list[str]:
    """Streams that ended neither well nor with a word: while the server lives, there must be none."""
    return [f"{count} times {act} was cut" for (act, end), count in clients.outcomes.items() if end == "cut"]


async def _stop_in_order(here: Site, clients: Clients, count: int) -> Finding:
    """SIGTERM while streams are open."""
    assert here.process is not None
    async with clients.at_work(count):
        await asyncio.sleep(3)
        engines, before = here.engines(), clients.outcomes.copy()
        os.kill(here.pid, signal.SIGTERM)
        began = time.monotonic()
    code = await asyncio.to_thread(here.process.wait, GRACE_S + 10)
    took_s = time.monotonic() - began
    rows = await asyncio.to_thread(here.journalled)
    missing = sum(id not in rows for id in clients.ids)
    cut = sum(count for (_, end), count in (clients.outcomes - before).items() if end == "cut")
    left = [pid for pid in engines if Path(f"/proc/{pid}").exists()]
    is_passed = code == 0 and not missing and not cut and not left and here.wal_bytes() == 0
    told = f"exit {code} after {took_s:.1f} s, {cut} streams cut, {missing} rows missing, {len(left)} engines left"
    return Finding("SIGTERM lets open requests finish, and leaves nothing", is_passed, told)


async def _crash_often(
    here: Site, clients: Clients, options: argparse.Namespace, crashes: list[Crash], say: Say
) -> None:
    if options.crashes:
        await asyncio.to_thread(here.start)
    for _ in range(options.crashes):
        crashes.append(await crash(here, clients, options.clients))
        say(f"killed: {crashes[-1]}")


def summary(told: dict[str, Any], findings: Sequence[Finding]) -> str:
    """Markdown."""
    setting = Setting.of_this_machine({}, {})
    back, ready = told["engine_back_s"], [one["ready_s"] for one in told["crashes"]]
    lines = [
        f"{told['told']}, {sum(told['trouble'].values())} times trouble; {setting.date}, {setting.machine}, "
        f"Python {setting.python}, beside other work on the same cores.",
        "",
        f"![memory, files, tasks, engines, log and rows over the time]({CHART})",
        "",
        "| looked at | passed | |",
        "|---|---|---|",
        *(f"| {one.name} | {'yes' if one.is_passed else '**no**'} | {one.told} |" for one in findings),
        "",
    ]
    if back:
        lines.append(f"Engines that were killed were ready again after {_range(back)} ({len(back)} times).")
    if ready:
        lines.append(f"The server, killed under load, was ready again {_range(ready)} after it was started.")
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f} s"
