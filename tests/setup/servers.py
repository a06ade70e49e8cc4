"""An Ollama, providers and other servers that `gateway init` meets, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.providers import Provider
from gateway.setup.preferences import LitellmProvider

CHAT_MODELS = {"qwen3:4b": ["completion", "tools"], "llama3.2-vision:11b": ["completion", "vision"]}
MODELS = {**CHAT_MODELS, "nomic-embed-text:latest": ["embedding"]}
SIZES = {"qwen3:4b": 2_500_000_000, "llama3.2-vision:11b": 7_800_000_000, "nomic-embed-text:latest": 270_000_000}


@dataclass
class Asked:
    """What the servers were asked: paths, and the keys that came with them."""

    paths: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """The root of an application on a free port."""
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fake_ollama() -> AsyncIterator[str]:
    """Its base URL."""

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"version": "0.15.2"})

    async def tags(request: web.Request) -> web.Response:
        return web.json_response({"models": [_tag(name) for name in MODELS]})

    async def show(request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        facts = {"general.architecture": "qwen3", "qwen3.context_length": 40960}
        return web.json_response(
            {"capabilities": MODELS[name], "model_info": facts, "details": _tag(name)["details"], "parameters": ""}
        )

    async def running(request: web.Request) -> web.Response:
        return web.json_response({"models": []})

    async def models(request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "library"} for name in MODELS]}
        )

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        message = {"role": "assistant", "content": f"ollama's {body['model']} says hello"}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            }
        )

    async def root(request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    app = web.Application()
    app.router.add_get("/", root)
    app.router.add_get("/api/version", version)
    app.router.add_get("/api/tags", tags)
    app.router.add_post("/api/show", show)
    app.router.add_get("/api/ps", running)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    async with listening(app) as url:
        yield f"{url}/v1"


def _tag(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "size": SIZES[name],
        "details": {"family": "qwen3", "families": ["qwen3"], "parameter_size": "4.0B", "quantization_level": "Q4_K_M"},
    }


@asynccontextmanager
async def fake_providers(
    *, openai: list[str] | int, anthropic: list[str] | int
) -> AsyncIterator[tuple[Provider, LitellmProvider, Asked]]:
    """OpenAI and Anthropic: each lists these models to whoever has a key, or answers this status."""
    asked = Asked()

    def listing(given: list[str] | int) -> Any:
        async def answer(request: web.Request) -> web.Response:
            asked.paths.append(request.path)
            asked.keys.append(request.headers.get("authorization") or request.headers.get("x-api-key") or "")
            if isinstance(given, int):
                return web.json_response({"error": {"message": f"no: {asked.keys[-1]}"}}, status=given)
            return web.json_response({"object": "list", "data": [{"id": id, "type": "model"} for id in given]})

        return answer

    app = web.Application()
    app.router.add_get("/openai/v1/models", listing(openai))
    app.router.add_get("/anthropic/v1/models", listing(anthropic))
    async with listening(app) as url:
        yield (
            Provider("openai", f"{url}/openai/v1", "OPENAI_API_KEY"),
            LitellmProvider("anthropic", ("ANTHROPIC_API_KEY",), f"{url}/anthropic/v1/models", "x-api-key"),
            asked,
        )


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Takes connections and says nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        for writer in writers:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def fake_gateway(*, has_keys: bool = False) -> AsyncIterator[str]:
    """Another Onion Gateway, as far as it can be told from outside."""

    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": "0.1.0"})

    async def models(request: web.Request) -> web.Response:
        if has_keys:
            return web.json_response({"error": {"message": "an API key is needed"}}, status=401)
        return web.json_response({"object": "list", "data": [{"id": "auto", "owned_by": "onion-gateway"}]})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/v1/models", models)
    async with listening(app) as url:
        yield f"{url}/v1"
