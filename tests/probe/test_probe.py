"""What servers tell when asked, and what is said of those that do not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.pool import Pool
from gateway.probe import FoundModel, ProbeFailed, ProbeTimeout, base_of, probe, refresh
from gateway.probe.ollama import MAX_SHOWN
from gateway.trace import Price
from gateway.transport.client import PooledClient
from tests.conftest import Serve
from tests.engines.conftest import site
from tests.servers import Double, OllamaModel, listed, llama_server, lm_studio, ollama, plain, serving, vllm

TEXT, SEES = frozenset({"text"}), frozenset({"text", "image"})


@pytest.fixture
async def client() -> AsyncIterator[PooledClient]:
    client = PooledClient()
    yield client
    await client.close()


MODELS = (
    OllamaModel("llama3.2:latest", ("completion", "tools")),
    OllamaModel("gemma3:4b", ("completion", "vision"), parameters="num_ctx                        16384\nstop  x"),
    OllamaModel("qwen3:8b", ("completion", "tools", "thinking"), loaded_with=40960),
    OllamaModel("nomic-embed-text:latest", ("embedding",), made_for=2048, family="nomic-bert"),
    OllamaModel("gpt-oss:120b-cloud", ("completion",), remote=True),
)


async def test_ollama_tells_what_it_serves_not_what_the_model_was_made_for(client: PooledClient) -> None:
    async with serving(ollama(*MODELS)) as server:
        found = await probe(client, server.url)
    assert (found.kind, found.base_url, found.version, found.slots) == ("ollama", f"{server.url}/v1", "0.13.5", None)
    assert {model.id: model.context for model in found.models} == {
        "llama3.2:latest": 4096,
        "gemma3:4b": 16384,
        "qwen3:8b": 40960,
        "nomic-embed-text:latest": 2048,
        "gpt-oss:120b-cloud": 131072,
    }
    assert [model.accepts for model in found.models] == [TEXT, SEES, TEXT, TEXT, TEXT]
    assert [model.chats for model in found.models] == [True, True, True, False, True]
    assert [model.is_loaded for model in found.models] == [False, False, True, False, False]
    assert found.models[0].size_bytes == 2019393189 and found.models[4].size_bytes is None


async def test_an_older_ollama_tells_less(client: PooledClient) -> None:
    old = (OllamaModel("a", None), OllamaModel("b", None, family="bert"))
    async with serving(ollama(*old)) as server:
        found = await probe(client, server.url)
    assert [(model.accepts, model.chats) for model in found.models] == [(None, True), (None, False)]


async def test_of_many_models_only_some_are_asked_about(client: PooledClient) -> None:
    async with serving(ollama(*(OllamaModel(f"m{i}") for i in range(MAX_SHOWN + 20)))) as server:
        found = await probe(client, server.url, timeout_s=10)
        assert len(found.models) == MAX_SHOWN + 20 and server.seen.count("POST /api/show") == MAX_SHOWN
        assert found.models[-1].context == 4096 and found.models[-1].accepts is None
        server.seen.clear()
        one = await probe(client, server.url, kind="ollama", model="m7", timeout_s=10)
        assert server.seen.count("POST /api/show") == 1 and len(server.seen) == 4
        assert one.model("m7") == found.model("m7")


async def test_ollama_is_asked_again_with_one_question(client: PooledClient) -> None:
    models = [OllamaModel("a"), OllamaModel("b")]
    server = ollama(*models)
    async with serving(server):
        found = await probe(client, server.url)
        server.gets["/api/ps"] = {"models": [{"name": "a", "model": "a", "context_length": 32768}]}
        server.seen.clear()
        fresh = await refresh(client, found)
        assert server.seen == ["GET /api/ps"]
    assert [(model.context, model.is_loaded) for model in fresh.models] == [(32768, True), (4096, False)]


OLD_LIST: tuple[dict[str, Any], ...] = (
    {"id": "qwen2-vl", "type": "vlm", "state": "not-loaded", "max_context_length": 32768},
    {"id": "llama", "type": "llm", "state": "loaded", "max_context_length": 131072, "loaded_context_length": 8192},
    {"id": "nomic", "type": "embeddings", "state": "not-loaded", "max_context_length": 2048},
)
NEW_LIST: tuple[dict[str, Any], ...] = (
    {
        "type": "llm", "key": "gemma-3", "size_bytes": 241410208, "max_context_length": 32768,
        "loaded_instances": [{"id": "gemma-3", "config": {"context_length": 4096}}],
        "capabilities": {"vision": True, "trained_for_tool_use": False},
    },
    {"type": "embedding", "key": "nomic", "size_bytes": 1, "max_context_length": 2048, "loaded_instances": []},
)  # fmt: skip


async def test_lm_studio(client: PooledClient) -> None:
    async with serving(lm_studio(*OLD_LIST)) as server:
        found = await probe(client, f"{server.url}/v1/")
        assert found == await probe(client, server.url, kind="lm-studio") == await refresh(client, found)
    assert (found.kind, found.base_url) == ("lm-studio", f"{server.url}/v1")
    assert found.models == (
        FoundModel("qwen2-vl", 32768, SEES, None, True, None, False),
        FoundModel("llama", 8192, TEXT, None, True, None, True),
        FoundModel("nomic", 2048, TEXT, None, False, None, False),
    )


async def test_lm_studio_without_its_older_list(client: PooledClient) -> None:
    async with serving(lm_studio(*NEW_LIST, new=True)) as server:
        found = await probe(client, server.url, kind="lm-studio")
        assert found == await probe(client, server.url)
    assert found.models == (
        FoundModel("gemma-3", 4096, SEES, None, True, 241410208, True),
        FoundModel("nomic", 2048, TEXT, None, False, 1, False),
    )


async def test_llama_server(client: PooledClient) -> None:
    double = llama_server("qwen", slots=4, context=8192, vision=True)
    double.gets["/props"]["chat_template_caps"] = {"supports_tools": False}
    async with serving(double) as server:
        found = await probe(client, server.url)
        assert server.seen == ["GET /v1/models", "GET /props"]
        assert found == await probe(client, server.url, kind="llama-server")
        server.seen.clear()
        again = (await refresh(client, found)).models[0]
        assert (again.context, again.tools) == (8192, False), "what only /props told is kept"
        assert server.seen == ["GET /v1/models"]
    assert (found.kind, found.slots, found.version) == ("llama-server", 4, "b6711-e74c92e8")
    assert found.models == (FoundModel("qwen", 8192, SEES, False, True, 96576768, True),)


async def test_vllm(client: PooledClient) -> None:
    async with serving(vllm(context=32768)) as server:
        found = await probe(client, server.url)
        assert found == await probe(client, server.url, kind="vllm")
    assert (found.kind, found.version, found.slots) == ("vllm", "0.11.0", None)
    assert found.models == (FoundModel("Qwen/Qwen3-8B", 32768),)


async def test_any_other_server_is_openai(client: PooledClient) -> None:
    async with serving(plain("a", "b")) as server:
        found = await probe(client, server.url)
        assert len(server.seen) == 4
    assert (found.kind, [model.id for model in found.models]) == ("openai", ["a", "b"])
    assert found.models[0] == FoundModel("a")


LISTS: dict[str, tuple[Any, FoundModel]] = {
    "openrouter": (
        listed(
            {
                "id": "x/y",
                "context_length": 400000,
                "architecture": {"input_modalities": ["text", "image", "file"], "output_modalities": ["text"]},
                "pricing": {"prompt": "0.00000025", "completion": "0.000002", "input_cache_read": "0.000000025"},
                "top_provider": {"context_length": 400000},
            },
            {"id": "openrouter/auto", "context_length": 2000000, "pricing": {"prompt": "-1", "completion": "-1"}},
        ),
        FoundModel("x/y", 400000, frozenset({"text", "image", "file"}), price=Price(0.25, 2.0, 0.025)),
    ),
    "groq": (
        listed({"id": "off", "active": False}, {"id": "x", "context_window": 131072, "active": True}),
        FoundModel("x", 131072),
    ),
    "mistral": (
        listed(
            {
                "id": "x",
                "max_context_length": 131072,
                "capabilities": {"completion_chat": True, "vision": True, "function_calling": True},
            }
        ),
        FoundModel("x", 131072, SEES),
    ),
    "together": (
        [{"id": "x", "type": "chat", "context_length": 8192, "pricing": {"input": 0.18, "output": 0.59, "hourly": 0}}],
        FoundModel("x", 8192, price=Price(0.18, 0.59)),
    ),
    "deepseek": (listed({"id": "deepseek-chat"}), FoundModel("deepseek-chat")),
    "fireworks": (
        listed({"id": "x", "context_length": 4096, "supports_chat": True, "supports_image_input": False}),
        FoundModel("x", 4096, TEXT),
    ),
}


@pytest.mark.parametrize("kind", LISTS)
async def test_providers_lists(client: PooledClient, kind: str) -> None:
    said, first = LISTS[kind]
    async with serving(Double(gets={"/v1/models": said}, key="k")) as server:
        found = await probe(client, f"{server.url}/v1", "k", kind=kind)
    model = found.models[0]
    assert found.kind == kind
    assert (model.id, model.context, model.accepts, model.chats) == (first.id, first.context, first.accepts, True)
    assert (model.price is None) == (first.price is None)
    if first.price and model.price:
        assert model.price.input_usd_per_mtok == pytest.approx(first.price.input_usd_per_mtok)
        assert model.price.output_usd_per_mtok == pytest.approx(first.price.output_usd_per_mtok)
        assert model.price.cached_input_usd_per_mtok == pytest.approx(first.price.cached_input_usd_per_mtok)
    assert all(other.price is None for other in found.models[1:])


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "embedding"},
        {"type": "rerank"},
        {"capabilities": {"completion_chat": False}},
        {"architecture": {"output_modalities": ["image"]}},
        {"supports_chat": False},
    ],
)
async def test_models_that_do_not_chat(client: PooledClient, entry: dict[str, Any]) -> None:
    async with serving(Double(gets={"/v1/models": listed({"id": "x", **entry})})) as server:
        assert not (await probe(client, server.url, kind="openai")).models[0].chats


async def test_another_gateway(client: PooledClient, serve: Serve) -> None:
    told = {"id": "core", "gateway": {"kind": "model", "active": True, "accepts": ["text", "image"], "context": 8192}}
    off = {"id": "off", "gateway": {"kind": "model", "active": False}}
    async with serving(
        Double(
            gets={
                "/v1/models": listed({"id": "auto", "gateway": {"kind": "policy"}}, told, off, owner="onion-gateway"),
                "/api/version": {"version": "0.9"},
            }
        )
    ) as server:
        found = await probe(client, server.url)
    assert (found.kind, [model.id for model in found.models]) == ("onion-gateway", ["auto", "core"])
    assert (found.models[1].context, found.models[1].accepts) == (8192, SEES)


@pytest.mark.parametrize(
    ("url", "kind", "base"),
    [
        ("http://h:1", None, "http://h:1/v1"),
        ("http://h:1/", None, "http://h:1/v1"),
        ("http://h:1/v1", None, "http://h:1/v1"),
        ("http://h:1/v1/", "ollama", "http://h:1/v1"),
        ("http://h:1/api", None, "http://h:1/api/v1"),
        ("http://h:1", "openai", "http://h:1/v1"),
        ("https://api.perplexity.ai", None, "https://api.perplexity.ai"),
        ("https://openrouter.ai/api/v1", None, "https://openrouter.ai/api/v1"),
        ("https://api.openai.com", None, "https://api.openai.com/v1"),
        ("https://api.groq.com/", "groq", "https://api.groq.com/openai/v1"),
        ("https://r.openai.azure.com", "azure", "https://r.openai.azure.com/openai/v1"),
        ("https://r.openai.azure.com/openai/v1", None, "https://r.openai.azure.com/openai/v1"),
        ("http://proxy/groq", "groq", "http://proxy/groq"),
    ],
)
def test_addresses_with_and_without_v1(url: str, kind: str | None, base: str) -> None:
    assert base_of(url, kind) == base


# --- servers that are of no use


async def reason(client: PooledClient, double: Double, key: str | None = None, **options: Any) -> str:
    async with serving(double) as server:
        with pytest.raises(ProbeFailed) as caught:
            await probe(client, server.url, key, **options)
    assert "secret" not in caught.value.reason and str(server.port) not in caught.value.reason
    return caught.value.reason


async def test_a_wrong_key(client: PooledClient) -> None:
    assert await reason(client, plain("a", key="right"), "secret") == "refuses the key"
    assert await reason(client, plain("a", key="right")) == "wants a key"
    assert await reason(client, ollama(*MODELS[:1]).__class__(gets={"/v1/models": 403}), "secret") == "refuses the key"


@pytest.mark.parametrize("kind", [None, "ollama", "lm-studio", "llama-server", "vllm", "groq"])
async def test_something_else_answers_there(client: PooledClient, kind: str | None) -> None:
    page = web.Response(text="<!doctype html><html>router login</html>", content_type="text/html")
    for anything in (
        lambda body: web.Response(text=page.text, content_type="text/html"),
        lambda body: web.Response(body=b"\xff\x00garbage", content_type="application/json"),
        lambda body: web.Response(body=b"[" * 100_000, content_type="application/json"),
        lambda body: web.Response(body=b""),
        {"hello": "world"},
        {"data": "no list", "models": 7},
        500,
        404,
    ):
        said = await reason(client, Double(anything=anything), kind=kind)
        assert "models" in said, said


async def test_a_web_page_is_called_one(client: PooledClient) -> None:
    page = Double(anything=lambda body: web.Response(text=" <html>", content_type="text/html"))
    assert await reason(client, page) == "answers with a web page that is no list of models"


async def test_a_redirect_is_not_followed(client: PooledClient) -> None:
    away = Double(anything=lambda body: web.Response(status=301, headers={"location": "http://127.0.0.1:1/secret"}))
    assert await reason(client, away) == "redirects (HTTP 301): use the address that it points to"


async def test_a_huge_list_is_not_read(client: PooledClient) -> None:
    huge = Double(gets={"/v1/models": lambda body: web.Response(body=b" " * (9 << 20))})
    assert await reason(client, huge, timeout_s=10) == "answers with more than 8 MiB"


async def test_a_silent_server(client: PooledClient) -> None:
    started = time.monotonic()
    async with serving(Double(stall=True)) as server:
        with pytest.raises(ProbeTimeout, match=r"did not answer within 0\.2 s"):
            await probe(client, server.url, timeout_s=0.2)
    assert time.monotonic() - started < 2


async def test_nobody_there(client: PooledClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ProbeFailed, match="cannot be reached"):
            await probe(client, f"http://127.0.0.1:{taken.getsockname()[1]}")


async def test_a_server_that_does_not_speak_http(client: PooledClient) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ProbeFailed, match="does not speak HTTP"):
            await probe(client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


@pytest.mark.parametrize(
    "entry",
    [
        {"id": 7},
        {"id": ""},
        {"id": "x" * 300},
        {"id": "\x1b[2J"},
        {},
        {"id": "good", "context_length": "many", "architecture": 7, "pricing": {"prompt": "free", "completion": None}},
        {"id": "good", "context_length": True, "capabilities": [], "meta": "x", "gateway": [1]},
        {"id": "good", "context_length": 10**30, "architecture": {"input_modalities": [{}, "smell"]}, "type": {}},
    ],
)
async def test_odd_entries_do_no_harm(client: PooledClient, entry: dict[str, Any]) -> None:
    async with serving(Double(gets={"/v1/models": {"data": [entry, "text", None]}})) as server:
        found = await probe(client, server.url, kind="openai")
    assert found.models == ((FoundModel("good"),) if entry.get("id") == "good" else ())


@pytest.mark.parametrize("shown", [{}, [], {"capabilities": 7, "model_info": "x", "parameters": 4}, 404])
async def test_odd_words_of_ollama_do_no_harm(client: PooledClient, shown: Any) -> None:
    server = ollama(OllamaModel("a"))
    server.posts["/api/show"], server.gets["/api/ps"] = shown, {"models": [{"name": "a", "context_length": "x"}, 7]}
    async with serving(server):
        found = await probe(client, server.url)
    assert found.models == (FoundModel("a", 4096, None, None, True, 2019393189, True),)


@pytest.mark.model
async def test_the_real_llama_server(client: PooledClient, core_model_path: Path, tmp_path: Path) -> None:
    pool = Pool(site(tmp_path, client=client))
    engine = LlamaCppSettings("core", core_model_path, context=512, slots=2, threads=1)
    pool.keep([engine])
    await pool.start()
    try:
        async with pool.lease(engine) as lease:
            found = await probe(client, lease.url, lease.key)
            assert (found.kind, found.slots, found.base_url) == ("llama-server", 2, lease.url)
            model = found.models[0]
            assert (model.id, model.context, model.accepts, model.is_loaded) == ("core", 512, TEXT, True)
            assert (await refresh(client, found, lease.key)).model("core") is not None
            with pytest.raises(ProbeFailed, match="refuses the key"):
                await probe(client, lease.url, "wrong", kind="llama-server")
    finally:
        await pool.close()
