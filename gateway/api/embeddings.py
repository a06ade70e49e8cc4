"""`POST /v1/embeddings`, OpenAI's."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from gateway.api.openai import hops_of, parse_json
from gateway.api.vectors import MAX_TEXTS, read_count, read_model
from gateway.chat import Json
from gateway.embedding import EmbeddingRequest, as_bytes, as_floats
from gateway.errors import InvalidRequest
from gateway.gateway import Gateway
from gateway.trace import RequestTrace

MOST_TOKEN_ID = 2**32 - 1
Input = str | tuple[int, ...]


class EmbeddingsDialect:
    def read(self, raw: bytes, caller: Mapping[str, Any]) -> EmbeddingRequest:
        body = parse_json(raw)
        read_model(body, caller)
        if body.get("encoding_format") not in (None, "float", "base64"):
            raise InvalidRequest("'encoding_format' must be float or base64", param="encoding_format")
        if not isinstance(body.get("user"), str | None):
            raise InvalidRequest("'user' must be a string", param="user")
        return EmbeddingRequest(
            inputs=read_inputs(body.get("input")),
            dimensions=read_count(body, "dimensions"),
            body=body,
            headers=caller["headers"],
            hops=hops_of(caller["headers"]),
        )

    async def answer(self, gateway: Gateway, request: EmbeddingRequest, trace: RequestTrace) -> Json:
        embedded = await gateway.embed(request, trace)
        data = []
        for index, vector in enumerate(embedded.vectors):
            written = base64.b64encode(as_bytes(vector)).decode() if request.wants_base64 else as_floats(vector)
            data.append({"object": "embedding", "index": index, "embedding": written})
        usage = {"prompt_tokens": embedded.input_tokens, "total_tokens": embedded.input_tokens}
        return {"object": "list", "data": data, "model": embedded.model, "usage": usage}


def read_inputs(given: object, param: str = "input") -> tuple[Input, ...]:
    """A text, a list of texts, a list of token ids, or a list of such lists. Raises: InvalidRequest."""
    if isinstance(given, str):
        return (_checked(given, param),)
    if not isinstance(given, list):
        raise InvalidRequest(f"'{param}' must be a string, or a list of strings or of token ids", param=param)
    if not given:
        raise InvalidRequest(f"'{param}' must not be empty", param=param)
    if isinstance(given[0], int):
        return (_checked(given, param),)
    if len(given) > MAX_TEXTS:
        raise InvalidRequest(f"'{param}' may hold {MAX_TEXTS} texts at most, and it has {len(given)}", param=param)
    kind = type(given[0])
    for place, one in enumerate(given):
        if type(one) is not kind:
            raise InvalidRequest("texts and lists of token ids cannot be mixed", param=f"{param}[{place}]")
    return tuple(_checked(one, f"{param}[{place}]") for place, one in enumerate(given))


def _checked(one: object, param: str) -> Input:
    if not isinstance(one, str | list):
        raise InvalidRequest("must be a string or a list of token ids", param=param)
    if not one:
        raise InvalidRequest("must not be empty", param=param)
    if isinstance(one, str):
        return one
    if not all(type(token) is int and 0 <= token <= MOST_TOKEN_ID for token in one):
        raise InvalidRequest("a list of token ids must hold integers of 0 or more", param=param)
    return tuple(one)
