"""`POST /v1/rerank`: the built-in model, models elsewhere, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.backends import litellm
from tests.asgi import Client
from tests.conftest import SHARED, Serve
from tests.vector_upstream import entry, vector_upstream

POLICY = "policy: default\nroutes: [{name: all, answer: {model: m1}}]\n"
FAKE = "models: {m1: {engine: scripted, replies: [{text: hi}]}}\n"
QUERY = "What is the capital of France?"
DOCUMENTS = ["Bread is baked in an oven.", {"text": "Paris is the capital of France."}, "Berlin is in Germany."]
TEXTS = [DOCUMENTS[0], "Paris is the capital of France.", DOCUMENTS[2]]
ASKED = {"model": "m1", "query": QUERY, "documents": DOCUMENTS}


@pytest.fixture
async def fake(serve: Serve, minilm_home: Path) -> Client:
    client = await serve(FAKE, default=POLICY)
    (client.runtime.home / "models").symlink_to(minilm_home / "models")
    return client


async def test_the_best_comes_first(fake: Client) -> None:
    reply = await fake.call("POST", "/v1/rerank", {**ASKED, "model": "auto"})
    said = reply.json
    assert reply.status == 200 and said["model"] == "all-MiniLM-L6-v2" and said["object"] == "list"
    assert [result["index"] for result in said["results"]] == [1, 2, 0]
    scores = [result["relevance_score"] for result in said["results"]]
    assert scores == sorted(scores, reverse=True) and 0 <= scores[-1] <= scores[0] <= 1
    assert "document" not in said["results"][0]
    assert said["usage"]["total_tokens"] == said["meta"]["tokens"]["input_tokens"] > 20
    assert reply.gateway["route"] == "all-MiniLM-L6-v2" and said["id"].endswith(reply.gateway["trace"])
    few = await fake.call("POST", "/rerank", {**ASKED, "model": "auto", "top_n": 1, "return_documents": True})
    assert few.json["results"] == [{**said["results"][0], "document": {"text": TEXTS[1]}}]
    assert len((await fake.call("POST", "/v1/rerank", {**ASKED, "model": "auto", "top_n": 9})).json["results"]) == 3


@SHARED
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": "default"}, "model"),
        ({"model": "m1"}, "model"),
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": ["a"]}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", 3]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0]"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": "3"}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
    ],
)
async def test_what_is_wrong_is_400_with_the_field_at_fault(shared: Serve, change: Any, param: str) -> None:
    fake = await shared(FAKE, default=POLICY)
    reply = await fake.call("POST", "/v1/rerank", {**ASKED, "model": "auto", **change})
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_an_unknown_model_is_404(fake: Client) -> None:
    reply = await fake.call("POST", "/v1/rerank", {**ASKED, "model": "rerank-v3.5"})
    assert (reply.status, reply.error["code"]) == (404, "model_not_found") and "minilm" in reply.error["message"]


RESULTS = [{"index": 0, "relevance_score": 0.1}, {"index": 2, "relevance_score": 0.9}]


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({"results": RESULTS, "usage": {"total_tokens": 31}}, 31),  # Jina, vLLM
        ({"results": RESULTS, "meta": {"tokens": {"input_tokens": 5}}}, 5),  # Cohere
        ({"data": RESULTS, "usage": {"total_tokens": 8}}, 8),  # Voyage
        ([{"index": 0, "score": 0.1}, {"index": 2, "score": 0.9}], None),  # Hugging Face
    ],
)
async def test_each_kind_of_upstream(serve: Serve, said: Any, tokens: int | None) -> None:
    async with vector_upstream(said) as up:
        client = await serve(entry(up, ", price: {input_usd_per_mtok: 1000}"), default=POLICY)
        reply = await client.call("POST", "/v1/rerank", {**ASKED, "top_n": 2, "return_documents": True, "extra": 1})
        assert up.paths == ["/v1/rerank"] and up.headers[0]["authorization"] == "Bearer k-upstream"
        assert up.bodies == [{"model": "up", "query": QUERY, "documents": TEXTS, "top_n": 2, "extra": 1}]
        assert [(r["index"], r["relevance_score"]) for r in reply.json["results"]] == [(2, 0.9), (0, 0.1)]
        assert reply.json["results"][0]["document"] == {"text": TEXTS[2]} and reply.json["model"] == "m1"
        used = reply.json["usage"]["total_tokens"]
        assert (used == tokens) if tokens else reply.gateway["usage"]["estimated"]
        assert reply.gateway["cost_usd"] == pytest.approx(used / 1000)


@pytest.mark.parametrize(
    "said",
    [b"no", 7, {}, {"results": []}, {"results": [7]}, {"results": [{"index": 9, "relevance_score": 1}]}],
)
async def test_what_is_no_ranking_is_502(serve: Serve, said: Any) -> None:
    async with vector_upstream(said) as up:
        client = await serve(entry(up), default=POLICY)
        reply = await client.call("POST", "/v1/rerank", ASKED)
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")


async def test_an_upstream_without_it_says_so(serve: Serve) -> None:
    async with vector_upstream({"error": {"message": "unknown path"}}, 404) as up:
        client = await serve(entry(up), default=POLICY)
        reply = await client.call("POST", "/v1/rerank", ASKED)
        assert (reply.status, reply.error["message"]) == (404, "model 'm1': unknown path")


@pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")
async def test_through_litellm(serve: Serve) -> None:
    async with vector_upstream({"id": "x", "results": RESULTS, "meta": {"billed_units": {"search_units": 1}}}) as up:
        at = f"model: cohere/rerank-v3.5, base_url: '{up.url}/rerank', api_key: k-upstream"
        client = await serve(f"models: {{m1: {{engine: litellm, {at}}}}}\n", default=POLICY)
        reply = await client.call("POST", "/v1/rerank", ASKED)
        assert [found["index"] for found in reply.json["results"]] == [2, 0], reply.body
        assert up.bodies[0]["documents"] == TEXTS and up.bodies[0]["model"] == "rerank-v3.5"
    anthropic = "models: {m1: {engine: litellm, model: anthropic/claude-sonnet-4-5, api_key: k}}\n"
    client = await serve(anthropic, default=POLICY)
    reply = await client.call("POST", "/v1/rerank", ASKED)
    assert reply.status == 400 and "its provider has no reranking" in reply.error["message"]
    await litellm.close()
