"""Where the gateway spends its time under load: a flame graph and a list, by py-spy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.install import PY_SPY, install_python
from bench.processes import BenchError, Process
from bench.rig import Rig
from bench.scenarios import CHUNKS, PACE_US, Scenario
from bench.targets import Running, Site, Target, start

SAMPLES_PER_S = 250
TOP = 25
WRITE_WITHIN_S = 30.0
# Threads that wait for work in a C function, which py-spy takes for busy.
WAITING = ("_worker (concurrent/futures/thread.py)", "_connection_worker_thread (aiosqlite/core.py)")


def profile(target: Target, rig: Rig, site: Site, seconds: float, say: Callable[[str], None]) -> str:
    """Writes `profile.svg` into the tools' folder. Returns: the functions with the most time of their own.

    The load runs twice, for py-spy writes either a graph or numbers. Raises: BenchError.
    """
    py_spy = site.tools / PY_SPY / "bin" / "py-spy"
    if not py_spy.exists():
        say(f"installing {PY_SPY} into {site.tools / PY_SPY} (once)")
        install_python(PY_SPY, (PY_SPY,), site.tools)
    running = start("ours", target, site)
    graph, stacks = site.tools / "profile.svg", site.folder / "stacks.txt"
    try:
        for kind, file in (("flamegraph", graph), ("raw", stacks)):
            say(f"profiling {2 * seconds:.0f} s of load ({kind})")
            _record(py_spy, kind, file, running, rig, site, seconds)
    finally:
        running.stop()
    say(f"written: {graph}")
    return self_time(stacks.read_text())


def _record(py_spy: Path, kind: str, file: Path, running: Running, rig: Rig, site: Site, seconds: float) -> None:
    assert running.process is not None
    log = site.folder / "py-spy.log"
    argv = [str(py_spy), "record", "--pid", str(running.process.pid), "--format", kind, "--output", str(file)]
    argv += ["--rate", str(SAMPLES_PER_S), "--duration", str(3600)]
    with Process(argv, [site.cores.load], log=log) as recorder:
        rig.load(running, Scenario("json64", 64, seconds, warm_s=0.2))
        rig.load(
            running, Scenario("paced", 64, seconds, warm_s=0.2, chunks=CHUNKS, delay_us=PACE_US, ramp_s=seconds / 4)
        )
        if recorder.has_ended:
            raise BenchError(f"py-spy has ended (as another user than root, try sudo): {recorder.last_words}")
        recorder.interrupt()
        recorder.wait(WRITE_WITHIN_S)
    if not file.exists():
        raise BenchError(f"py-spy has written nothing: {recorder.last_words}")


def self_time(stacks: str, top: int = TOP) -> str:
    """A table of functions from lines `outer (file:1);inner (file:2) COUNT`."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, count = line.rsplit(" ", 1)
        functions = [re.sub(r":\d+\)$", ")", frame) for frame in frames.split(";")]
        if functions[-1] in WAITING:
            continue
        own[functions[-1]] += int(count)
        for function in set(functions):
            within[function] += int(count)
    total = sum(own.values())
    if not total:
        raise BenchError("py-spy has seen nothing")
    lines = [f"{'self %':>7} {'total %':>8}  function ({total:,} samples)"]
    for function, samples in own.most_common(top):
        lines.append(f"{100 * samples / total:7.1f} {100 * within[function] / total:8.1f}  {function}")
    return "\n".join(lines)
