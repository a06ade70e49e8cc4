"""`POST /v1/rerank`, as Cohere and Jina have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.api.openai import hops_of, parse_json
from gateway.api.vectors import MAX_TEXTS, read_count, read_model
from gateway.chat import Json
from gateway.embedding import RerankRequest
from gateway.errors import InvalidRequest
from gateway.gateway import Gateway
from gateway.trace import RequestTrace


class RerankDialect:
    def read(self, raw: bytes, caller: Mapping[str, Any]) -> RerankRequest:
        body = parse_json(raw)
        read_model(body, caller)
        query = body.get("query")
        if not isinstance(query, str) or not query:
            raise InvalidRequest("'query' must be a string that is not empty", param="query")
        if not isinstance(body.get("return_documents"), bool | None):
            raise InvalidRequest("'return_documents' must be a boolean", param="return_documents")
        return RerankRequest(
            query=query,
            documents=_documents(body.get("documents")),
            top_n=read_count(body, "top_n"),
            body=body,
            headers=caller["headers"],
            hops=hops_of(caller["headers"]),
        )

    async def answer(self, gateway: Gateway, request: RerankRequest, trace: RequestTrace) -> Json:
        ranked = await gateway.rerank(request, trace)
        results: list[Json] = []
        for found in ranked.results:
            result: Json = {"index": found.index, "relevance_score": found.score}
            if request.body.get("return_documents"):
                result["document"] = {"text": request.documents[found.index]}
            results.append(result)
        return {
            "id": f"rerank-{trace.id}",
            "object": "list",
            "model": ranked.model,
            "results": results,
            "usage": {"prompt_tokens": ranked.input_tokens, "total_tokens": ranked.input_tokens},
            "meta": {"tokens": {"input_tokens": ranked.input_tokens, "output_tokens": 0}},
        }


def _documents(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not given:
        raise InvalidRequest("'documents' must be a list of at least one text", param="documents")
    if len(given) > MAX_TEXTS:
        raise InvalidRequest(f"'documents' may hold {MAX_TEXTS} at most, and it has {len(given)}", param="documents")
    return tuple(_text(one, f"documents[{place}]") for place, one in enumerate(given))


def _text(document: object, param: str) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise InvalidRequest("a document must be a string, or an object with a string in 'text'", param=param)
    return text
