"""Embeddings and reranks by models elsewhere, at `{url}/embeddings` and `{url}/rerank`. The leaf that asks the same
upstream for chats asks for these: its leases, keys, quirks, time limits, errors and bills hold for them too."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.backends.openai import Facts, OpenAIBackend
from gateway.backends.refusals import read_error, refused_in_reply
from gateway.backends.replies import parse_reply
from gateway.backends.wire import Reader, Secrets, Wire
from gateway.chat import Answer, ChatRequest, Json
from gateway.chunks import Chunk
from gateway.embedding import (
    Embedded,
    EmbeddingRequest,
    Ranked,
    Relevance,
    RerankRequest,
    Vector,
    as_bytes,
    as_floats,
)
from gateway.errors import BackendError, BadBackendReply, InvalidRequest
from gateway.tokens import BYTES_PER_TOKEN
from gateway.trace import Trace

EMBEDDINGS_PATH, RERANK_PATH = "/embeddings", "/rerank"
NOT_SENT = ("messages", "stream", "stream_options")


@dataclass(frozen=True)
class UpstreamVectors:
    """An `Embedder` and a `Reranker`. `leaf`: what asks its upstream for chats, made for a request's trace."""

    name: str
    leaf: Callable[[Trace], OpenAIBackend]

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Embedded:
        texts = [one if isinstance(one, str) else " " * (BYTES_PER_TOKEN * len(one)) for one in request.inputs]
        answer, tokens = await self._ask(request, texts, _EmbeddingsWire(request), trace)
        vectors = [_cut(vector, request.dimensions, self.name) for vector in answer.body["vectors"]]
        return Embedded(vectors, self.name, tokens)

    async def rerank(self, request: RerankRequest, trace: Trace) -> Ranked:
        texts = [request.query, *request.documents]
        answer, tokens = await self._ask(request, texts, _RerankWire(request), trace)
        results = sorted(answer.body["results"], key=lambda found: -found.score)
        return Ranked(results[: request.top_n], self.name, tokens)

    async def _ask(
        self, request: EmbeddingRequest | RerankRequest, texts: Sequence[str], wire: Wire, trace: Trace
    ) -> tuple[Answer, int]:
        """What the wire read, and the tokens that it took. `texts`: what is counted where the upstream does not."""
        leaf = self.leaf(trace)
        asking = replace(leaf, wire=wire, counter=None, look=lambda: _of_vectors(leaf.facts))
        chat = ChatRequest(
            body={**request.body, "messages": [{"role": "user", "content": text} for text in texts]},
            headers=request.headers,
            deadline=request.deadline,
            caps=request.caps,
            hops=request.hops,
        )
        try:
            answer = await asking.respond(chat, _discard, trace)
        except BackendError as error:
            if error.param == "messages":
                error.param = "input" if isinstance(request, EmbeddingRequest) else "documents"
            raise
        spend = trace.children[-1].spend
        return answer, spend.usage.input_tokens if spend is not None else 0


def _of_vectors(facts: Facts) -> Facts:
    """Never streamed, and not refused by models that do not chat."""
    return replace(facts, provider=replace(facts.provider, always_streams=False), chats=True)


async def _discard(chunk: Chunk) -> None:
    pass


class _VectorWire:
    def headers(self, request: ChatRequest) -> Mapping[str, str]:
        return {}

    def reader(self, name: str, secrets: Secrets) -> Reader:
        raise BadBackendReply(f"model '{name}': the upstream streams what cannot be streamed")


class _EmbeddingsWire(_VectorWire):
    """One request to OpenAI's `/embeddings`."""

    path = EMBEDDINGS_PATH

    def __init__(self, request: EmbeddingRequest) -> None:
        self._request = request

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        asked = {name: value for name, value in body.items() if name not in NOT_SENT}
        asked.setdefault("input", list(self._request.inputs))
        if self._request.dimensions is not None:
            asked["dimensions"] = self._request.dimensions
        return asked, ()

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        """`vectors`, one for each input, in place of choices."""
        said = _read(name, raw, secrets)
        data = said.get("data")
        places = len(self._request.inputs)
        vectors: list[Vector | None] = [None] * places
        for place, entry in enumerate(data if isinstance(data, list) else ()):
            index = entry.get("index", place) if isinstance(entry, dict) else None
            if isinstance(index, int) and 0 <= index < places:
                vectors[index] = _vector(entry.get("embedding"), as_sent=not self._request.wants_base64)
        if None in vectors:
            raise BadBackendReply(f"model '{name}': the upstream's reply does not have a vector for each input")
        return {"choices": [], "vectors": vectors, **_usage(said)}


