"""Who counts the tokens of prompts."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.backends.counting import TiktokenCounter, counter_of
from gateway.engines import Lease
from gateway.tokens import Count
from gateway.transport.client import PooledClient
from tests.backends.test_completions import Json, serving


async def test_openais_encodings_count_prompts() -> None:
    counter = TiktokenCounter("m", "cl100k_base")
    assert await counter.count({"prompt": "hello world"}) == Count(2, estimated=False)
    assert await counter.count({"prompt": ["hello", "world!"], "suffix": "x"}) == Count(4, estimated=False)
    assert await counter.count({"prompt": [[1, 2], [3]]}) == Count(3, estimated=False)


def tokenize(body: Json) -> Any:
    text = str(body.get("content", body.get("prompt")))
    count = len(text.split()) + bool(body.get("add_special"))
    return {"tokens": [1] * count} if "content" in body else {"count": count, "tokens": [1] * count}


@pytest.mark.parametrize("kind", ["llama.cpp", "llama-server", "vllm"])
async def test_servers_count_prompts(kind: str) -> None:
    http = PooledClient()
    async with serving(tokenize) as server:
        counter = counter_of(kind, "m", http, lambda: Lease(server.url, None, "up"))
        assert counter is not None
        opens = 0 if kind == "vllm" else 1
        assert await counter.count({"prompt": "one two three"}) == Count(3 + opens, estimated=False)
        assert await counter.count({"prompt": ["one two", "three"]}) == Count(3 + 2 * opens, estimated=False)
        assert await counter.count({"prompt": [[5, 6], [7]]}) == Count(3, estimated=False)
        filled = await counter.count({"prompt": "one two", "suffix": "three"})
        assert filled == Count(3 if kind == "vllm" else 7, estimated=False)
        assert set(server.paths) == {"/tokenize"}
        many = await counter.count({"prompt": ["one two three four"] * 20})
        assert many.estimated and many.tokens == 100
    away = await counter.count({"prompt": "one two three four"})
    assert away.estimated
    await http.close()
