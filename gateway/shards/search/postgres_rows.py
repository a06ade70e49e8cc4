"""The tables of shards on PostgreSQL, and search by words in its full-text index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import URL

from gateway.shards.search.rows import KeyRow, Unreadable
from gateway.shards.search.text_search import MOST_ROWS, MOST_TERMS, best_rows, by_length, is_audience
from gateway.shards.search.words import words_of
from gateway.store.postgres import SETTINGS

ANSWERS_WITHIN_S = 10
READING = f"-c default_transaction_read_only=on -c statement_timeout={ANSWERS_WITHIN_S}s"
# Of pgvector, where there is one: a graph is walked until enough keys of the audiences that ask are found.
SEARCHING = "-c hnsw.ef_search=100 -c hnsw.iterative_scan=relaxed_order"
# Not with EXISTS, for which the whole table is read each time.
MARK = "(SELECT '+'::bytea FROM shard_vectors v WHERE v.key = shard_keys.id AND v.embedding IS NOT NULL)"
WORDS = f"""
SELECT ARRAY(SELECT f.rowid FROM shard_fts f WHERE f.words @@ (%s::tsquery && asked.query) LIMIT {MOST_ROWS})
FROM (
  SELECT place, plainto_tsquery('english', word) AS query FROM unnest(%s::text[]) WITH ORDINALITY t(word, place)
) asked
WHERE numnode(asked.query) > 0 ORDER BY place
"""
"""The rows of some audiences that have each word. Both stand in one index: see the migration that made it."""


class PostgresRows:
    """A connection that is lost is made anew by the next that wants to read."""

    def __init__(self, url: URL, options: str = f"{READING} {SEARCHING}") -> None:
        """Raises: Unreadable."""
        self._url, self._options = url.set(drivername="postgresql").render_as_string(hide_password=False), options
        self._vector = "vector"
        self.connection = self._connect()

    def mark_vectors(self) -> None:
        """From now on vectors that follow are marks, too short for vectors: those stand in the table that pgvector
        searches."""
        self._vector = MARK

    def _connect(self) -> psycopg.Connection[Any]:
        known: dict[str, Any] = {name: value for name, value in SETTINGS.items() if name != "options"}
        try:
            return psycopg.connect(self._url, autocommit=True, options=self._options, **known)
        except psycopg.Error as exc:
            raise Unreadable(str(exc)) from exc

    def newest(self) -> int:
        return int(self.read("SELECT coalesce(max(revision), 0) FROM shards")[0][0])

    def version(self) -> object:
        return self.read("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")[0][0]

    def changed(self, after: int, limit: int) -> list[tuple[int, str]]:
        return self.read("SELECT revision, id FROM shards WHERE revision > %s ORDER BY revision LIMIT %s", after, limit)

    def still_there(self, keys: Sequence[int]) -> list[int]:
        return [key for (key,) in self.read("SELECT id FROM shard_keys WHERE id = ANY(%s)", list(keys))]

    def new_keys(self, after: int, limit: int) -> list[KeyRow]:
        query = f"SELECT id, shard, audience, {self._vector} FROM shard_keys WHERE id > %s ORDER BY id LIMIT %s"
        return self.read(query, after, limit)

    def vectors(self, keys: Sequence[int]) -> dict[int, bytes | None]:
        return dict(self.read(f"SELECT id, {self._vector} FROM shard_keys WHERE id = ANY(%s)", list(keys)))

    @contextmanager
    def moment(self) -> Iterator[None]:
        """`search` asks in one statement what has to be of one moment; what was deleted since is looked up."""
        yield

    def keys(self, keys: Sequence[int]) -> list[tuple[int, str, str]]:
        return self.read("SELECT id, shard, audience FROM shard_keys WHERE id = ANY(%s)", list(keys))

    def texts(self, keys: Sequence[int]) -> dict[int, str]:
        return dict(self.read("SELECT rowid, text FROM shard_fts WHERE rowid = ANY(%s)", list(keys)))

    def vectors_of(self, keys: Sequence[int], size_bytes: int) -> list[tuple[int, bytes]]:
        query = "SELECT id, vector FROM shard_keys WHERE id = ANY(%s) AND length(vector) = %s"
        return self.read(query, list(keys), size_bytes)

    def last_key(self) -> int:
        return int(self.read("SELECT coalesce(max(id), 0) FROM shard_keys")[0][0])

    def interrupt(self) -> None:
        self.connection.cancel_safe(timeout=1.0)

    def close(self) -> None:
        self.connection.close()

    def read(self, query: str, *values: object) -> list[Any]:
        with self._connected() as connection:
            return connection.execute(query.encode(), values or None).fetchall()

    def do(self, statement: str) -> None:
        with self._connected() as connection:
            connection.execute(statement.encode())

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        with self._connected() as connection, connection.transaction():
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        if self.connection.broken or self.connection.closed:
            self.connection = self._connect()
        try:
            yield self.connection
        except psycopg.Error as exc:
            raise Unreadable(str(exc)) from exc


class PostgresText:
    """Search by words. English, as PostgreSQL stems it; the ranking is the same as with SQLite, and made here."""

    def count_words(self, rows: PostgresRows) -> None:
        """It asks for what it needs."""

    def close(self) -> None:
        pass

    def find(
        self, rows: PostgresRows, audiences: Sequence[str], text: str, size: int, total: int, limit: int
    ) -> list[int]:
        """As `TextSearch.find`."""
        who = " | ".join(f"'@{audience}'" for audience in map(is_audience, audiences))
        words = words_of(text)[:MOST_TERMS]
        found = [np.array(one, np.int64) for (one,) in rows.read(WORDS, who, words) if one] if words else []
        if not found:
            return []
        best, scores = best_rows(found, size)
        lengths = "SELECT rowid, length(text) FROM shard_fts WHERE rowid = ANY(%s)"
        return by_length(dict(rows.read(lengths, best.tolist())), best, scores)[:limit]
