"""How many tokens a text has, where nobody has counted them: an estimate, and marked as one by its users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

BYTES_PER_TOKEN = 4  # English prose and code; scripts with longer UTF-8 have about as many bytes to a token
TOKENS_PER_MESSAGE = 4
TOKENS_PER_MEDIA_PART = 600


def estimate(text: str) -> int:
    """Tokens of a text, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def estimate_request(body: Mapping[str, Any]) -> int:
    """Tokens that a chat request's messages and tools come to."""
    total = 3
    for message in body.get("messages") or ():
        total += TOKENS_PER_MESSAGE
        content = message.get("content")
        if isinstance(content, str):
            total += estimate(content)
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, Mapping) else None
                total += estimate(text) if isinstance(text, str) else TOKENS_PER_MEDIA_PART
        if message.get("tool_calls"):
            total += len(orjson.dumps(message["tool_calls"])) // BYTES_PER_TOKEN
    if body.get("tools"):
        total += len(orjson.dumps(body["tools"])) // BYTES_PER_TOKEN
    return total
