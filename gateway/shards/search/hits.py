"""What a search finds, and how two rankings become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

RANK_CONSTANT = 5
"""Of reciprocal rank fusion: score = sum of 1 / (constant + rank). The usual 60 did no better on questions about an
encyclopedia."""

DEPTH = 30  # shards of each list that are fused


@dataclass(frozen=True, slots=True)
class Hit:
    """A shard that was found.

    Args:
        score: of the fusion; comparable within one search only.
        cosine: the best over its keys that were looked at; None without a vector of them or of the question.
        bm25_rank, vector_rank: 1 is the best; None where it was not among the first of that list.
        text: of the key that it was found by.
    """

    shard: str
    score: float
    cosine: float | None
    bm25_rank: int | None
    vector_rank: int | None
    text: str


def fused(
    shards: Mapping[int, str],
    by_text: Sequence[int],
    by_vector: Sequence[int],
    cosines: Mapping[int, float],
    texts_of: Callable[[Sequence[int]], Mapping[int, str]],
    limit: int = 2 * DEPTH,
) -> list[Hit]:
    """Hits, best first.

    Args:
        shards: of the keys that are there; others of the lists are passed over.
        by_text, by_vector: keys, best first.
        texts_of: keys' texts; asked for those that hits were found by.
    """
    keys = [key for key in (*by_text, *by_vector) if key in shards]
    best: dict[str, float] = {}
    for key in keys:
        if key in cosines:
            best[shards[key]] = max(best.get(shards[key], -1.0), cosines[key])
    found_by = {shards[key]: key for key in reversed(keys)}
    bm25_ranks, vector_ranks = _ranks(shards, by_text), _ranks(shards, by_vector)
    scores = {shard: 1 / (RANK_CONSTANT + rank) for shard, rank in bm25_ranks.items()}
    for shard, rank in vector_ranks.items():
        scores[shard] = scores.get(shard, 0.0) + 1 / (RANK_CONSTANT + rank)
    order = sorted(scores, key=lambda shard: (-scores[shard], -best.get(shard, -1.0), shard))[:limit]
    texts = texts_of([found_by[shard] for shard in order])
    return [
        Hit(
            shard,
            scores[shard],
            best.get(shard),
            bm25_ranks.get(shard),
            vector_ranks.get(shard),
            texts[found_by[shard]],
        )
        for shard in order
    ]


def _ranks(shards: Mapping[int, str], keys: Sequence[int]) -> dict[str, int]:
    """Of shards, each by the best of its keys."""
    first = list(dict.fromkeys(shards[key] for key in keys if key in shards))[:DEPTH]
    return {shard: rank for rank, shard in enumerate(first, start=1)}
