"""Ollama's embeddings: the same vectors as over OpenAI's API, under the names that Ollama's clients use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ollama
import pytest
from aiohttp import web

from tests.asgi import Client
from tests.conftest import Serve


class Vectors:
    """An upstream of OpenAI's `/embeddings`: the vector of a text is its length and its place."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [{"object": "embedding", "index": i, "embedding": [len(t), i]} for i, t in enumerate(texts)]
        usage = {"prompt_tokens": 5, "total_tokens": 5}
        return web.json_response({"object": "list", "data": data, "model": "up", "usage": usage})


@asynccontextmanager
async def vectors() -> AsyncIterator[Vectors]:
    upstream = Vectors()
    app = web.Application()
    app.router.add_post("/v1/embeddings", upstream.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield upstream
    finally:
        await runner.cleanup()


@pytest.fixture
async def upstream() -> AsyncIterator[Vectors]:
    async with vectors() as upstream:
        yield upstream


@pytest.fixture
async def client(serve: Serve, upstream: Vectors) -> Client:
    return await serve(f"models: {{embed: {{engine: openai, base_url: '{upstream.url}', model: up, api_key: k}}}}\n")


async def test_texts_become_vectors(client: Client, upstream: Vectors) -> None:
    body = {"model": "embed:latest", "input": ["one", "three"], "truncate": True, "keep_alive": "5m", "options": {}}
    reply = await client.call("POST", "/api/embed", body)
    said = reply.json
    assert reply.status == 200 and reply.headers["x-gateway-model"] == "embed"
    assert said["model"] == "embed:latest" and said["embeddings"] == [[3.0, 0.0], [5.0, 1.0]]
    assert said["prompt_eval_count"] == 5 and said["total_duration"] > 0
    assert said["gateway"]["model"] == "embed"
    assert ollama.EmbedResponse(**said).embeddings == [[3.0, 0.0], [5.0, 1.0]]
    assert upstream.bodies[0]["input"] == ["one", "three"]
    assert not upstream.bodies[0].keys() & {"truncate", "keep_alive", "options"}


async def test_one_text(client: Client) -> None:
    assert (await client.call("POST", "/api/embed", {"model": "embed", "input": "one"})).json["embeddings"] == [[3, 0]]
    old = await client.call("POST", "/api/embeddings", {"model": "embed", "prompt": "three"})
    assert old.json["embedding"] == [5, 0]
    assert ollama.EmbeddingsResponse(**old.json).embedding == [5, 0]


async def test_without_a_text_nobody_is_asked(client: Client, upstream: Vectors) -> None:
    nothing: tuple[Any, ...] = ("", [], None)
    for empty in nothing:
        reply = await client.call("POST", "/api/embed", {"model": "embed", "input": empty})
        assert reply.status == 200 and reply.json["embeddings"] == []
    assert (await client.call("POST", "/api/embeddings", {"model": "embed", "prompt": ""})).json["embedding"] == []
    assert upstream.bodies == []
    assert (await client.call("POST", "/api/embed", {"model": "nobody", "input": ""})).status == 404


@pytest.mark.parametrize(
    "path, body, at_fault",
    [
        ("/api/embed", {"input": "hi"}, "model"),
        ("/api/embed", {"model": "embed", "input": 3}, "input"),
        ("/api/embed", {"model": "embed", "input": [1, 2]}, "input[0]"),
        ("/api/embed", {"model": "embed", "input": ["a", ""]}, "input[1]"),
        ("/api/embed", {"model": "embed", "input": ["a"] * 2049}, "input"),
        ("/api/embeddings", {"model": "embed", "prompt": ["a"]}, "prompt"),
    ],
)
async def test_wrong_inputs_are_400_and_named(client: Client, path: str, body: Any, at_fault: str) -> None:
    reply = await client.call("POST", path, body)
    assert reply.status == 400 and reply.json["error"].startswith(f"{at_fault}: ")


async def test_errors_are_ollamas(client: Client) -> None:
    reply = await client.call("POST", "/api/embed", {"model": "nobody", "input": "hi"})
    assert reply.status == 404 and list(reply.json) == ["error"]
    assert (await client.call("GET", "/api/embed")).status == 405


async def test_the_built_in_model_is_shown_for_what_it_is(client: Client) -> None:
    for name in ("minilm", "minilm:latest"):
        shown = (await client.call("POST", "/api/show", {"model": name})).json
        assert shown["capabilities"] == ["embedding"]
        assert shown["model_info"]["onion.context_length"] == 256
