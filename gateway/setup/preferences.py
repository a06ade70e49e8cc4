"""Which model to take from a provider's list, and providers that are reached through litellm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.config.model_specs import Modality

TEXT: tuple[Modality, ...] = ("text",)
IMAGES: tuple[Modality, ...] = ("text", "image")
NOT_FOR_CHAT = re.compile(
    r"embed|whisper|tts|transcri|speech|audio|realtime|image|imagen|dall-e|sora|veo|lyria|moderation|rerank|guard|ocr|"
    r"babbage|davinci|instruct-0914|search|deep-research|computer-use|robotics|codex|aqa",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Preference:
    """`models`: good ones of middle price, best first; the first is taken where the list cannot be read."""

    models: tuple[str, ...]
    accepts: tuple[Modality, ...] = TEXT


PREFERENCES = {
    "openai": Preference(("gpt-5-mini", "gpt-5.4-mini", "gpt-5", "gpt-4.1-mini", "gpt-4o-mini"), IMAGES),
    "anthropic": Preference(
        ("claude-sonnet-4-5", "claude-sonnet-4-6", "claude-sonnet-5", "claude-haiku-4-5", "claude-haiku-5-5"), IMAGES
    ),
    "gemini": Preference(("gemini-2.5-flash", "gemini-flash-latest", "gemini-2.5-pro", "gemini-pro-latest"), IMAGES),
    "openrouter": Preference(("openai/gpt-5-mini", "anthropic/claude-sonnet-4.5", "google/gemini-2.5-flash"), IMAGES),
    "xai": Preference(("grok-4.5", "grok-4.3", "grok-4")),
    "mistral": Preference(("mistral-medium-latest", "mistral-small-latest", "mistral-large-latest")),
    "deepseek": Preference(("deepseek-chat", "deepseek-v4-flash", "deepseek-flash")),
    "groq": Preference(("openai/gpt-oss-120b", "llama-3.3-70b-versatile", "openai/gpt-oss-20b")),
    "together": Preference(
        ("openai/gpt-oss-20b", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "Qwen/Qwen2.5-72B-Instruct-Turbo")
    ),
    "fireworks": Preference(("accounts/fireworks/models/gpt-oss-120b", "accounts/fireworks/models/deepseek-v4-pro")),
    "cerebras": Preference(("gpt-oss-120b", "llama-3.3-70b", "llama3.1-8b")),
    "perplexity": Preference(("sonar", "sonar-pro")),
    "cohere": Preference(("command-a-03-2025", "command-r-08-2024")),
}
"""By provider, in the order in which they are asked. Names as in litellm's cost map of 2026-11."""


@dataclass(frozen=True, slots=True)
class LitellmProvider:
    """One that needs a translation. `list_url`: where it lists its models; `key_header`: how it wants its key."""

    name: str
    variables: tuple[str, ...]
    list_url: str
    key_header: str = "authorization"
    headers: tuple[tuple[str, str], ...] = ()


LITELLM_PROVIDERS = (
    LitellmProvider(
        "anthropic",
        ("ANTHROPIC_API_KEY",),
        "https://api.anthropic.com/v1/models?limit=100",
        "x-api-key",
        (("anthropic-version", "2023-06-01"),),
    ),
    LitellmProvider(
        "gemini",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "https://generativelanguage.googleapis.com/v1beta/models?pageSize=200",
        "x-goog-api-key",
    ),
    LitellmProvider("cohere", ("COHERE_API_KEY", "CO_API_KEY"), "https://api.cohere.com/v1/models?page_size=100"),
)


def pick(ids: Sequence[str], preferred: Sequence[str]) -> str | None:
    """The best of a provider's list: a preferred one (or its dated edition), else the first that looks like chat."""
    for name in preferred:
        dated = re.compile(re.escape(name) + r"(-20\d{6}|-20\d\d-\d\d-\d\d)?$")
        found = [id for id in ids if dated.match(id)]
        if found:
            return min(found, key=len)
    return next((id for id in ids if not NOT_FOR_CHAT.search(id)), None)
