"""How fast shards are found: a store that is made up, of texts with Zipf's words and of vectors in clusters."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.shards import EVERYBODY, Scope, audience_of
from gateway.shards.search.index import ShardIndex
from gateway.shards.search.vectors import unit_vector
from gateway.store.database import open_database

DIMENSIONS = 384
VOCABULARY = 200_000
CLUSTERS = 2000
SPREAD = 0.7  # of a cluster's vectors
TENANTS = 100
SHARE_OF_TENANTS = 0.1  # of the shards; the others are everybody's
CHUNK = 10_000
WORDS = (6, 13)  # of a key's text
ASKED_WORDS = 8  # of a question, from the text of a key
TICK_S = 0.001
LIMIT = 30
IDLE_S = 1.0

Say = Callable[[str], None]


@dataclass
class Store:
    """What is drawn: the same for the same seed."""

    size: int
    seed: int = 7
    words: NDArray[np.object_] = field(init=False)
    cumulated: NDArray[np.float64] = field(init=False)
    centres: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        letters = [rng.choice(list("bcdfghklmnprstvz" if n % 2 else "aeiou"), VOCABULARY).tolist() for n in range(8)]
        self.words = np.array([f"{''.join(word)}{n % 97}" for n, word in enumerate(zip(*letters, strict=True))], object)
        share = 1 / np.arange(1, VOCABULARY + 1)
        self.cumulated = np.cumsum(share / share.sum())
        self.centres = rng.standard_normal((CLUSTERS, DIMENSIONS), np.float32)

    def texts(self, rng: np.random.Generator, count: int) -> list[str]:
        drawn = np.searchsorted(self.cumulated, rng.random((count, WORDS[1])))
        lengths = rng.integers(*WORDS, count)
        return [" ".join(self.words[row[:length]]) for row, length in zip(drawn, lengths, strict=True)]

    def vectors(self, rng: np.random.Generator, count: int) -> list[bytes]:
        rows = self.centres[rng.integers(0, CLUSTERS, count)]
        rows = rows + SPREAD * rng.standard_normal((count, DIMENSIONS), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return [row.tobytes() for row in rows.astype("<f4")]

    def write(self, path: Path) -> None:
        """One key a shard, straight into the tables."""
        rng = np.random.default_rng(self.seed + 1)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA synchronous=OFF")
        for start in range(0, self.size, CHUNK):
            count = min(CHUNK, self.size - start)
            numbers = range(start + 1, start + count + 1)
            ids = [f"{number:032x}" for number in numbers]
            whose = [audience_at(number) for number in numbers]
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO shards (id, revision, audience, tenant, kind, state, writer, source, source_hash, lot,"
                " slot, created, updated, body)"
                " VALUES (?, ?, ?, '', 'content', 'live', '', '', '', '', '', 0, 0, '{}')",
                zip(ids, numbers, whose, strict=True),
            )
            keys = zip(numbers, ids, whose, self.vectors(rng, count), strict=True)
            connection.executemany("INSERT INTO shard_keys (id, shard, audience, vector) VALUES (?, ?, ?, ?)", keys)
            texts = zip(numbers, whose, self.texts(rng, count), strict=True)
            connection.executemany("INSERT INTO shard_fts (rowid, who, text) VALUES (?, ?, ?)", texts)
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def questions(self, path: Path, count: int) -> list[tuple[str, bytes]]:
        """Words of a key that is there, and a vector near to no key in particular."""
        rng = np.random.default_rng(self.seed + 2)
        with sqlite3.connect(path) as connection:
            asked = [int(number) for number in rng.integers(1, self.size + 1, count)]
            texts = [
                connection.execute("SELECT text FROM shard_fts WHERE rowid = ?", (n,)).fetchone()[0] for n in asked
            ]
        connection.close()
        return [
            (" ".join(text.split()[:ASKED_WORDS]), vector)
            for text, vector in zip(texts, self.vectors(rng, count), strict=True)
        ]


def audience_at(number: int) -> str:
    if number % round(1 / SHARE_OF_TENANTS):
        return EVERYBODY
    return audience_of(Scope.TENANT, f"tenant {number // 10 % TENANTS}", None)


@dataclass
class Result:
    """Times in milliseconds."""

    size: int
    build_s: float = 0.0
    load_s: float = 0.0
    bytes_a_key: float = 0.0
    resident_a_key: float = 0.0
    lags: list[float] = field(default_factory=list)
    idle_lags: list[float] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)
    cpu_times: dict[str, list[float]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.size:,} shards: store written in {self.build_s:.1f} s, vectors in memory after {self.load_s:.2f} s,"
            f" {self.bytes_a_key:.0f} bytes a key ({self.resident_a_key:.0f} by resident size)"
        )
        for name, times in self.times.items():
            line = f"  {name:32} p50 {percentile(times, 50):7.2f} ms   p95 {percentile(times, 95):7.2f} ms"
            cpu = self.cpu_times.get(name)
            yield line + (f"   of CPU {percentile(cpu, 50):.2f} and {percentile(cpu, 95):.2f} ms" if cpu else "")
        for name, lags in (("while searching", self.lags), ("while idle", self.idle_lags)):
            line = f"p50 {percentile(lags, 50):7.2f} ms   p95 {percentile(lags, 95):7.2f} ms"
            yield f"  {'event loop late, ' + name:32} {line}   p99 {percentile(lags, 99):.2f} ms"


def percentile(times: Sequence[float], of_100: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[of_100 - 1]


def measure(sizes: Sequence[int], queries: int, say: Say) -> list[Result]:
    return [asyncio.run(_measure(Store(size), queries, say)) for size in sizes]


async def _measure(store: Store, queries: int, say: Say) -> Result:
    result = Result(store.size)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        database = await open_database(Path(folder))
        assert database.path is not None
        say(f"writing {store.size:,} shards")
        start = time.perf_counter()
        await asyncio.to_thread(store.write, database.path)
        result.build_s = time.perf_counter() - start
        questions = store.questions(database.path, queries)
        say("reading their vectors")
        index = ShardIndex(database)
        before, start = resident_bytes(), time.perf_counter()
        await index.start()
        try:
            await index.refresh()
            result.load_s = time.perf_counter() - start
            result.bytes_a_key = index.size_bytes / store.size
            result.resident_a_key = (resident_bytes() - before) / store.size
            say("searching")
            await _search(index, questions, result)
        finally:
            await index.close()
            await database.close()
    return result


async def _search(index: ShardIndex, questions: Sequence[tuple[str, bytes]], result: Result) -> None:
    audiences = (audience_of(Scope.TENANT, "tenant 3", None), EVERYBODY)
    for words, vector in questions[:20]:
        await index.find(audiences, words, vector)
    engine = index.engine
    assert engine is not None
    searcher = engine.searcher
    parts: dict[str, Callable[[str, bytes], object]] = {
        "off the loop": lambda words, vector: searcher.find(audiences, words, vector, LIMIT),
        "  its words": lambda words, vector: searcher.by_text(audiences, words),
        "  its vector": lambda words, vector: searcher.cosines(audiences, unit_vector(vector), ()),
    }
    for name, part in parts.items():
        timed = await asyncio.to_thread(_timed, part, questions)
        result.times[name], result.cpu_times[name] = timed
    await _ticking(result.idle_lags, asyncio.sleep(IDLE_S))
    await _ticking(result.lags, _find_all(index, audiences, questions, result))


async def _find_all(
    index: ShardIndex, audiences: Sequence[str], questions: Sequence[tuple[str, bytes]], result: Result
) -> None:
    own = result.times["in the event loop"] = []
    for words, vector in questions:
        start = time.perf_counter()
        await index.find(audiences, words, vector)
        own.append((time.perf_counter() - start) * 1e3)


def _timed(
    part: Callable[[str, bytes], object], questions: Sequence[tuple[str, bytes]]
) -> tuple[list[float], list[float]]:
    """By the clock and by the thread's own time."""
    walls, cpus = [], []
    for words, vector in questions:
        wall, cpu = time.perf_counter(), time.thread_time()
        part(words, vector)
        walls.append((time.perf_counter() - wall) * 1e3)
        cpus.append((time.thread_time() - cpu) * 1e3)
    return walls, cpus


async def _ticking(lags: list[float], work: Coroutine[Any, Any, None]) -> None:
    ticking = asyncio.create_task(_tick(lags))
    await work
    ticking.cancel()


async def _tick(lags: list[float]) -> None:
    while True:
        start = time.perf_counter()
        await asyncio.sleep(TICK_S)
        lags.append((time.perf_counter() - start - TICK_S) * 1e3)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def summary(results: Sequence[Result]) -> str:
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return "\n".join([*(line for result in results for line in result.lines()), f"load of the machine: {load}"])
