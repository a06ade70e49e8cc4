"""OpenAI's list of models, with what each provider adds to an entry; its fields do not clash, so one reader does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.probe.asking import Ask, Json, first_tokens, inner, name_of
from gateway.probe.found import FoundModel, FoundServer
from gateway.trace import Price

MODALITIES = {"text": "text", "image": "image", "audio": "audio", "file": "file", "vision": "image", "pdf": "file"}
NO_CHAT = frozenset(  # Together's words for what does not
    {"audio", "embedding", "embeddings", "image", "moderation", "rerank", "reranker", "transcribe", "tts", "video"}
)


async def read(ask: Ask, kind: str, listed: list[Json] | None = None) -> FoundServer:
    """Raises: ProbeFailed."""
    if listed is None:
        listed = await ask.listed()
    if listed is None:
        raise ask.no_list()
    return FoundServer(kind, ask.base, models_of(listed))


async def read_vllm(ask: Ask, listed: list[Json] | None = None) -> FoundServer:
    found = await read(ask, "vllm", listed)
    version = inner(await ask.get("/version"), "version")
    return replace(found, version=version if isinstance(version, str) else None)


async def refresh(ask: Ask, found: FoundServer) -> FoundServer:
    """The list once more. What only other questions told is kept."""
    fresh = await read(ask, found.kind)
    return replace(found, models=tuple(_merged(model, found.model(model.id)) for model in fresh.models))


def _merged(fresh: FoundModel, known: FoundModel | None) -> FoundModel:
    if known is None:
        return fresh
    return replace(
        fresh, context=fresh.context or known.context, accepts=fresh.accepts or known.accepts, tools=known.tools
    )


def models_of(listed: list[Json]) -> tuple[FoundModel, ...]:
    return tuple(model for entry in listed if (model := model_of(entry)) is not None)


def model_of(entry: Json) -> FoundModel | None:
    """One entry; None where it names no model, or one that is switched off."""
    id = name_of(entry.get("id"))
    if id is None or entry.get("active") is False or inner(entry, "gateway", "active") is False:
        return None
    return FoundModel(
        id,
        context=_context(entry),
        accepts=_accepts(entry),
        chats=_chats(entry),
        size_bytes=_size(entry),
        price=_price(entry),
    )


def _context(entry: Json) -> int | None:
    return first_tokens(
        entry.get("context_length"),  # OpenRouter, Together, Fireworks
        entry.get("context_window"),  # Groq
        entry.get("max_model_len"),  # vLLM
        entry.get("max_context_length"),  # Mistral
        inner(entry, "meta", "n_ctx"),  # llama-server; its n_ctx_train is not what it serves
        inner(entry, "gateway", "context"),
    )


def _accepts(entry: Json) -> frozenset[str] | None:
    told = inner(entry, "architecture", "input_modalities") or inner(entry, "gateway", "accepts")
    if isinstance(told, list):
        kinds = {MODALITIES[kind] for kind in told if isinstance(kind, str) and kind in MODALITIES}
        return frozenset(kinds) or None
    capabilities = entry.get("capabilities")
    if isinstance(capabilities, Mapping) and "completion_chat" in capabilities:  # Mistral
        return frozenset({"text", *(MODALITIES[kind] for kind in ("vision", "audio") if capabilities.get(kind))})
    if isinstance(entry.get("supports_image_input"), bool):  # Fireworks
        return frozenset({"text", "image"} if entry["supports_image_input"] else {"text"})
    return None


def _chats(entry: Json) -> bool:
    says = (inner(entry, "capabilities", "completion_chat"), entry.get("supports_chat"))
    if any(said is False for said in says):
        return False
    writes = inner(entry, "architecture", "output_modalities")
    if isinstance(writes, list) and "text" not in writes:
        return False
    kind = entry.get("type")
    return not (isinstance(kind, str) and kind in NO_CHAT)


def _size(entry: Json) -> int | None:
    size = inner(entry, "meta", "size")
    return size if isinstance(size, int) and size > 0 else None


def _price(entry: Json) -> Price | None:
    """Together's are dollars per million tokens, OpenRouter's dollars per token, as text; below 0: it depends."""
    pricing = entry.get("pricing")
    if not isinstance(pricing, Mapping):
        return None
    if "prompt" in pricing:
        names, scale = ("prompt", "completion", "input_cache_read"), 1e6
    else:
        names, scale = ("input", "output", "cached_input"), 1.0
    numbers = [_number(pricing.get(name)) for name in names]
    if numbers[0] is None or numbers[1] is None:
        return None
    cached = None if numbers[2] is None else numbers[2] * scale
    return Price(numbers[0] * scale, numbers[1] * scale, cached)


def _number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e6 else None
