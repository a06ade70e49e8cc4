"""How alike a question and a fact have to be: more than everyday questions are to what is in the store."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.embedding.remembered import Embeddings
from gateway.shards import Kind, Shard, audiences_for
from gateway.shards.choose import Floors, relevance_of
from gateway.shards.proving.cases import controls
from gateway.shards.search.index import ShardIndex
from gateway.shards.store import ShardStore

UNRELATED_SHARE = 0.97  # of everyday questions, that find nothing which counts as relevant
LEAST, MOST = 0.55, 0.75
LOOKED_AT = 3  # of what a question finds
"""Measured with all-MiniLM-L6-v2 and 677 sentences of 28 articles: the floor comes to .63. Over it are 92 % of the
questions that the articles answer, 1.2 % of 244 trivia and web questions, and 0.1 % of 800 requests of other kinds."""


async def calibrate(store: ShardStore, index: ShardIndex, embeddings: Embeddings, tenant: str) -> Floors:
    """The floor for what this tenant's requests may be given. Raises: GatewayError."""
    questions = [str(one.messages[0]["content"]) for one in controls()]
    audiences = audiences_for(tenant, None)
    vectors = await embeddings.of_known(questions)
    found = [
        await index.find(audiences, words, vector, LOOKED_AT) for words, vector in zip(questions, vectors, strict=True)
    ]
    shards = await store.get_many(list({hit.shard for hits in found for hit in hits}))
    best = [
        max((of(shards[hit.shard], hit.cosine, words) for hit in hits if hit.shard in shards), default=0.0)
        for words, hits in zip(questions, found, strict=True)
    ]
    return Floors(fact=min(MOST, max(LEAST, quantile(best, UNRELATED_SHARE))))


def of(shard: Shard, cosine: float | None, question: str) -> float:
    if shard.kind is Kind.PROCESS:
        return 0.0
    return relevance_of(shard, cosine, question) or 0.0


def quantile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0
