"""`POST /api/embed`, and the older `POST /api/embeddings`, of one text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.api.ollama import model_of
from gateway.api.ollama_names import known_name
from gateway.api.openai import hops_of, parse_json
from gateway.api.vectors import MAX_TEXTS, read_count
from gateway.chat import Json
from gateway.embedding import EmbeddingRequest, as_floats
from gateway.errors import InvalidRequest
from gateway.gateway import Gateway
from gateway.trace import RequestTrace


class EmbedDialect:
    """With `is_old` `/api/embeddings`. What both say of loading and of longer texts changes nothing here."""

    def __init__(self, *, is_old: bool) -> None:
        self._is_old = is_old

    def read(self, raw: bytes, caller: Mapping[str, Any]) -> EmbeddingRequest:
        body = parse_json(raw)
        name = model_of(body)
        field = "prompt" if self._is_old else "input"
        texts = _texts(body.get(field), field, takes_many=not self._is_old)
        return EmbeddingRequest(
            inputs=texts,
            dimensions=None if self._is_old else read_count(body, "dimensions"),
            body={"model": name, "input": list(texts)},
            headers=caller["headers"],
            hops=hops_of(caller["headers"]),
        )

    async def answer(self, gateway: Gateway, request: EmbeddingRequest, trace: RequestTrace) -> Json:
        meant = replace(request, body={**request.body, "model": known_name(gateway, request.model)})
        vectors: list[list[float]] = []
        tokens = 0
        if meant.inputs:
            embedded = await gateway.embed(meant, trace)
            vectors, tokens = [as_floats(vector) for vector in embedded.vectors], embedded.input_tokens
        else:  # it is only to be loaded
            trace.answered_by = gateway.embedder(meant.model).name
        if self._is_old:
            return {"embedding": vectors[0] if vectors else []}
        return {
            "model": request.model,
            "embeddings": vectors,
            "total_duration": int((time.monotonic() - trace.started) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }


def _texts(given: object, field: str, *, takes_many: bool) -> tuple[str, ...]:
    """Raises: InvalidRequest."""
    if given is None or isinstance(given, str):
        return (given,) if given else ()
    if not takes_many or not isinstance(given, list):
        raise InvalidRequest(f"{field}: must be a string" + " or a list of strings" * takes_many, param=field)
    if len(given) > MAX_TEXTS:
        raise InvalidRequest(f"{field}: may hold {MAX_TEXTS} texts at most, and it has {len(given)}", param=field)
    for place, text in enumerate(given):
        if not isinstance(text, str) or not text:
            where = f"{field}[{place}]"
            raise InvalidRequest(f"{where}: must be a string with something in it", param=where)
    return tuple(given)
