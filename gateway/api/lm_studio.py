"""LM Studio's own list of models, which JetBrains' AI Assistant and others read where they take us for LM Studio.

Source: LM Studio's documentation of its REST API, v0.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.api.entrance import key_of
from gateway.api.model_facts import ModelFacts, facts_of, listed
from gateway.chat import Json
from gateway.live import Live
from gateway.runtime import Runtime

PUBLISHER = "onion-gateway"


def lm_studio(live: Live, runtime: Runtime) -> APIRouter:
    router = APIRouter(prefix="/api/v0")

    @router.get("/models")
    async def models(request: Request) -> JSONResponse:
        with live.use(key_of(request.scope["gateway"])) as gateway:
            return JSONResponse({"object": "list", "data": [_entry(facts) for facts in listed(gateway, runtime)]})

    @router.get("/models/{name:path}")
    async def model(name: str, request: Request) -> JSONResponse:
        with live.use(key_of(request.scope["gateway"])) as gateway:
            return JSONResponse(_entry(facts_of(gateway, runtime, name)))

    return router


def _entry(facts: ModelFacts) -> Json:
    entry: Json = {
        "id": facts.name,
        "object": "model",
        "type": "vlm" if "image" in facts.accepts else "llm",
        "publisher": PUBLISHER,
        "arch": "",
        "compatibility_type": facts.format,
        "quantization": facts.quantization,
        "state": "loaded" if facts.is_loaded else "not-loaded",
    }
    if facts.tools:
        entry["capabilities"] = ["tool_use"]
    if facts.context is not None:
        entry["max_context_length"] = facts.context
        entry |= {"loaded_context_length": facts.context} if facts.is_loaded else {}
    return entry
