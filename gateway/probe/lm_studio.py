"""LM Studio: one list of its own tells everything; the older one where the newer is not there yet.

To a path that it does not know it answers 200 with an error in it, so what it says is looked at first.
"""

from __future__ import annotations

from gateway.probe.asking import Ask, Json, first_tokens, inner, name_of, tokens
from gateway.probe.found import FoundModel, FoundServer, ProbeFailed

LISTS = ("/api/v0/models", "/api/v1/models")  # since 0.3.6, and since 0.4
CHATTING = ("llm", "vlm")


async def read(ask: Ask) -> FoundServer:
    """Raises: ProbeFailed."""
    for path in LISTS:
        said = await ask.get(path)
        if is_list(said):
            return server(ask, said)
    raise ProbeFailed("lists no models as LM Studio does")


def is_list(said: object) -> bool:
    entries = _entries(said)
    return any("state" in entry or "loaded_instances" in entry for entry in entries) or (
        isinstance(said, dict) and entries == [] and said.get("object") == "list" and "data" in said
    )


def server(ask: Ask, said: object) -> FoundServer:
    found = (_new(entry) if "loaded_instances" in entry else _old(entry) for entry in _entries(said))
    return FoundServer("lm-studio", ask.base, tuple(model for model in found if model is not None))


def _entries(said: object) -> list[Json]:
    listed = said.get("data", said.get("models")) if isinstance(said, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _old(entry: Json) -> FoundModel | None:
    id = name_of(entry.get("id"))
    if id is None:
        return None
    is_loaded = entry.get("state") == "loaded"
    sees = entry.get("type") == "vlm"
    return FoundModel(
        id,
        context=first_tokens(entry.get("loaded_context_length"), entry.get("max_context_length")),
        accepts=frozenset({"text", "image"} if sees else {"text"}),
        chats=entry.get("type") in CHATTING,
        is_loaded=is_loaded,
    )


def _new(entry: Json) -> FoundModel | None:
    id = name_of(entry.get("key"))
    if id is None:
        return None
    instances = entry["loaded_instances"] if isinstance(entry["loaded_instances"], list) else []
    served = [tokens(inner(instance, "config", "context_length")) for instance in instances]
    size = entry.get("size_bytes")
    return FoundModel(
        id,
        context=first_tokens(*served, entry.get("max_context_length")),
        accepts=frozenset({"text", "image"} if inner(entry, "capabilities", "vision") is True else {"text"}),
        chats=entry.get("type") in CHATTING,
        size_bytes=size if isinstance(size, int) and size > 0 else None,
        is_loaded=bool(instances),
    )
