"""What became of requests, by cluster and model: successes, cost, time and length, of which the old fade."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT_A_DAY = 0.98
DAY_S = 86_400.0
ANYWHERE = -1  # the cluster of requests that no cluster is known of
BUCKETS_PER_FACTOR_E = 4  # of latency: each is 28 % longer than the one before
SHORTEST_S = 1e-3
MOST_BUCKETS = 64  # up to 2.5 hours
MOST_LATE = 10_000  # notes that are taken over when a learned table replaces what it was learned from
DIGITS = 6
Json = dict[str, Any]
Key = tuple[int, str]


@dataclass(slots=True)
class Cell:
    """Sums of one model in one cluster, as they were `at` (unix seconds). `n` of them have an outcome, whose sum is
    `s`; `calls` have a latency, `priced` a cost, `counted` a length."""

    at: float = 0.0
    s: float = 0.0
    n: float = 0.0
    calls: float = 0.0
    latency_s: float = 0.0
    priced: float = 0.0
    cost_usd: float = 0.0
    counted: float = 0.0
    output_tokens: float = 0.0
    latencies: dict[int, float] = field(default_factory=dict)

    def fade(self, now: float) -> None:
        if now <= self.at:
            return
        kept = KEPT_A_DAY ** ((now - self.at) / DAY_S)
        self.at = now
        for name in SUMS:
            setattr(self, name, getattr(self, name) * kept)
        for bucket in self.latencies:
            self.latencies[bucket] *= kept

    def note(
        self, outcome: float | None, cost_usd: float | None, latency_s: float | None, output_tokens: float | None
    ) -> None:
        if outcome is not None:
            self.n += 1
            self.s += outcome
        if cost_usd is not None:
            self.priced += 1
            self.cost_usd += cost_usd
        if latency_s is not None:
            self.calls += 1
            self.latency_s += latency_s
            bucket = _bucket(latency_s)
            self.latencies[bucket] = self.latencies.get(bucket, 0.0) + 1
        if output_tokens is not None:
            self.counted += 1
            self.output_tokens += output_tokens

    def add(self, other: Cell, weight: float = 1.0) -> None:
        """Both as of the same time."""
        self.add_sums(other, weight)
        for bucket, count in other.latencies.items():
            self.latencies[bucket] = self.latencies.get(bucket, 0.0) + weight * count

    def add_sums(self, other: Cell, weight: float) -> None:
        self.s += weight * other.s
        self.n += weight * other.n
        self.calls += weight * other.calls
        self.latency_s += weight * other.latency_s
        self.priced += weight * other.priced
        self.cost_usd += weight * other.cost_usd
        self.counted += weight * other.counted
        self.output_tokens += weight * other.output_tokens

    def latency_quantile_s(self, share: float) -> float | None:
        """Within 13 %; None where there was none."""
        left = share * sum(self.latencies.values())
        for bucket in sorted(self.latencies):
            left -= self.latencies[bucket]
            if left <= 0 and self.latencies[bucket] > 0:
                return SHORTEST_S * math.exp((bucket + 0.5) / BUCKETS_PER_FACTOR_E)
        return None

    def as_json(self) -> Json:
        out: Json = {name: round(getattr(self, name), DIGITS) for name in ("at", *SUMS)}
        out["latencies"] = {str(bucket): round(count, DIGITS) for bucket, count in sorted(self.latencies.items())}
        return out

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Cell:
        """Raises: KeyError, TypeError, ValueError, AttributeError."""
        sums = {name: _number(data[name]) for name in ("at", *SUMS)}
        latencies = {int(bucket): _number(count) for bucket, count in data["latencies"].items()}
        return cls(**sums, latencies=latencies)


SUMS = ("s", "n", "calls", "latency_s", "priced", "cost_usd", "counted", "output_tokens")


@dataclass(frozen=True, slots=True)
class _Note:
    at: float
    key: Key
    told: tuple[float | None, float | None, float | None, float | None]


class Table:
    """Cells by (cluster, model), and for each model what is known of it in all clusters together.

    Two layers: what was learned from the journal up to a time, and what was noted since.

    Args:
        clusters: the set that the numbers are of.
        clock: unix seconds.
    """

    def __init__(self, clusters: str, clock: Callable[[], float] = time.time) -> None:
        self.clusters = clusters
        self.learned_at = 0.0  # of the learned layer: it has all notes before
        self.is_changed = False  # since it was last written
        self.clock = clock
        self._learned: dict[Key, Cell] = {}
        self._noted: dict[Key, Cell] = {}
        self._late: deque[_Note] = deque(maxlen=MOST_LATE)
        self._of_model: dict[str, Cell] = {}

    def note(
        self,
        cluster: int | None,
        model: str,
        outcome: float | None,
        cost_usd: float | None = None,
        latency_s: float | None = None,
        output_tokens: float | None = None,
    ) -> None:
        """What became of one request, or was found out about it later.

        Args:
            cluster: None where nobody knows.
            outcome: how good the answer was, in [0, 1]; None where nobody can tell.
        """
        key = (ANYWHERE if cluster is None else cluster, model)
        note = _Note(self.clock(), key, (outcome, cost_usd, latency_s, output_tokens))
        self._late.append(note)
        self._take(note)

    def _take(self, note: _Note) -> None:
        for cell in (
            self._noted.setdefault(note.key, Cell(note.at)),
            self._of_model.setdefault(note.key[1], Cell(note.at)),
        ):
            cell.fade(note.at)
            cell.note(*note.told)
        self.is_changed = True

    def of_model(self, model: str) -> Cell:
        """In all clusters. Not to be changed."""
        cell = self._of_model.get(model)
        if cell is None:
            return Cell()
        cell.fade(self.clock())
        return cell

    def near(self, places: Iterable[tuple[int, float]], model: str) -> Cell:
        """The cells of these clusters, (number, weight), as one, without the spread of its latencies."""
        now = self.clock()
        found = Cell(now)
        for cluster, weight in places:
            for layer in (self._learned, self._noted):
                cell = layer.get((cluster, model))
                if cell is not None:
                    found.add_sums(cell, weight * KEPT_A_DAY ** (max(0.0, now - cell.at) / DAY_S))
        return found

    def cells(self) -> dict[Key, Cell]:
        """All that is known, both layers together."""
        now = self.clock()
        found: dict[Key, Cell] = {}
        for layer in (self._learned, self._noted):
            for key, cell in layer.items():
                cell.fade(now)
                found.setdefault(key, Cell(now)).add(cell)
        return found

    def adopt(self, learned: Mapping[Key, Cell], learned_at: float) -> None:
        """Take what was learned from the journal up to then in place of what was noted up to then."""
        if learned_at != self.learned_at:
            self._noted = {}
            late = [note for note in self._late if note.at > learned_at]
            self._late.clear()
            self._late.extend(late)
        else:
            late = []
        self.learned_at = learned_at
        self._learned = {key: cell for key, cell in learned.items()}
        self._of_model = {}
        for (_, model), cell in self.cells().items():
            self._of_model.setdefault(model, Cell(cell.at)).add(cell)
        for note in late:
            self._take(note)
        self.is_changed = True

    def as_json(self) -> Json:
        """What was noted, for `restore` after a restart."""
        return {"clusters": self.clusters, "learned_at": self.learned_at, "cells": cells_as_json(self._noted)}

    def restore(self, data: Mapping[str, Any]) -> None:
        """What an earlier run has noted; nothing of it where clusters have changed since.

        Raises: KeyError, TypeError, ValueError, AttributeError for what is no such thing.
        """
        cells = read_cells(data["cells"])
        if data["clusters"] != self.clusters:
            cells = {(ANYWHERE, model): cell for model, cell in _merged(cells).items()}
        self.learned_at = _number(data["learned_at"])
        self._noted = cells
        self._of_model = _merged(cells)


def _merged(cells: Mapping[Key, Cell]) -> dict[str, Cell]:
    """By model, in all clusters."""
    newest = max((cell.at for cell in cells.values()), default=0.0)
    found: dict[str, Cell] = {}
    for (_, model), cell in cells.items():
        cell.fade(newest)
        found.setdefault(model, Cell(newest)).add(cell)
    return found


def cells_as_json(cells: Mapping[Key, Cell]) -> Json:
    """By model, then by cluster."""
    out: Json = {}
    for (cluster, model), cell in sorted(cells.items(), key=lambda item: (item[0][1], item[0][0])):
        out.setdefault(model, {})[str(cluster)] = cell.as_json()
    return out


def read_cells(data: Mapping[str, Any]) -> dict[Key, Cell]:
    """Raises: KeyError, TypeError, ValueError, AttributeError."""
    return {(int(cluster), model): Cell.read(cell) for model, cells in data.items() for cluster, cell in cells.items()}


def _bucket(latency_s: float) -> int:
    place = math.log(max(latency_s, SHORTEST_S) / SHORTEST_S) * BUCKETS_PER_FACTOR_E
    return min(MOST_BUCKETS - 1, int(place))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
