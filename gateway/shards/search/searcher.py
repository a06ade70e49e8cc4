"""One search: by words and by vector, fused by reciprocal rank. Blocking, for one thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson

from gateway.shards.search.hits import Hit, fused
from gateway.shards.search.registry import Registry
from gateway.shards.search.text_search import TextSearch
from gateway.shards.search.vectors import Matrix, Vectors, unit_rows, unit_vector

KEYS = 32  # of each list: some more than `hits.DEPTH`, as a shard may have several

ROWS = (
    "SELECT json_group_array(json_array(k.id, k.shard, k.audience)) FROM json_each(?) j"
    " CROSS JOIN shard_keys k ON k.id = j.value"
)
TEXTS = (
    "SELECT json_group_array(json_array(f.rowid, f.text)) FROM json_each(?) j"
    " CROSS JOIN shard_fts f ON f.rowid = j.value"
)
BLOBS = (
    "SELECT coalesce(group_concat(k.id || ' ' || hex(k.vector)), '') FROM json_each(?) j"
    " CROSS JOIN shard_keys k ON k.id = j.value WHERE length(k.vector) = ?"
)
"""Not as JSON, which SQLite takes 2 ms for."""


class Searcher:
    """Keys that were deleted a moment ago, or are of another audience, are in no answer, whatever an index says: each
    is looked up in the table.

    Args:
        registry: gives what there is; None as long as not all has been read.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        vectors: Vectors,
        text: TextSearch,
        registry: Callable[[], Registry | None],
    ) -> None:
        self._connection, self._vectors, self._text, self._registry = connection, vectors, text, registry

    def find(self, audiences: Sequence[str], words: str, vector: bytes | None, limit: int) -> list[Hit]:
        """Raises: sqlite3.Error; ValueError for an audience that cannot be one."""
        if not audiences or limit < 1:
            return []
        self._connection.execute("BEGIN")  # all statements see one moment of the database, and locks are taken once
        try:
            return self._find(tuple(dict.fromkeys(audiences)), words, vector, limit)
        finally:
            self._connection.execute("COMMIT")

    def _find(self, audiences: Sequence[str], words: str, vector: bytes | None, limit: int) -> list[Hit]:
        by_text = self.by_text(audiences, words)
        cosines = self.cosines(audiences, unit_vector(vector), by_text)
        by_vector = sorted(cosines, key=lambda key: (-cosines[key], key))[:KEYS]
        keys = list(dict.fromkeys((*by_text, *by_vector)))
        rows = self._json(ROWS, orjson.dumps(keys).decode())
        shards = {key: shard for key, shard, audience in rows if audience in audiences}
        return fused(shards, by_text, by_vector, cosines, self._texts, limit)

    def _texts(self, keys: Sequence[int]) -> dict[int, str]:
        return dict(self._json(TEXTS, orjson.dumps(keys).decode()))

    def by_text(self, audiences: Sequence[str], words: str) -> list[int]:
        size, total = self._sizes(audiences)
        return self._text.find(self._connection, audiences, words, size, total, KEYS)

    def _sizes(self, audiences: Sequence[str]) -> tuple[int, int]:
        registry = self._registry()
        if registry is not None:
            return sum(registry.counts.get(audience, 0) for audience in audiences), len(registry)
        newest: int = self._connection.execute("SELECT coalesce(max(id), 0) FROM shard_keys").fetchone()[0]
        return newest, newest

    def cosines(self, audiences: Sequence[str], vector: Matrix | None, also: Sequence[int]) -> dict[int, float]:
        """Of the nearest keys, and of those of `also`."""
        if vector is None:
            return {}
        exact, rough = self._vectors.nearest(audiences, vector, KEYS, also)
        if rough:
            asked = [key for key in dict.fromkeys((*rough, *also)) if key not in exact]
            exact |= self._exact(vector, asked)
        return exact

    def _exact(self, vector: Matrix, keys: Sequence[int]) -> dict[int, float]:
        """Cosines by the stored vectors."""
        values = orjson.dumps(keys).decode(), vector.nbytes
        found = [pair.split() for pair in self._connection.execute(BLOBS, values).fetchone()[0].split(",") if pair]
        if not found:
            return {}
        rows, good = unit_rows([bytes.fromhex(blob) for _, blob in found])
        cosines = np.vecdot(rows, vector).tolist()
        return {int(key): cosine for (key, _), cosine, ok in zip(found, cosines, good, strict=True) if ok}

    def _json(self, sql: str, *values: object) -> Any:
        return orjson.loads(self._connection.execute(sql, values).fetchone()[0])
