"""What was measured, as plain data: a `Load` is one scenario, a `Round` all scenarios of one target."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter


class Spread(BaseModel):
    """Percentiles, in microseconds."""

    n: int
    p50: float
    p99: float


class Load(BaseModel):
    """What the driver saw in one scenario, and what the target spent on it. An answer counts as an error unless it is
    200 and whole. A stream's fields are None where no stream was asked for; CPU and memory where there is no target
    but the upstream."""

    conns: int
    ok: int
    errors: int
    last_status: int
    last_bad: str = ""
    rps: float
    latency_us: Spread
    chunks_per_s: float | None = None
    ttft_us: Spread | None = None
    chunk_delay_us: Spread | None = None
    cpu_us_per_request: float | None = None
    cpu_us_per_chunk: float | None = None
    peak_mb: float | None = None

    @property
    def is_broken(self) -> bool:
        """Most answers were wrong: its times and costs say nothing."""
        return self.errors > self.ok


class Round(BaseModel):
    model_config = ConfigDict(extra="forbid")

    failed: str | None = None
    start_s: float | None = None
    idle_mb: float | None = None
    loaded_mb: float | None = None  # after the heaviest of the JSON scenarios
    stolen_share: float = 0.0
    loads: dict[str, Load] = {}
    held_over_plain: dict[str, float] = {}  # CPU of a stream, by pace; of a gateway that has cascades


Rounds = Mapping[str, Sequence[Round]]
"""By target's name."""
ROUNDS = TypeAdapter(dict[str, list[Round]])


def read_rounds(files: Sequence[Path]) -> dict[str, list[Round]]:
    """Of several runs, put together."""
    merged: dict[str, list[Round]] = {}
    for file in files:
        for name, rounds in ROUNDS.validate_json(file.read_bytes()).items():
            merged.setdefault(name, []).extend(rounds)
    return merged


def write_rounds(rounds: Rounds, file: Path) -> None:
    file.write_bytes(ROUNDS.dump_json({name: list(of) for name, of in rounds.items()}, indent=1, exclude_none=True))


class Figures:
    """One target's medians over its rounds; None for what was not measured."""

    def __init__(self, rounds: Sequence[Round]) -> None:
        self._good = [each for each in rounds if each.failed is None]
        self.failed = rounds[-1].failed if rounds and not self._good else None

    def of_round(self, pick: Callable[[Round], float | None]) -> float | None:
        values = [value for each in self._good if (value := pick(each)) is not None]
        return statistics.median(values) if values else None

    def of_load(self, scenario: str, pick: Callable[[Load], float | None]) -> float | None:
        def of_round(each: Round) -> float | None:
            load = each.loads.get(scenario)
            return None if load is None or load.is_broken else pick(load)

        return self.of_round(of_round)

    def percentile_us(self, scenario: str, of: str, name: str) -> float | None:
        """`of`: latency_us, ttft_us or chunk_delay_us; `name`: p50 or p99."""

        def pick(load: Load) -> float | None:
            spread: Spread | None = getattr(load, of)
            return getattr(spread, name) if spread is not None and spread.n else None

        return self.of_load(scenario, pick)

    @property
    def connections(self) -> list[int]:
        names = {name for each in self._good for name in each.loads if name.startswith("json")}
        return sorted(int(name.removeprefix("json")) for name in names)

    @property
    def best_rps(self) -> float | None:
        every = [self.of_load(f"json{c}", lambda load: load.rps) for c in self.connections]
        return max((rps for rps in every if rps is not None), default=None)

    @property
    def cpu_us(self) -> float | None:
        """For one small request, at 64 connections where that was measured."""
        at = 64 if 64 in self.connections else max(self.connections, default=0)
        return self.of_load(f"json{at}", lambda load: load.cpu_us_per_request)

    @property
    def rps_per_core(self) -> float | None:
        return 1e6 / self.cpu_us if self.cpu_us else None

    @property
    def chunk_cpu_us(self) -> float | None:
        return self.of_load("paced", lambda load: load.cpu_us_per_chunk)

    @property
    def mb_per_1000_streams(self) -> float | None:
        def pick(each: Round) -> float | None:
            load, before = each.loads.get("hold"), each.loaded_mb or each.idle_mb
            if load is None or load.is_broken or load.peak_mb is None or before is None:
                return None
            return (load.peak_mb - before) * 1000 / load.conns

        return self.of_round(pick)

    @property
    def start_s(self) -> float | None:
        return self.of_round(lambda each: each.start_s)

    @property
    def idle_mb(self) -> float | None:
        return self.of_round(lambda each: each.idle_mb)

    @property
    def stolen_share(self) -> float:
        return self.of_round(lambda each: each.stolen_share) or 0.0

    @property
    def held_over_plain(self) -> dict[str, float]:
        """By pace."""
        paces = {pace for each in self._good for pace in each.held_over_plain}
        found = {pace: self.of_round(lambda each, pace=pace: each.held_over_plain.get(pace)) for pace in sorted(paces)}  # type: ignore[misc]
        return {pace: ratio for pace, ratio in found.items() if ratio is not None}

    @property
    def errors(self) -> dict[str, int]:
        """How many answers were wrong, by scenario."""
        found: dict[str, int] = {}
        for each in self._good:
            for name, load in each.loads.items():
                if load.errors:
                    found[name] = found.get(name, 0) + load.errors
        return found
