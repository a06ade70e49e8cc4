"""Doubles of servers that others run, on real sockets: their lists, and their streams with what is odd in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

Json = dict[str, Any]
Say = Callable[[Json], "Reply"]


@dataclass(frozen=True)
class Reply:
    """`chunks`: of a stream, as objects or as raw bytes; `whole`: JSON; one of both."""

    chunks: tuple[Json | bytes, ...] = ()
    whole: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Double:
    """Args:
    gets, posts: JSON by path; a function gets the request's body; an int is a status.
    say: answers a chat.
    anything: what paths that it does not know answer: 404 where None.
    key, key_header: what it wants to see.
    stall: it never answers.
    """

    gets: dict[str, Any] = field(default_factory=dict)
    posts: dict[str, Any] = field(default_factory=dict)
    say: Say | None = None
    anything: Any = None
    key: str | None = None
    key_header: str = "authorization"
    stall: bool = False
    seen: list[str] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    port: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.seen.append(f"{request.method} {request.path_qs}")
        raw = await request.read()
        if self.stall:
            await asyncio.Event().wait()
        sent = {name.lower(): value for name, value in request.headers.items()}
        wanted = f"Bearer {self.key}" if self.key_header == "authorization" else self.key
        if self.key is not None and sent.get(self.key_header) != wanted:
            return web.json_response({"error": {"message": f"wrong key {sent.get(self.key_header)}"}}, status=401)
        if path.endswith("/chat/completions") and self.say is not None:
            self.bodies.append(orjson.loads(raw))
            self.headers.append(sent)
            return await self._chat(request, self.say(self.bodies[-1]))
        found = (self.gets if request.method == "GET" else self.posts).get(path, self.anything)
        if callable(found):
            found = found(orjson.loads(raw) if raw else {})
        if found is None or isinstance(found, int):
            return web.json_response({"error": "not found"}, status=found or 404)
        if isinstance(found, web.Response):
            return found
        return web.json_response(found)

    async def _chat(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        if not reply.chunks:
            return web.json_response(reply.whole, status=reply.status, headers=reply.headers)
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **reply.headers})
        await response.prepare(request)
        for chunk in reply.chunks:
            await response.write(chunk if isinstance(chunk, bytes) else b"data: " + orjson.dumps(chunk) + b"\n\n")
        return response


@asynccontextmanager
async def serving(double: Double, port: int = 0) -> AsyncIterator[Double]:
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{tail:.*}", double.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    double.port = runner.addresses[0][1]
    double.url = f"http://127.0.0.1:{double.port}"
    try:
        yield double
    finally:
        await runner.cleanup()


# --- what they say in a chat

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def chunk(delta: Any, finish: Any = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1763720000, "model": "up"}
    return {**head, "choices": [choice], **more}


def usage(**more: Any) -> Json:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": {**USAGE, **more}}


def whole(text: str | None = "Hello there", **more: Any) -> Json:
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": more.pop("finish_reason", "stop")}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [choice],
        "usage": USAGE,
        **more,
    }


def saying(*words: str, body: Json | None = None) -> Reply:
    """As most of them do it: whole, or word by word with the role in each piece, as Ollama has it."""
    words = words or ("Hello", " there")
    if body is not None and not body.get("stream"):
        return Reply(whole=whole("".join(words)))
    pieces = [chunk({"role": "assistant", "content": word}) for word in words]
    return Reply((*pieces, chunk({"role": "assistant", "content": ""}, "stop"), usage(), DONE))


def polite(body: Json) -> Reply:
    return saying(body=body)


# --- their lists


def listed(*entries: Json, owner: str = "system") -> Json:
    return {"object": "list", "data": [{"object": "model", "created": 1, "owned_by": owner, **e} for e in entries]}


@dataclass(frozen=True)
class OllamaModel:
    name: str
    capabilities: tuple[str, ...] | None = ("completion",)
    made_for: int = 131072
    parameters: str = 'stop                           "<|eot_id|>"'
    loaded_with: int | None = None
    size: int = 2019393189
    remote: bool = False
    family: str = "llama"


def ollama(*models: OllamaModel, say: Say = polite) -> Double:
    def tag(model: OllamaModel) -> Json:
        details = {"format": "gguf", "family": model.family, "families": [model.family], "parameter_size": "3.2B"}
        entry = {"name": model.name, "model": model.name, "size": model.size, "digest": "a80c4f17", "details": details}
        if model.remote:
            entry |= {"remote_model": model.name, "remote_host": "https://ollama.com:443", "size": 384}
        return entry

    def show(body: Json) -> Any:
        model = next((model for model in models if model.name == body["model"]), None)
        if model is None:
            return 404
        shown: Json = {
            "modelfile": "# …",
            "parameters": model.parameters,
            "template": "{{ .Prompt }}",
            "details": {"family": model.family},
            "model_info": {"general.architecture": model.family, f"{model.family}.context_length": model.made_for},
        }
        if model.capabilities is not None:
            shown["capabilities"] = list(model.capabilities)
        return shown

    def ps(body: Json) -> Json:
        loaded = [model for model in models if model.loaded_with]
        return {"models": [{**tag(m), "size_vram": 0, "context_length": m.loaded_with} for m in loaded]}

    return Double(
        gets={
            "/api/version": {"version": "0.13.5"},
            "/api/tags": {"models": [tag(model) for model in models]},
            "/api/ps": ps,
            "/v1/models": listed(*({"id": model.name} for model in models), owner="library"),
        },
        posts={"/api/show": show},
        say=say,
    )


def lm_studio(*entries: Json, say: Say = polite, new: bool = False) -> Double:
    """`new`: 0.4 without the older list. It answers 200 to what it does not know."""
    own = (
        {"/api/v1/models": {"models": list(entries)}}
        if new
        else {"/api/v0/models": {"object": "list", "data": list(entries)}}
    )
    ids = [entry.get("id", entry.get("key")) for entry in entries]
    return Double(
        gets={**own, "/v1/models": listed(*({"id": id} for id in ids), owner="organization_owner")},
        anything={"error": "Unexpected endpoint or method. Returning 200 anyway"},
        say=say,
    )


def llama_server(
    id: str = "qwen3-4b", *, slots: int = 2, context: int = 8192, vision: bool = False, say: Say = polite
) -> Double:
    meta = {
        "vocab_type": 2,
        "n_vocab": 49152,
        "n_ctx_train": 40960,
        "n_embd": 576,
        "n_params": 134515008,
        "size": 96576768,
    }
    return Double(
        gets={
            "/v1/models": {"models": [{"name": id}], **listed({"id": id, "meta": meta}, owner="llamacpp")},
            "/props": {
                "default_generation_settings": {"n_ctx": context, "params": {"temperature": 0.8}},
                "total_slots": slots,
                "modalities": {"vision": vision, "audio": False},
                "build_info": "b6711-e74c92e8",
            },
        },
        say=say,
    )


def vllm(id: str = "Qwen/Qwen3-8B", *, context: int = 32768, say: Say = polite) -> Double:
    entry = {"id": id, "root": id, "parent": None, "max_model_len": context, "permission": []}
    return Double(gets={"/v1/models": listed(entry, owner="vllm"), "/version": {"version": "0.11.0"}}, say=say)


def plain(*ids: str, say: Say = polite, **more: Any) -> Double:
    return Double(gets={"/v1/models": listed(*({"id": id} for id in ids), owner="me")}, say=say, **more)
