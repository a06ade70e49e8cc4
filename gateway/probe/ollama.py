"""Ollama: its own API tells what a model takes and what it is served with.

It serves `num_ctx` tokens, not what the model was made for, and cuts longer prompts off without a word. What a loaded
model has stands in `/api/ps`. Before that, the model's own `num_ctx` counts; else a default of the server's, which it
does not tell: 4096 at least, more on large GPUs or by OLLAMA_CONTEXT_LENGTH.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from gateway.probe.asking import Ask, Json, inner, name_of, tokens
from gateway.probe.found import FoundModel, FoundServer, ProbeFailed
from gateway.tasks import together

DEFAULT_CONTEXT = 4096
MAX_SHOWN = 64  # models that are asked about one by one; of the others only the list is known
AT_ONCE = 8
NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)
OF_CAPABILITY = {"vision": "image", "audio": "audio"}
CHATTING = {"completion", "chat"}


async def read(ask: Ask, version: str | None = None) -> FoundServer:
    """Raises: ProbeFailed."""
    listed, loaded = await together(ask.get("/api/tags"), ask.get("/api/ps"))
    if version is None:
        said = inner(await ask.get("/api/version"), "version")
        version = said if isinstance(said, str) else None
    entries = _models(listed)
    if entries is None:
        raise ProbeFailed("lists no models as Ollama does")
    contexts = _contexts(loaded)
    wanted = [id for id in entries if ask.model is None or is_same(id, ask.model)][:MAX_SHOWN]
    shown = await _show(ask, wanted)
    models = (_model(id, entry, shown.get(id), contexts) for id, entry in entries.items())
    return FoundServer("ollama", ask.base, tuple(models), version)


async def refresh(ask: Ask, found: FoundServer) -> FoundServer:
    """Which models are loaded now, and with what context; that the others are still there is not asked."""
    loaded = await ask.get("/api/ps")
    if _models(loaded) is None:
        raise ProbeFailed("does not answer as Ollama does")
    contexts = _contexts(loaded)
    models = tuple(
        replace(model, is_loaded=model.id in contexts, context=contexts.get(model.id) or model.context)
        for model in found.models
    )
    return replace(found, models=models)


def is_same(id: str, wanted: str) -> bool:
    return id == wanted or id == f"{wanted}:latest"


async def _show(ask: Ask, ids: list[str]) -> dict[str, object]:
    """What it says of each model, side by side."""
    places = asyncio.Semaphore(AT_ONCE)

    async def show(id: str) -> object:
        async with places:
            return await ask.post("/api/show", {"model": id})

    return dict(zip(ids, await together(*map(show, ids)), strict=True))


def _models(said: object) -> dict[str, Json] | None:
    listed = inner(said, "models")
    if not isinstance(listed, list):
        return None
    found = {}
    for entry in listed:
        id = name_of(inner(entry, "model")) or name_of(inner(entry, "name"))
        if id is not None:
            found[id] = entry
    return found


def _contexts(loaded: object) -> dict[str, int | None]:
    return {id: tokens(entry.get("context_length")) for id, entry in (_models(loaded) or {}).items()}


def _model(id: str, entry: Json, shown: object, contexts: dict[str, int | None]) -> FoundModel:
    size = entry.get("size")
    capabilities = inner(shown, "capabilities")
    tools = None
    accepts, chats = None, re.search("bert|embed", str(inner(entry, "details", "family"))) is None
    if isinstance(capabilities, list):
        accepts = frozenset({"text", *(OF_CAPABILITY[word] for word in capabilities if word in OF_CAPABILITY)})
        tools = "tools" in capabilities
        chats = bool(CHATTING & {word for word in capabilities if isinstance(word, str)})
    is_elsewhere = bool(entry.get("remote_host"))  # a model of Ollama's cloud is served with all it has
    made_for = _made_for(shown)
    context = contexts.get(id) or _num_ctx(shown) or (made_for if is_elsewhere else DEFAULT_CONTEXT)
    return FoundModel(
        id,
        context=min(context, made_for) if context and made_for else context,
        accepts=accepts,
        tools=tools,
        chats=chats,
        size_bytes=size if isinstance(size, int) and size > 0 and not is_elsewhere else None,
        is_loaded=id in contexts,
    )


def _num_ctx(shown: object) -> int | None:
    parameters = inner(shown, "parameters")
    match = NUM_CTX.search(parameters) if isinstance(parameters, str) else None
    return tokens(int(match[1])) if match else None


def _made_for(shown: object) -> int | None:
    architecture = inner(shown, "model_info", "general.architecture")
    return tokens(inner(shown, "model_info", f"{architecture}.context_length"))
