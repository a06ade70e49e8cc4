"""llama.cpp's own server: OpenAI's list, and `/props` for what it serves at once."""

from __future__ import annotations

from dataclasses import replace

from gateway.probe.asking import Ask, Json, first_tokens, inner
from gateway.probe.found import FoundModel, FoundServer
from gateway.probe.listing import read as read_list


async def read(ask: Ask, listed: list[Json] | None = None) -> FoundServer:
    """Raises: ProbeFailed."""
    found = await read_list(ask, "llama-server", listed)
    props = await ask.get("/props")
    if not isinstance(props, dict):
        return found
    models = found.models
    if len(models) == 1:  # a server that swaps models says nothing here of any of them
        models = (_served(models[0], props),)
    slots, version = props.get("total_slots"), props.get("build_info")
    return replace(
        found,
        models=models,
        slots=slots if isinstance(slots, int) and 0 < slots <= 4096 else None,
        version=version if isinstance(version, str) else None,
    )


def _served(model: FoundModel, props: Json) -> FoundModel:
    modalities = props.get("modalities")
    accepts = model.accepts
    if isinstance(modalities, dict):
        seen = {"image"} if modalities.get("vision") else set()
        accepts = frozenset({"text", *seen, *({"audio"} if modalities.get("audio") else ())})
    context = first_tokens(inner(props, "default_generation_settings", "n_ctx"), model.context)
    tools = inner(props, "chat_template_caps", "supports_tools")
    return replace(
        model, context=context, accepts=accepts, tools=tools if isinstance(tools, bool) else None, is_loaded=True
    )
