"""Text to vectors, and texts put in order of what they have to do with a question: the nouns, and who does it.

What OpenAI's `/v1/embeddings` and Cohere's `/v1/rerank` say is what other APIs are translated into.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.chat import Cap
from gateway.tokens import estimate
from gateway.trace import Trace

Vector = Sequence[float] | bytes
"""Numbers as they came in JSON, or float32 in little-endian order: each is passed on as it is where it can be."""


def as_floats(vector: Vector) -> list[float]:
    if isinstance(vector, bytes):
        return list(struct.unpack(f"<{len(vector) // 4}f", vector))
    return list(vector)


def as_bytes(vector: Vector) -> bytes:
    """Raises: OverflowError for a number that float32 does not hold."""
    return vector if isinstance(vector, bytes) else struct.pack(f"<{len(vector)}f", *vector)


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts, or the tokens of texts in cl100k_base.

    Args:
        dimensions: how long the vectors should be; None: as long as the model makes them.
        body: an OpenAI embeddings body: what a model elsewhere is sent, but for `model`, `input` and `dimensions`.
        headers: the client's headers, lower-case names, without credentials.
        deadline: `time.monotonic()` after which nobody waits any more.
        caps: money limits of this request.
        hops: gateways this request has already passed.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    caps: tuple[Cap, ...] = ()
    hops: int = 0

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "")

    @property
    def estimated_tokens(self) -> int:
        return sum(estimate(one) if isinstance(one, str) else len(one) for one in self.inputs)

    @property
    def wants_base64(self) -> bool:
        return self.body.get("encoding_format") == "base64"


@dataclass(frozen=True)
class Embedded:
    """One vector for each input, in their order. `model` is the name of who made them, `input_tokens` what they had."""

    vectors: Sequence[Vector]
    model: str
    input_tokens: int


@dataclass(frozen=True)
class RerankRequest:
    """`documents`, and the question in whose light they are judged. `body`: Cohere's, or Jina's; the rest is as of
    `EmbeddingRequest`."""

    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    caps: tuple[Cap, ...] = ()
    hops: int = 0

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "")

    @property
    def estimated_tokens(self) -> int:
        return sum(map(estimate, self.documents)) + len(self.documents) * estimate(self.query)


@dataclass(frozen=True, slots=True)
class Relevance:
    """`score` of the document at `index`; more is better."""

    index: int
    score: float


@dataclass(frozen=True)
class Ranked:
    """The best first, at most `top_n`."""

    results: Sequence[Relevance]
    model: str
    input_tokens: int


class Embedder(Protocol):
    @property
    def name(self) -> str: ...

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Embedded:
        """Raises: InvalidRequest, BackendError."""


class Reranker(Protocol):
    @property
    def name(self) -> str: ...

    async def rerank(self, request: RerankRequest, trace: Trace) -> Ranked:
        """Raises: InvalidRequest, BackendError."""


class VectorModel(Embedder, Reranker, Protocol):
    """A model that does both, or says that it cannot."""
