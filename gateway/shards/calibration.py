"""How alike a question and a fact have to be: more than everyday questions are to what is in the store."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.shards import audiences_for
from gateway.shards.cases import controls
from gateway.shards.choose import Floors
from gateway.shards.embedded import Embeddings
from gateway.shards.index import ShardIndex

UNRELATED_SHARE = 0.97  # of everyday questions, that find nothing which counts as relevant
LEAST, MOST = 0.4, 0.6
"""Measured with all-MiniLM-L6-v2 and 677 sentences of 28 articles: everyday questions come to .49 (95 %) and .52
(99 %), questions that the articles answer to .43 (5 %), .58 (25 %) and .69 (50 %)."""


async def calibrate(index: ShardIndex, embeddings: Embeddings, tenant: str) -> Floors:
    """The floor for what this tenant's requests may be given. Raises: GatewayError."""
    questions = [str(one.messages[0]["content"]) for one in controls()]
    audiences = audiences_for(tenant, None)
    found = []
    for vector in await embeddings.of_known(questions):
        hits = await index.find(audiences, "", vector, 1)
        found.append(max((hit.cosine or 0.0 for hit in hits), default=0.0))
    return Floors(fact=min(MOST, max(LEAST, quantile(found, UNRELATED_SHARE))))


def quantile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0
