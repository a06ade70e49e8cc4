"""Ollama's API but for what asks models: what there is, and what is loaded.

Source: ollama `docs/api.md` and `server/routes.go`.
"""

from __future__ import annotations

import time
from hashlib import sha256

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway.api.body import read_body
from gateway.api.entrance import key_of
from gateway.api.model_facts import ModelFacts, facts_of, in_memory, known, listed
from gateway.api.ollama import model_of
from gateway.api.ollama_names import known_name, tagged
from gateway.api.ollama_reply import rfc3339
from gateway.api.openai import parse_json
from gateway.chat import Json
from gateway.errors import MethodNotAllowed
from gateway.live import Live
from gateway.runtime import Runtime

VERSION = "0.12.6"  # whose API this is; VS Code wants 0.6.4 at least, for `capabilities`
BANNER = "Ollama is running"  # what clients look for at the root, word for word
ARCHITECTURE = "onion"  # under which /api/show tells the context: clients look the key up by this name
NEVER = "2300-01-01T00:00:00Z"  # for models that stay loaded; later dates overflow in some clients


def ollama(live: Live, runtime: Runtime) -> APIRouter:
    router = APIRouter()
    reads = ["GET", "HEAD"]

    @router.api_route("/", methods=reads)
    async def root() -> Response:
        """Open to all: clients ask it without a key, and it tells nothing."""
        return Response(BANNER, media_type="text/plain; charset=utf-8")

    @router.api_route("/api/version", methods=reads)
    async def version() -> JSONResponse:
        return JSONResponse({"version": VERSION})

    @router.api_route("/api/tags", methods=reads)
    async def tags(request: Request) -> JSONResponse:
        with live.use(key_of(request.scope["gateway"])) as gateway:
            return JSONResponse({"models": [_entry(facts, live) for facts in listed(gateway, runtime)]})

    @router.get("/api/ps")
    async def ps(request: Request) -> JSONResponse:
        with live.use(key_of(request.scope["gateway"])) as gateway:
            loaded = in_memory(gateway, runtime)
        return JSONResponse({"models": [_running(facts, live) for facts in loaded]})

    @router.post("/api/show")
    async def show(request: Request) -> JSONResponse:
        body = parse_json(await read_body(request.scope, request.receive, live.body_limit_bytes))
        name = model_of({"model": body.get("model") or body.get("name")})
        with live.use(key_of(request.scope["gateway"])) as gateway:
            return JSONResponse(_shown(facts_of(gateway, runtime, known_name(gateway, name)), live))

    @router.post("/api/pull")
    async def pull(request: Request) -> Response:
        """What is there already has been pulled; what is not cannot be."""
        body = parse_json(await read_body(request.scope, request.receive, live.body_limit_bytes))
        name = model_of({"model": body.get("model") or body.get("name")})
        with live.use(key_of(request.scope["gateway"])) as gateway:
            if not known(gateway, known_name(gateway, name)):
                raise _managed_elsewhere("pull")
        return Response(b'{"status":"success"}\n', media_type="application/x-ndjson")

    @router.post("/api/create")
    @router.post("/api/copy")
    @router.post("/api/push")
    @router.delete("/api/delete")
    async def managed(request: Request) -> Response:
        raise _managed_elsewhere(request.url.path.rpartition("/")[2])

    return router


def _managed_elsewhere(verb: str) -> MethodNotAllowed:
    return MethodNotAllowed(
        f"cannot {verb} models here: they are managed by the server's models.yaml", headers={"allow": ""}
    )


def _entry(facts: ModelFacts, live: Live) -> Json:
    name = tagged(facts.name)
    return {
        "name": name,
        "model": name,
        "modified_at": rfc3339(facts.modified or live.loaded_at),
        "size": facts.size_bytes,
        "digest": sha256(name.encode()).hexdigest(),  # of the name: of the weights it would take minutes
        "details": _details(facts),
    }


def _running(facts: ModelFacts, live: Live) -> Json:
    """One that is in memory, with what it takes there; of a server that others run, what that says of its weights."""
    memory = facts.memory
    return {
        **_entry(facts, live),
        "size": memory.ram_bytes + memory.gpu_bytes or facts.size_bytes,
        "size_vram": memory.gpu_bytes,
        "expires_at": NEVER if facts.goes_in_s is None else rfc3339(time.time() + facts.goes_in_s),
        "context_length": facts.context or 0,
    }


def _details(facts: ModelFacts) -> Json:
    return {
        "parent_model": "",
        "format": facts.format,
        "family": "",
        "families": [],
        "parameter_size": facts.parameter_size,
        "quantization_level": facts.quantization,
    }


def _shown(facts: ModelFacts, live: Live) -> Json:
    info: Json = {"general.architecture": ARCHITECTURE, "general.basename": facts.name}
    if facts.context is not None:
        info[f"{ARCHITECTURE}.context_length"] = facts.context
    can = {
        "completion": facts.chats,
        "tools": facts.tools,
        "vision": "image" in facts.accepts,
        "embedding": not facts.chats,
    }
    return {
        "license": "",
        "modelfile": "",
        "parameters": f"num_ctx {facts.context}" if facts.context is not None else "",
        "template": "",
        "details": _details(facts),
        "model_info": info,
        "capabilities": [name for name, is_so in can.items() if is_so],
        "modified_at": rfc3339(facts.modified or live.loaded_at),
    }
