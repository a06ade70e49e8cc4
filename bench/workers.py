"""Two workers beside one: how many more requests, and what many open streams take.

The gateway may use both cores here, and shares them with the driver and the upstream: what it could do on two cores of
its own is told by the CPU time that a request takes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.ours import our_target
from bench.processes import BenchError, Process, cpu_s_of, tree_of
from bench.report import Setting, number, table
from bench.results import Load, Spread
from bench.rig import Rig
from bench.scenarios import CHUNKS, Scenario
from bench.targets import Site, Target, start

COUNTS = (1, 2)
WARM = Scenario("warm", 16, 2.0, warm_s=0)
JSON = Scenario("json64", 64, 4.0, warm_s=0.5)
BURST = Scenario("burst", 64, 4.0, warm_s=0.5, chunks=CHUNKS)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """`cores`: that the gateway has used while it answered JSON, `of_supervisor` by that process alone."""

    idle_mb: float
    json: Load
    burst: Load
    hold: Load
    cores: float
    of_supervisor: float

    @property
    def held_mb(self) -> float:
        """That all held streams take."""
        return (self.hold.peak_mb or 0.0) - self.idle_mb


def measure(rig: Rig, site: Site, rounds: int, streams: int, say: Say) -> dict[int, list[Measured]]:
    """By number of workers; in turns, so that a slow minute of the machine is everybody's. Raises: BenchError."""
    found = defaultdict(list)
    base = our_target(site.folder / "ours", site.upstream_port)
    hold = Scenario("hold", streams, 6, warm_s=6, chunks=20, delay_us=500_000, ramp_s=5)
    for turn in range(rounds):
        for count in COUNTS if turn % 2 == 0 else reversed(COUNTS):
            target = base.model_copy(update={"command": f"{base.command} --workers {count}"})
            found[count].append(_measured(target, rig, site, hold))
            say(f"{count} workers: {found[count][-1]}")
    return found


def _measured(target: Target, rig: Rig, site: Site, hold: Scenario) -> Measured:
    running = start("ours", target, site, cores=(site.cores.gateway, site.cores.load))
    assert running.process is not None
    try:
        rig.load(running, WARM)
        idle_mb = running.process.memory_mb()
        before = _spent_s(running.process)
        answered = rig.load(running, JSON)
        after = _spent_s(running.process)
        burst, held = rig.load(running, BURST), rig.load(running, hold)
    finally:
        running.stop()
    for load in (answered, burst, held):
        if load.errors:
            raise BenchError(f"{load.errors} requests failed: {load.last_status} {load.last_bad}")
    lasted_s = JSON.warm_s + JSON.seconds
    whole, supervisor = ((late - early) / lasted_s for early, late in zip(before, after, strict=True))
    return Measured(idle_mb, answered, burst, held, whole, supervisor)


def _spent_s(process: Process) -> tuple[float, float]:
    """CPU time of the whole gateway, and of the process that was started alone."""
    tree = tree_of(process.pid)
    return sum(map(cpu_s_of, tree)), cpu_s_of(tree[0])


def summary(found: Mapping[int, Sequence[Measured]], streams: int) -> str:
    """Markdown."""

    def median(count: int, of: Callable[[Measured], float | None]) -> float:
        return statistics.median(of(one) or 0.0 for one in found[count])

    columns: dict[str, Callable[[int], str]] = {
        "workers": str,
        "req/s, 64 connections": lambda n: number(median(n, lambda one: one.json.rps)),
        "CPU µs per request": lambda n: number(median(n, lambda one: one.json.cpu_us_per_request)),
        "cores used": lambda n: number(median(n, lambda one: one.cores), 2),
        "of them the supervisor": lambda n: number(median(n, lambda one: one.of_supervisor), 2) if n > 1 else "–",
        "chunks/s, 64 streams": lambda n: number(median(n, lambda one: one.burst.chunks_per_s)),
        f"{streams:,} streams: TTFT p50, ms": lambda n: number(median(n, lambda one: _p50(one.hold.ttft_us) / 1e3)),
        "p99": lambda n: number(median(n, lambda one: _p99(one.hold.ttft_us) / 1e3)),
        "kB per stream": lambda n: number(median(n, lambda one: one.held_mb) * 1024 / streams, 0),
        "idle MB": lambda n: number(median(n, lambda one: one.idle_mb), 0),
    }
    ratios = [two.json.rps / one.json.rps for one, two in zip(found[1], found[2], strict=True)]
    costs = {count: median(count, lambda one: one.json.cpu_us_per_request) for count in COUNTS}
    setting = Setting.of_this_machine({}, {})
    told = (
        f"`python -m bench workers`, {setting.date}: {setting.machine}, shared with the driver and the upstream; "
        f"medians of {len(ratios)} rounds. Two workers answer **{statistics.median(ratios):.2f} ×** the requests of "
        f"one (rounds from {min(ratios):.2f} to {max(ratios):.2f}). By the CPU time of a request, two cores that had "
        f"nothing else to do would answer {number(2e6 / costs[2])} a second, {number(2 * costs[1] / costs[2])} × one "
        "worker on a core of its own."
    )
    return f"{told}\n\n" + table(list(columns), [[of(count) for of in columns.values()] for count in COUNTS])


def _p50(spread: Spread | None) -> float:
    return spread.p50 if spread else 0.0


def _p99(spread: Spread | None) -> float:
    return spread.p99 if spread else 0.0