class _RerankWire(_VectorWire):
    """One request to `/rerank`, as Cohere and Jina have it, and vLLM and llama.cpp after them."""

    path = RERANK_PATH

    def __init__(self, request: RerankRequest) -> None:
        self._request = request

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        asked = {name: value for name, value in body.items() if name not in (*NOT_SENT, "return_documents")}
        return {**asked, "query": self._request.query, "documents": list(self._request.documents)}, ()

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        """`results` in place of choices."""
        said = _read(name, raw, secrets)
        listed = said.get("results", said.get("data"))
        results = [self._relevance(name, entry) for entry in listed] if isinstance(listed, list) else []
        if not results:
            raise BadBackendReply(f"model '{name}': the upstream's reply is not a ranking")
        return {"choices": [], "results": results, **_usage(said)}

    def _relevance(self, name: str, entry: object) -> Relevance:
        if isinstance(entry, dict):
            index, score = entry.get("index"), entry.get("relevance_score", entry.get("score"))
            if isinstance(index, int) and 0 <= index < len(self._request.documents) and isinstance(score, int | float):
                return Relevance(index, float(score))
        raise BadBackendReply(f"model '{name}': the upstream's reply is not a ranking")


def _read(name: str, raw: bytes, secrets: Secrets) -> Json:
    said = parse_reply(name, raw)
    if isinstance(said, list):  # Hugging Face's servers rank without anything around it
        said = {"results": said}
    error = read_error(said) if not (isinstance(said, dict) and said.keys() & {"data", "results"}) else None
    if error is not None:
        raise refused_in_reply(name, error, secrets)
    if not isinstance(said, dict):
        raise BadBackendReply(f"model '{name}': the upstream's reply is not an object")
    return said


def _usage(said: Json) -> Json:
    """As a chat has it; nothing where the upstream has not said."""
    usage, meta = said.get("usage"), said.get("meta")
    billed = meta.get("tokens") if isinstance(meta, dict) else None
    for told, key in ((usage, "prompt_tokens"), (usage, "total_tokens"), (billed, "input_tokens")):
        tokens = told.get(key) if isinstance(told, dict) else None
        if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0:
            rest = told if told is usage and isinstance(told, dict) else {}
            return {"usage": {**rest, "prompt_tokens": tokens, "completion_tokens": 0}}
    return {}


def _vector(said: object, *, as_sent: bool) -> Vector | None:
    """None for what is none. Numbers stay as they came where the client wants numbers."""
    try:
        if isinstance(said, str):
            packed = base64.b64decode(said, validate=True)
            return packed if packed and len(packed) % 4 == 0 else None
        if not isinstance(said, list) or not said:
            return None
        array("d", said)  # are they numbers, all of them?
        return said if as_sent else as_bytes(said)
    except (binascii.Error, TypeError, ValueError, OverflowError, struct.error):
        return None


def _cut(vector: Vector, dimensions: int | None, name: str) -> Vector:
    """For an upstream that does not know of `dimensions`: the first ones, made one long, as OpenAI does it."""
    length = len(vector) // 4 if isinstance(vector, bytes) else len(vector)
    if dimensions is None or length == dimensions:
        return vector
    if length < dimensions:
        raise InvalidRequest(f"the vectors of model '{name}' have {length} dimensions", param="dimensions")
    numbers = as_floats(vector)[:dimensions]
    norm = math.hypot(*numbers) or 1.0
    cut = [number / norm for number in numbers]
    return as_bytes(cut) if isinstance(vector, bytes) else cut
