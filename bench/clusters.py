"""Makes the clusters of requests that are shipped: `python -m bench.clusters PROMPTS.jsonl.gz … --out FILE`.

A line of input has a `prompt`, or `messages` as a chat request has them.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson

from gateway.capability import clusters
from gateway.capability.wording import wording_of
from gateway.chat import ChatRequest
from gateway.embedding import EmbeddingRequest, as_bytes
from gateway.embedding.minilm import MiniLM
from gateway.runtime import gateway_home
from gateway.trace import Trace

SEED = 20261122
BATCH = 64


def texts_of(path: Path, most: int, rng: random.Random) -> Sequence[str]:
    found = list(dict.fromkeys(_texts(path)))
    return rng.sample(found, most) if len(found) > most else found


def _texts(path: Path) -> Iterator[str]:
    with gzip.open(path) as lines:
        for line in lines:
            record = orjson.loads(line)
            messages = record.get("messages") or [{"role": "user", "content": record["prompt"]}]
            text = wording_of(ChatRequest({"messages": messages})).asked
            if text:
                yield text


async def vectors_of(texts: Sequence[str], home: Path) -> clusters.Floats:
    async def no_decoder() -> None:
        return None

    model, rows = MiniLM(home, no_decoder), []
    for start in range(0, len(texts), BATCH):
        embedded = await model.embed(EmbeddingRequest(tuple(texts[start : start + BATCH])), Trace("bench", "clusters"))
        rows += [np.frombuffer(as_bytes(vector), "<f4") for vector in embedded.vectors]
    model.close()
    return np.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=clusters.SHIPPED)
    parser.add_argument("--id", default="shipped-1")
    parser.add_argument("--most", type=int, default=1200, help="texts of each file, so that none outweighs the others")
    given = parser.parse_args()
    rng = random.Random(SEED)
    texts = [text for path in given.prompts for text in texts_of(path, given.most, rng)]
    vectors = asyncio.run(vectors_of(texts, gateway_home()))
    centroids = clusters.fit(vectors, seed=SEED)
    clusters.write(clusters.Clusters(given.id, centroids), given.out)
    sizes = np.bincount((vectors @ centroids.T).argmax(axis=1), minlength=len(centroids))
    print(f"{len(texts)} texts, {len(centroids)} clusters of {sizes.min()} to {sizes.max()}, in {given.out}")


if __name__ == "__main__":
    main()
