"""From an OpenAI request to litellm's arguments: what goes along, what is left out, what is refused.

litellm takes a request's fields, its own switches and credentials by the same keyword arguments, so that only fields
listed here may pass: a client must not set `api_base` or `mock_response`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from gateway.chat import Json
from gateway.past import behind_litellm
from gateway.providers import ANY, CHANGES_NOTHING, Provider

OPENAI_FIELDS = frozenset(
    "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens modalities n "
    "parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_retention reasoning_effort "
    "response_format safety_identifier seed service_tier stop store temperature tool_choice tools top_logprobs top_p "
    "user verbosity web_search_options".split()
)
VENDOR_FIELDS = frozenset({"cache_control", "context_management", "speed", "thinking"})  # where litellm lists them
ANY_VENDOR_FIELDS = frozenset({"safety_settings", "top_k"})  # litellm hands them on as they are
CARRIED = frozenset({"messages", "model", "stream", "stream_options"})
MEANT = frozenset({"function_call", "functions", "response_format", "stop", "tools"})
"""Without these, an answer is none to what was asked: where litellm cannot translate them, it says so, with a 400."""
ALIASES = {"max_completion_tokens": "max_tokens", "max_tokens": "max_completion_tokens"}
FILE_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)


@lru_cache(1024)
def behind(model: str) -> Provider:
    """What the provider of a model wants of a conversation; the rest is litellm's to know."""
    name, slash, _ = model.partition("/")
    return replace(ANY, name=name if slash else ANY.name, past=behind_litellm(model))


def call_arguments(body: Mapping[str, Any], supported: frozenset[str]) -> tuple[Json, tuple[str, ...]]:
    """Keyword arguments for litellm's `acompletion`, and the fields that were left out."""
    arguments: Json = {"messages": body["messages"]}
    if body.get("stream") and (body.get("n") or 1) == 1:
        arguments["stream_options"] = {"include_usage": True}
    dropped = []
    limit = body.get("max_completion_tokens")  # OpenAI's word now: where both are given it counts
    for name, value in body.items():
        if name in CARRIED or value is None:
            continue
        if name == "max_tokens" and limit is not None:
            dropped += [name] if value != limit else []
            continue
        is_known = name in supported and name in OPENAI_FIELDS | VENDOR_FIELDS
        if is_known or name in MEANT or name in ANY_VENDOR_FIELDS:
            arguments[name] = value
        elif name in ALIASES and ALIASES[name] in supported:
            arguments.setdefault(ALIASES[name], value)
        elif name not in CHANGES_NOTHING or value != CHANGES_NOTHING[name]:
            dropped.append(name)
    return arguments, tuple(dropped)


def refuse_addresses(messages: Sequence[Mapping[str, Any]]) -> None:
    """litellm fetches addresses for many providers; the gateway fetches none that a request names.

    Raises: ValueError, which says what to send instead.
    """
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping):
                _refuse_address(part)


def _refuse_address(part: Mapping[str, Any]) -> None:
    kind = part.get("type")
    inner = part.get(str(kind))
    fields = inner if isinstance(inner, Mapping) else {}
    if kind == "image_url":
        url = inner if isinstance(inner, str) else fields.get("url")
        if not _is_data_url(url):
            raise ValueError("the gateway fetches no addresses for this provider: send the image as a base64 data: URL")
    elif kind == "file":
        data, name = fields.get("file_data"), fields.get("file_id")
        if data is not None and not _is_data_url(data):
            raise ValueError("send a file's 'file_data' as a base64 data: URL")
        if name is not None and not (isinstance(name, str) and FILE_ID.fullmatch(name)):
            raise ValueError("'file_id' must be an id, not an address")
    elif kind == "input_audio" and not _is_base64(fields.get("data")):
        raise ValueError("send audio as base64 in 'data'")


def _is_data_url(value: object) -> bool:
    return isinstance(value, str) and DATA_URL.match(value) is not None


def _is_base64(value: object) -> bool:
    return isinstance(value, str) and ":" not in value[:100]
