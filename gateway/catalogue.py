"""What litellm's list of models knows of a model: its price, its context, what it takes. Read as a file, when first
asked: litellm itself is not imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.trace import Price

FILE_NAME = "model_prices_and_context_window_backup.json"
FIELDS = (
    "litellm_provider",
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "max_input_tokens",
    "max_output_tokens",
    "supports_vision",
    "supports_audio_input",
    "supports_pdf_input",
)
MODES = frozenset({"chat", "completion", "embedding", "responses"})
HOSTS: Mapping[str, str] = {  # of OpenAI-compatible APIs, to litellm's name for who runs them
    "api.anthropic.com": "anthropic",
    "api.cerebras.ai": "cerebras",
    "api.deepinfra.com": "deepinfra",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.moonshot.ai": "moonshot",
    "api.openai.com": "openai",
    "api.perplexity.ai": "perplexity",
    "api.sambanova.ai": "sambanova",
    "api.together.ai": "together_ai",
    "api.together.xyz": "together_ai",
    "api.x.ai": "xai",
    "generativelanguage.googleapis.com": "gemini",
    "openrouter.ai": "openrouter",
}


@dataclass(frozen=True)
class Known:
    """None where the list does not say. `context` is the most input tokens; `accepts` of text, image, audio, file."""

    price: Price | None
    context: int | None
    max_output_tokens: int | None
    accepts: frozenset[str]


def known(model: str) -> Known | None:
    """By litellm's full name, as in `anthropic/claude-sonnet-4-5`."""
    provider, _, name = model.partition("/")
    return known_for(provider, name)


def known_for(provider: str, model: str) -> Known | None:
    """By litellm's name of the provider and the provider's own name of the model. Similar names are not tried."""
    bare = re.sub(r"^(converse|invoke)/", "", model) if provider == "bedrock" else model
    for name in (f"{provider}/{model}", bare):
        entry = dict(zip(FIELDS, _entries().get(name, ()), strict=False))
        listed = str(entry.get("litellm_provider"))
        # Some providers are split up in the list, as in `bedrock_converse` and `vertex_ai-anthropic_models`.
        if listed == provider or listed.startswith((f"{provider}_", f"{provider}-")):
            return _read(entry)
    return None


def known_at(base_url: str, model: str) -> Known | None:
    """By the address of an OpenAI-compatible API, where it is one whose host is known."""
    provider = provider_at(base_url)
    return known_for(provider, model) if provider else None


def provider_at(base_url: str) -> str | None:
    return HOSTS.get((urlsplit(base_url).hostname or "").lower())


@cache
def _entries() -> Mapping[str, tuple[Any, ...]]:
    """What FIELDS say of the models of these modes, by litellm's name. (20 ms and 3 MB; the whole file takes 15.)"""
    spec = find_spec("litellm")  # of a submodule, this would import it
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / FILE_NAME
        if path.is_file():
            return {
                name: tuple(map(entry.get, FIELDS))
                for name, entry in orjson.loads(path.read_bytes()).items()
                if isinstance(entry, dict) and entry.get("mode") in MODES
            }
    return {}


def _read(entry: Mapping[str, Any]) -> Known:
    modalities = {"text"}
    for flag, modality in (("vision", "image"), ("audio_input", "audio"), ("pdf_input", "file")):
        if entry.get(f"supports_{flag}") is True:
            modalities.add(modality)
    return Known(
        price=_price(entry),
        context=_count(entry.get("max_input_tokens")),
        max_output_tokens=_count(entry.get("max_output_tokens")),
        accepts=frozenset(modalities),
    )


def _price(entry: Mapping[str, Any]) -> Price | None:
    input_usd, output_usd = _per_mtok(entry, "input_cost_per_token"), _per_mtok(entry, "output_cost_per_token")
    if input_usd is None or output_usd is None or not (input_usd or output_usd):
        return None  # 0 also stands for what is billed by the hour, or not known
    return Price(input_usd, output_usd, _per_mtok(entry, "cache_read_input_token_cost"))


def _per_mtok(entry: Mapping[str, Any], name: str) -> float | None:
    usd = entry.get(name)
    is_one = isinstance(usd, int | float) and not isinstance(usd, bool) and usd >= 0
    return round(float(usd) * 1e6, 6) if is_one and usd is not None else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
