"""Shards on PostgreSQL, with vectors searched by pgvector and with vectors in memory: the table of docs/replicas.md.

    python -m bench.shared_shards postgresql://postgres@localhost/postgres 2000 20000 100000

The database `gateway_bench` of that server is made anew for each size. Each way is measured in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psycopg
from sqlalchemy import make_url

from bench.shards import CHUNK, Store, audience_at, percentile, resident_bytes
from gateway.shards import EVERYBODY, Scope, audience_of
from gateway.shards.search.index import ShardIndex
from gateway.shards.search.vector_table import VectorTable
from gateway.shards.search.vectors import unit_vector
from gateway.store.database import open_database

QUESTIONS, BEST = 200, 10
AUDIENCES = (audience_of(Scope.TENANT, "tenant 3", None), EVERYBODY)
SHARD = (
    "COPY shards (id, revision, audience, tenant, kind, state, writer, source, source_hash, lot, slot, created,"
    " updated, body) FROM STDIN"
)
NAMELESS = ("", "content", "live", "", "", "", "", "", 0, 0, "{}")


async def make(admin: str, url: str, store: Store) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS gateway_bench WITH (FORCE)")
        connection.execute("CREATE DATABASE gateway_bench")
    await (await open_database(Path(), url)).close()
    rng = np.random.default_rng(store.seed + 1)
    with psycopg.connect(url, autocommit=True) as connection:
        for start in range(0, store.size, CHUNK):
            numbers = range(start + 1, min(start + CHUNK, store.size) + 1)
            own = [(n, f"{n:032x}", audience_at(n)) for n in numbers]
            vectors, texts = store.vectors(rng, len(own)), store.texts(rng, len(own))
            copied: dict[str, list[tuple[Any, ...]]] = {
                SHARD: [(id, n, whose, *NAMELESS) for n, id, whose in own],
                "COPY shard_keys (id, shard, audience, vector) FROM STDIN": [
                    (*key, vector) for key, vector in zip(own, vectors, strict=True)
                ],
                "COPY shard_fts (rowid, who, text) FROM STDIN": [
                    (n, whose, text) for (n, _, whose), text in zip(own, texts, strict=True)
                ],
            }
            for sql, rows in copied.items():
                with connection.cursor().copy(sql) as copy:
                    for row in rows:
                        copy.write_row(row)
        connection.execute("ANALYZE")


async def measure(url: str, size: int, is_held: bool) -> dict[str, Any]:
    """Args: `is_held`: vectors in memory, as where there is no pgvector."""
    if is_held:
        VectorTable.lacks = lambda self: "it is measured without"  # type: ignore[method-assign]
    store = Store(size)
    rng = np.random.default_rng(store.seed + 2)
    questions = list(zip(store.texts(rng, QUESTIONS), store.vectors(rng, QUESTIONS), strict=True))
    database = await open_database(Path(), url)
    index = ShardIndex(database)
    before, start = resident_bytes(), time.perf_counter()
    await index.start()
    await index.refresh()
    load_s, resident = time.perf_counter() - start, resident_bytes() - before
    assert index.engine is not None and index.vectors == size
    searcher, found, times, whole = index.engine.searcher, [], [], []
    for words, vector in [*questions[:20], *questions]:
        start = time.perf_counter()
        cosines = searcher.cosines(AUDIENCES, unit_vector(vector), ())
        times.append((time.perf_counter() - start) * 1e3)
        found.append(sorted(cosines, key=lambda key: -cosines[key])[:BEST])
        start = time.perf_counter()
        await index.find(AUDIENCES, words, vector)
        whole.append((time.perf_counter() - start) * 1e3)
    await index.close()
    await database.close()
    best = exact(url, [vector for _, vector in questions])
    shares = [len(set(one) & set(other)) / BEST for one, other in zip(found[20:], best, strict=True)]
    return {
        "ready_s": round(load_s, 1),
        "resident_mb": round(resident / 1e6, 1),
        "recall_at_10": round(float(np.mean(shares)), 4),
        "vector_p50_ms": round(percentile(times[20:], 50), 2),
        "search_p50_ms": round(percentile(whole[20:], 50), 2),
    }


def exact(url: str, asked: list[bytes]) -> list[list[int]]:
    with psycopg.connect(url) as connection:
        query = "SELECT id, vector FROM shard_keys WHERE audience = ANY(%s)"
        rows = connection.execute(query, [list(AUDIENCES)]).fetchall()
    ids = np.array([id for id, _ in rows])
    matrix = np.frombuffer(b"".join(vector for _, vector in rows), "<f4").reshape(len(ids), -1)
    cosines = np.frombuffer(b"".join(asked), "<f4").reshape(len(asked), -1) @ matrix.T
    best: list[list[int]] = ids[np.argsort(-cosines, axis=1)[:, :BEST]].tolist()
    return best


def main(admin: str, *sizes: str) -> None:
    url = make_url(admin).set(database="gateway_bench").render_as_string(hide_password=False)
    for size in map(int, sizes):
        start = time.perf_counter()
        asyncio.run(make(admin, url, Store(size)))
        print(f"{size:,} shards, written in {time.perf_counter() - start:.0f} s", flush=True)
        for way in ("held", "pgvector first", "pgvector again"):
            command = [sys.executable, "-m", "bench.shared_shards", "--one", url, str(size), way]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"  {way:14} {told.splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        _, _, url, size, way = sys.argv
        print(orjson.dumps(asyncio.run(measure(url, int(size), way == "held"))).decode())
    else:
        main(*sys.argv[1:])
