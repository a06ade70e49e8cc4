"""What the samples say: did memory stay flat, was every row written, did all go away that should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.soak.crash import Crash
from bench.soak.watch import Sample

MOST_MB_PER_MIN = 0.5  # of growth over the second half
MOST_SOCKETS = 2  # more than before the load
MOST_FILES = 10  # SQLite has three for each of its five connections, which come as they are needed
MOST_TASKS = 2
MOST_THREADS = 4  # one for each of those connections
MOST_WAL_MB = 64.0  # it is cut back to 16 MiB once nobody reads what lies further back
MOST_LOST_S = 2.0  # rows are written each second
MOST_ENGINE_GONE_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `told`: the figures."""

    name: str
    is_passed: bool
    told: str


def slope_per_min(samples: Sequence[Sample]) -> float:
    """MB a minute, of the straight line with the least squared distance. 0 for less than two samples."""
    if len(samples) < 2:
        return 0.0
    times = [sample.at_s / 60 for sample in samples]
    sizes = [sample.rss_mb for sample in samples]
    mean_time, mean_size = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((time - mean_time) ** 2 for time in times)
    return sum((t - mean_time) * (s - mean_size) for t, s in zip(times, sizes, strict=True)) / spread


def second_half(samples: Sequence[Sample]) -> Sequence[Sample]:
    middle = samples[-1].at_s / 2 if samples else 0.0
    return [sample for sample in samples if sample.at_s >= middle]


def judge(
    before: Sample, samples: Sequence[Sample], after: Sample, missing: int, answered: int, faults: Sequence[str]
) -> list[Finding]:
    """Args: `before` the load and `after` it, at rest; `missing`: of `answered` requests those without a row."""
    grown = slope_per_min(second_half(samples))
    most_wal = max(sample.wal_mb for sample in samples)
    return [
        Finding("memory is flat", grown <= MOST_MB_PER_MIN, f"{grown:+.2f} MB a minute, {MOST_MB_PER_MIN} allowed"),
        Finding("every answer has its row", missing == 0, f"{missing} of {answered:,} have none"),
        Finding("every request has its row", after.rows == after.requests, f"{after.rows:,} of {after.requests:,}"),
        Finding("no row was dropped", after.dropped == 0, f"{after.dropped}"),
        Finding("no request is left open", after.in_flight == 0, f"{after.in_flight}"),
        _no_more("tasks", before.tasks, after.tasks, MOST_TASKS),
        _no_more("sockets", before.sockets, after.sockets, MOST_SOCKETS),
        _no_more("open files", before.files, after.files, MOST_FILES),
        _no_more("threads", before.threads, after.threads, MOST_THREADS),
        _no_more("engine processes", before.engines, after.engines, 0),
        Finding("the write-ahead log stays small", most_wal <= MOST_WAL_MB, f"{most_wal:.1f} MB at most"),
        Finding("nothing failed that should not", not faults, "; ".join(faults[:5]) or "nothing"),
    ]


def judge_crashes(crashes: Sequence[Crash]) -> list[Finding]:
    if not crashes:
        return []
    oldest, gone = max(one.oldest_lost_s for one in crashes), max(one.engines_gone_s for one in crashes)
    lost, answered = sum(one.lost for one in crashes), sum(one.answered for one in crashes)
    told = f"{lost} of {answered:,} in {len(crashes)} crashes, the oldest {oldest:.1f} s old"
    return [
        Finding("kill -9 loses the last second at most", oldest <= MOST_LOST_S, told),
        Finding("and leaves the database sound", all(one.is_sound for one in crashes), f"{len(crashes)} times"),
        Finding("and no engine behind", gone <= MOST_ENGINE_GONE_S, f"gone after {gone:.1f} s at most"),
    ]


def _no_more(what: str, before: int, after: int, most: int) -> Finding:
    more = f", {most} more allowed" if most else ""
    return Finding(f"no {what} are left behind", after - before <= most, f"{before} before, {after} after{more}")
