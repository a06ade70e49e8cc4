"""Vectors of shards where PostgreSQL has pgvector: it searches them, and no gateway holds them in memory.

The table `shard_vectors` has a row for each key with a vector: triggers see to that, so it does not matter which
gateway writes, and whether there was pgvector then. Here the rows are given what pgvector searches by. That is good for
finding candidates; they are ranked by the vectors in `shard_keys`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import psycopg
from sqlalchemy import URL

from gateway.shards.search.postgres_rows import PostgresRows
from gateway.shards.search.registry import Registry
from gateway.shards.search.rows import Rows
from gateway.shards.search.vectors import Matrix, unit_rows

OLDEST = (0, 8)  # of pgvector: before, a filtered search in a graph might find nothing
MOST_DIMENSIONS = 4000  # that an index takes of `halfvec`: longer vectors are searched by their first numbers
EXACT_LIMIT = 10_000  # keys of an audience: 0.7 ms for each thousand of 384 numbers
RARE = 0.01  # of all keys: a graph would be walked for long until enough of such an audience are met
KEYS_A_TURN = 64  # one transaction: 0.1 s where they are added to a graph
PREPARING, INDEXING = 7_266_004, 7_266_005  # numbers of locks, beside those of `gateway.store.postgres`
WRITING = "-c lock_timeout=0 -c max_parallel_maintenance_workers=0 -c maintenance_work_mem=256MB"
"""A graph is made in the background, so it may wait. By one process: several want shared memory, and containers have
little."""

COLUMN = """
ALTER TABLE shard_vectors ADD COLUMN embedding halfvec;
ALTER TABLE shard_vectors ALTER COLUMN embedding SET STORAGE MAIN;
CREATE INDEX ix_shard_vectors_waiting ON shard_vectors (key) WHERE embedding IS NULL
"""
WAITING = f"""
SELECT v.key, k.vector FROM shard_vectors v JOIN shard_keys k ON k.id = v.key
WHERE v.embedding IS NULL ORDER BY v.key DESC LIMIT {KEYS_A_TURN} FOR UPDATE OF v SKIP LOCKED
"""
PLACE = """
UPDATE shard_vectors v SET embedding = new.numbers::halfvec
FROM unnest(%s::int[], %s::text[]) new(key, numbers) WHERE v.key = new.key
"""
# As the index has it, and in a way that no index has.
FIND = "SELECT key FROM shard_vectors WHERE dimensions = {dimensions} AND audience = ANY(%s) ORDER BY "
APPROXIMATELY = FIND + "embedding::halfvec({numbers}) <#> %s::halfvec({numbers}) LIMIT %s"
EXACTLY = FIND + "embedding <#> %s::halfvec LIMIT %s"


def text_of(row: Matrix) -> str:
    return orjson.dumps(row[:MOST_DIMENSIONS].astype(np.float16), option=orjson.OPT_SERIALIZE_NUMPY).decode()


class VectorTable:
    """Fills the table. Blocking, for one thread, with a connection of its own; gateways may do it at once."""

    def __init__(self, url: URL, exact_limit: int = EXACT_LIMIT) -> None:
        """Raises: Unreadable."""
        self._rows, self._exact_limit = PostgresRows(url, WRITING), exact_limit
        self._indexed: set[int] = set()  # numbers of dimensions
        self._growing: set[int] | None = None  # that may have come to want an index; None: any

    def lacks(self) -> str | None:
        """What is missing for pgvector to be used; None where the table is ready. Raises: Unreadable."""
        with self._rows.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [PREPARING])
            try:
                with connection.transaction():
                    return _prepared(connection)
            except psycopg.errors.InsufficientPrivilege as exc:
                return exc.diag.message_primary

    def searched_by(self, rows: Rows, registry: Callable[[], Registry | None]) -> PostgresVectors:
        return PostgresVectors(rows, registry, self._exact_limit)

    def fill(self, is_closing: Callable[[], bool]) -> None:
        """Until no key waits; then indexes are made for what has become large. Raises: Unreadable."""
        if self._growing is None:
            found = self._rows.read("SELECT DISTINCT dimensions FROM shard_vectors")
            self._growing = {dimensions for (dimensions,) in found}
        while not is_closing() and (placed := self._place()):
            self._growing |= placed - self._indexed
        for dimensions in sorted(self._growing):
            if is_closing():
                return
            if not self._is_large(dimensions):
                self._growing.discard(dimensions)
            elif self._make_index(dimensions):
                self._growing.discard(dimensions)
                self._indexed.add(dimensions)

    def _place(self) -> set[int]:
        """The newest keys that wait. Returns numbers of dimensions, none when none waited."""
        with self._rows.transaction() as connection:
            waiting = connection.execute(WAITING.encode()).fetchall()
            by_size: dict[int, list[tuple[int, bytes]]] = {}
            for key, vector in waiting:
                by_size.setdefault(len(vector), []).append((key, vector))
            for own in by_size.values():
                keys = np.array([key for key, _ in own])
                rows, good = unit_rows([vector for _, vector in own])
                texts = [text_of(row) for row in rows[good]]
                connection.execute(PLACE, [keys[good].tolist(), texts])
                connection.execute("DELETE FROM shard_vectors WHERE key = ANY(%s)", [keys[~good].tolist()])
        return {size // 4 for size in by_size}

    def _is_large(self, dimensions: int) -> bool:
        limit = self._exact_limit
        rows = "SELECT FROM shard_vectors WHERE dimensions = %s LIMIT %s"
        return bool(self._rows.read(f"SELECT count(*) > %s FROM ({rows}) rows", limit, dimensions, limit + 1)[0][0])

    def _make_index(self, dimensions: int) -> bool:
        """False while another gateway makes one."""
        name, numbers = f"ix_shard_vectors_{dimensions}", f"halfvec({min(dimensions, MOST_DIMENSIONS)})"
        if not self._rows.read("SELECT pg_try_advisory_lock(%s)", INDEXING)[0][0]:
            return False
        try:
            query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
            if self._rows.read(query, name) != [(True,)]:
                self._rows.do(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # of which the making broke off
                self._rows.do(
                    f"CREATE INDEX CONCURRENTLY {name} ON shard_vectors"
                    f" USING hnsw ((embedding::{numbers}) halfvec_ip_ops) WHERE dimensions = {dimensions}"
                )
                self._rows.do("ANALYZE shard_vectors")
        finally:
            self._rows.read("SELECT pg_advisory_unlock(%s)", INDEXING)
        return True

    def interrupt(self) -> None:
        self._rows.interrupt()

    def close(self) -> None:
        self._rows.close()


def _prepared(connection: psycopg.Connection[Any]) -> str | None:
    """What is missing that cannot be made here."""
    query = "SELECT installed_version FROM pg_available_extensions WHERE name = 'vector'"
    found = connection.execute(query).fetchone()
    if found is None:
        return "the server does not have the extension vector"
    if found[0] is None:
        connection.execute("CREATE EXTENSION vector")
    query = "SELECT extversion, to_regtype('halfvec') IS NULL FROM pg_extension WHERE extname = 'vector'"
    [(version, is_elsewhere)] = connection.execute(query).fetchall()
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        return f"the extension vector is {version}, and has to be {'.'.join(map(str, OLDEST))} or newer"
    if is_elsewhere:
        return "the schema of the extension vector is not in the search_path"
    query = "SELECT 1 FROM pg_attribute WHERE attrelid = 'shard_vectors'::regclass AND attname = 'embedding'"
    if not connection.execute(query).fetchall():
        for step in COLUMN.split(";"):
            connection.execute(step.encode())
    return None


class PostgresVectors:
    """Beside `Vectors`: the nearest keys, asked of the database.

    Args:
        registry: gives what there is; None as long as not all has been read.
    """

    def __init__(self, rows: Rows, registry: Callable[[], Registry | None], exact_limit: int = EXACT_LIMIT) -> None:
        self._rows, self._registry, self._exact_limit = rows, registry, exact_limit

    def nearest(
        self, audiences: Sequence[str], vector: Matrix, count: int, also: Sequence[int]
    ) -> tuple[dict[int, float], list[int]]:
        """As `Vectors.nearest`: of all that is found the cosines have to be worked out. Raises: Unreadable."""
        large = self._large(audiences)
        small = [audience for audience in audiences if audience not in large]
        found = self._find(APPROXIMATELY, large, vector, count) if large else []
        if len(found) < count:  # the graph was left, or it has few yet
            small, found = list(audiences), []
        return {}, found + (self._find(EXACTLY, small, vector, count) if small else [])

    def _large(self, audiences: Sequence[str]) -> list[str]:
        registry = self._registry()
        if registry is None:
            return list(audiences)
        least = max(self._exact_limit, RARE * len(registry))
        return [audience for audience in audiences if registry.counts.get(audience, 0) > least]

    def _find(self, query: str, audiences: Sequence[str], vector: Matrix, count: int) -> list[int]:
        dimensions = len(vector)
        numbers = min(dimensions, MOST_DIMENSIONS)
        found = self._rows.read(
            query.format(dimensions=dimensions, numbers=numbers), list(audiences), text_of(vector), count
        )
        return [key for (key,) in found]
