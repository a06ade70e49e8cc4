"""One search: by words and by vector, fused by reciprocal rank. Blocking, for one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gateway.shards.search.hits import Hit, fused
from gateway.shards.search.registry import Registry
from gateway.shards.search.rows import Rows
from gateway.shards.search.text_search import TextSearch
from gateway.shards.search.vectors import Matrix, Vectors, unit_rows, unit_vector

if TYPE_CHECKING:
    from gateway.shards.search.postgres_rows import PostgresText
    from gateway.shards.search.vector_table import PostgresVectors

KEYS = 32  # of each list: some more than `hits.DEPTH`, as a shard may have several


class Searcher:
    """Keys that were deleted a moment ago, or are of another audience, are in no answer, whatever an index says: each
    is looked up in the table.

    Args:
        registry: gives what there is; None as long as not all has been read.
    """

    def __init__(
        self,
        rows: Rows,
        vectors: Vectors | PostgresVectors,
        text: TextSearch | PostgresText,
        registry: Callable[[], Registry | None],
    ) -> None:
        self._rows, self._vectors, self._text, self._registry = rows, vectors, text, registry

    def find(self, audiences: Sequence[str], words: str, vector: bytes | None, limit: int) -> list[Hit]:
        """Raises: Unreadable; ValueError for an audience that cannot be one."""
        if not audiences or limit < 1:
            return []
        with self._rows.moment():
            return self._find(tuple(dict.fromkeys(audiences)), words, vector, limit)

    def _find(self, audiences: Sequence[str], words: str, vector: bytes | None, limit: int) -> list[Hit]:
        by_text = self.by_text(audiences, words)
        cosines = self.cosines(audiences, unit_vector(vector), by_text)
        by_vector = sorted(cosines, key=lambda key: (-cosines[key], key))[:KEYS]
        keys = list(dict.fromkeys((*by_text, *by_vector)))
        rows = self._rows.keys(keys)
        shards = {key: shard for key, shard, audience in rows if audience in audiences}
        return fused(shards, by_text, by_vector, cosines, self._rows.texts, limit)

    def by_text(self, audiences: Sequence[str], words: str) -> list[int]:
        size, total = self._sizes(audiences)
        return self._text.find(self._rows, audiences, words, size, total, KEYS)  # type: ignore[arg-type]  # of one kind

    def _sizes(self, audiences: Sequence[str]) -> tuple[int, int]:
        registry = self._registry()
        if registry is not None:
            return sum(registry.counts.get(audience, 0) for audience in audiences), len(registry)
        newest = self._rows.last_key()
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
        found = self._rows.vectors_of(keys, vector.nbytes)
        if not found:
            return {}
        rows, good = unit_rows([blob for _, blob in found])
        cosines = np.vecdot(rows, vector).tolist()
        return {key: cosine for (key, _), cosine, ok in zip(found, cosines, good, strict=True) if ok}
