"""Measure targets, one after the other in each round, so that a slow minute of the machine is everybody's."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from bench.processes import BenchError, StolenTime
from bench.results import Load, Round
from bench.rig import Rig
from bench.scenarios import Plan, Scenario
from bench.targets import Running, Site, Target, start

Say = Callable[[str], None]
Targets = Mapping[str, Target | None]
"""By name; None stands for the upstream alone."""
WAIT_FOR_QUIET_S = 120.0
SETTLE_S = 0.5


def rounds_of(targets: Targets, rig: Rig, site: Site, plan: Plan, count: int, say: Say) -> Iterator[tuple[str, Round]]:
    """(target's name, what was measured), as it comes."""
    for number in range(1, count + 1):
        for name, target in targets.items():
            measured = measure(name, target, rig, site, plan)
            say(f"round {number} of {count}, {name}: {_in_short(measured)}")
            yield name, measured


def measure(name: str, target: Target | None, rig: Rig, site: Site, plan: Plan) -> Round:
    """One round of one target. One that does not start, or breaks, is a `failed` round."""
    before = StolenTime.now()
    rig.set_pace()
    try:
        running = Running(rig.port) if target is None else start(name, target, site)
        try:
            measured = _measure_running(running, rig, plan, has_cascades=target is not None and target.has_cascades)
        finally:
            running.stop()
    except BenchError as exc:
        return Round(failed=str(exc))
    return measured.model_copy(update={"stolen_share": StolenTime.now().share_since(before)})


def _measure_running(running: Running, rig: Rig, plan: Plan, *, has_cascades: bool) -> Round:
    time.sleep(SETTLE_S)
    idle_mb = loaded_mb = running.process.memory_mb() if running.process else None
    rig.load(running, Scenario("warm", 16, plan.warm_s, warm_s=0))
    loads = {}
    for scenario in plan.scenarios():
        loads[scenario.name] = rig.load(running, scenario)
        if scenario.name.startswith("json") and running.process:
            loaded_mb = running.process.memory_mb()
    return Round(
        start_s=running.start_s,
        idle_mb=idle_mb,
        loaded_mb=loaded_mb,
        loads=loads,
        held_over_plain=_held_over_plain(running, rig, plan) if has_cascades else {},
    )


def _held_over_plain(running: Running, rig: Rig, plan: Plan) -> dict[str, float]:
    """CPU of a stream whose draft a cascade holds to its end, over that of one that is forwarded; by pace."""
    cpu_us: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for scenario in plan.cascade_scenarios():
        load = rig.load(running, scenario)
        if load.errors:
            raise BenchError(f"{load.errors} streams of '{scenario.name}' broke: {load.last_status} {load.last_bad}")
        how, pace = scenario.name.split()
        cpu_us[pace][how].append(load.cpu_us_per_chunk or 0.0)
    return {pace: statistics.mean(of["held"]) / statistics.mean(of["plain"]) for pace, of in cpu_us.items()}


def wait_for_quiet(below: float, say: Say) -> None:
    """Until the machine's load of the last minute is lower, but not for ever."""
    give_up_at = time.monotonic() + WAIT_FOR_QUIET_S
    while os.getloadavg()[0] > below and time.monotonic() < give_up_at:
        time.sleep(2)
    if os.getloadavg()[0] > below:
        say(f"the machine is busy (load {os.getloadavg()[0]:.1f}): go by ratios")


def _in_short(measured: Round) -> str:
    if measured.failed is not None:
        return f"failed: {measured.failed}"
    loads = " ".join(f"{name}={load.rps:.0f}" for name, load in measured.loads.items())
    return loads + "".join(_error(name, load) for name, load in measured.loads.items() if load.errors)


def _error(name: str, load: Load) -> str:
    return f"; {load.errors} errors in {name}, the last {load.last_status} {load.last_bad[:80]}"
