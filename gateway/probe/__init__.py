"""What answers at an address, and which models it has: asked of the server itself, never guessed from a port.

One kind of server per file; each says how to recognise it and how to read its model list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from gateway.probe import listing, llama_server, lm_studio, ollama
from gateway.probe.asking import Ask, Json
from gateway.probe.found import FoundModel, FoundServer, ProbeFailed, ProbeTimeout
from gateway.providers import ANY, KINDS, PROVIDERS, Provider, recognise
from gateway.tasks import together
from gateway.transport import HttpClient

__all__ = ["FoundModel", "FoundServer", "ProbeFailed", "ProbeTimeout", "base_of", "probe", "refresh"]

READERS: dict[str, Callable[[Ask], Awaitable[FoundServer]]] = {
    "ollama": ollama.read,
    "lm-studio": lm_studio.read,
    "llama-server": llama_server.read,
    "vllm": listing.read_vllm,
}


async def probe(
    client: HttpClient,
    base_url: str,
    key: str | None = None,
    *,
    kind: str | None = None,
    timeout_s: float = 2.0,
    model: str | None = None,
) -> FoundServer:
    """Ask what is there.

    Args:
        base_url: with or without `/v1`.
        kind: else it is found out.
        timeout_s: for all of it.
        model: the only one that is of interest; others may be left out or be known by name alone.
    Raises: ProbeFailed.
    """
    ask = Ask(client, base_of(base_url, kind), _provider(base_url, kind), key, model)
    return await _in_time(_probe(ask, kind), timeout_s)


async def refresh(
    client: HttpClient, found: FoundServer, key: str | None = None, *, timeout_s: float = 2.0, model: str | None = None
) -> FoundServer:
    """Ask a server that has been probed once more, with one question. Raises: ProbeFailed."""
    ask = Ask(client, found.base_url, _provider(found.base_url, found.kind), key, model)
    if found.kind == "ollama":
        return await _in_time(ollama.refresh(ask, found), timeout_s)
    if found.kind == "lm-studio":
        return await _in_time(lm_studio.read(ask), timeout_s)
    return await _in_time(listing.refresh(ask, found), timeout_s)


def base_of(base_url: str, kind: str | None = None) -> str:
    """Where `/chat/completions` hangs: `/v1` is added, or what a remote API has in its place."""
    base = base_url.rstrip("/")
    path, provider = urlsplit(base).path, recognise(base)
    if provider is not ANY:
        return base if path else base + urlsplit(provider.base_url).path
    is_remote = kind in PROVIDERS and kind != "openai"
    return base if is_remote or path.rpartition("/")[2] in ("v1", "openai") else f"{base}/v1"


def _provider(base_url: str, kind: str | None) -> Provider:
    named = KINDS.get(kind or "")
    return named if named is not None and kind != "openai" else recognise(base_url)


async def _in_time(asking: Awaitable[FoundServer], timeout_s: float) -> FoundServer:
    try:
        async with asyncio.timeout(timeout_s):
            return await asking
    except TimeoutError:
        raise ProbeTimeout(f"did not answer within {timeout_s:g} s") from None


async def _probe(ask: Ask, kind: str | None) -> FoundServer:
    if kind in READERS:
        return await READERS[kind](ask)
    known = kind or (ask.provider.name if ask.provider is not ANY else None)
    if known:
        return await listing.read(ask, known)
    listed = await ask.listed()
    owners = {str(entry.get("owned_by")) for entry in listed or ()}
    if "onion-gateway" in owners:
        return await listing.read(ask, "onion-gateway", listed)
    if "llamacpp" in owners:
        return await llama_server.read(ask, listed)
    if "vllm" in owners:
        return await listing.read_vllm(ask, listed)
    return await _local(ask, listed)


async def _local(ask: Ask, listed: list[Json] | None) -> FoundServer:
    """Ollama and LM Studio do not say in OpenAI's list who they are, but have one of their own."""
    version, *lists = await together(*map(ask.get, ("/api/version", *lm_studio.LISTS)))
    if isinstance(version, dict) and isinstance(version.get("version"), str):
        return await ollama.read(ask, version["version"])
    for models in filter(lm_studio.is_list, lists):
        return lm_studio.server(ask, models)
    if listed is None:
        raise ask.no_list()
    return await listing.read(ask, ANY.name, listed)
