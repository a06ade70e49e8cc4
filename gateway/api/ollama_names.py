"""Names as Ollama has them: each with a tag, `latest` where there is no other."""

from __future__ import annotations

from gateway.embedding.minilm import NAMES
from gateway.gateway import Gateway

LATEST = ":latest"


def tagged(name: str) -> str:
    """As lists show it. (Open WebUI adds the tag to what has none, and then looks it up in the list.)"""
    return name if ":" in name else name + LATEST


def known_name(gateway: Gateway, name: str) -> str:
    """The model or policy that is meant; unchanged where there is none."""
    if name.endswith(LATEST) and name not in gateway.models and name not in gateway.policies:
        bare = name.removesuffix(LATEST)
        if bare in gateway.models or bare in gateway.policies or bare in NAMES:
            return bare
    return name
