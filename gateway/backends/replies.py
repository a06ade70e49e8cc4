"""What an OpenAI-compatible upstream says, read with suspicion: errors to our tree, events and completions checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.chat import Json
from gateway.errors import BackendError, BackendTimeout, BadBackendReply, UpstreamRefused

KEPT_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
MAX_MESSAGE_CHARS = 2000
CONTEXT_ERRORS = {"exceed_context_size_error"}  # llama.cpp's word for context_length_exceeded


def error_of(name: str, status: int, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...]) -> BackendError:
    """The error for a reply with a status other than 200.

    Args: `name` is the model's, for the message; `secrets` are cut out of what the upstream says.
    """
    kept = {
        k.lower(): v for k, v in headers.items() if k.lower() in KEPT_HEADERS or k.lower().startswith("x-ratelimit-")
    }
    if status in (401, 403):
        # Passed on as it is, it would make the client throw its own, valid key away.
        return BadBackendReply(f"model '{name}': the upstream refused the gateway's credentials (HTTP {status})")
    try:
        error = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        error = None
    if isinstance(error, str):
        error = {"message": error}
    message = f"the upstream answered HTTP {status} without a JSON error"
    if not isinstance(error, dict) and 400 <= status < 500 and b"<html" not in body[:1000].lower():
        error = {"message": message}
    if not isinstance(error, dict):
        return BadBackendReply(f"model '{name}': {message}", headers=kept)
    return refused(name, status if 400 <= status < 600 else 502, error, secrets, kept)


def refused(
    name: str, status: int, error: Mapping[str, Any], secrets: tuple[str, ...], headers: Mapping[str, str] | None = None
) -> BackendError:
    """An OpenAI error object from an upstream, kept but for secrets."""
    message = str(error.get("message") or "no message")
    for secret in secrets:
        if secret:
            message = message.replace(secret, "[hidden]")
    message = message[:MAX_MESSAGE_CHARS]
    kind, code, param = error.get("type"), error.get("code"), error.get("param")
    if kind in CONTEXT_ERRORS:
        kind, code, param = "invalid_request_error", "context_length_exceeded", "messages"
    return UpstreamRefused(
        f"model '{name}': {message}",
        status=status,
        type=kind if isinstance(kind, str) else ("server_error" if status >= 500 else None),
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
        headers=headers,
    )


def read_completion(name: str, body: bytes, secrets: tuple[str, ...]) -> Json:
    """A whole `chat.completion`. Raises: BadBackendReply, UpstreamRefused."""
    try:
        completion = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadBackendReply(f"model '{name}': the upstream's reply is not JSON") from None
    if isinstance(completion, dict) and isinstance(completion.get("error"), dict):
        raise refused(name, 502, completion["error"], secrets)
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not choices or not _are_choices(choices, "message"):
        raise BadBackendReply(f"model '{name}': the upstream's reply is not a chat completion")
    return dict(completion)


def read_event(name: str, data: bytes, secrets: tuple[str, ...]) -> Json:
    """One `chat.completion.chunk`. Raises: BadBackendReply, UpstreamRefused, BackendTimeout."""
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadBackendReply(f"model '{name}': the upstream's stream holds an event that is not JSON") from None
    if not isinstance(event, dict):
        raise BadBackendReply(f"model '{name}': the upstream's stream holds an event that is not an object")
    error = event.get("error")
    if error:
        error = error if isinstance(error, dict) else {"message": str(error)}
        code = error.get("code")
        if code in (408, 504):
            raise BackendTimeout(f"model '{name}': the upstream gave up mid-stream")
        raise refused(name, code if isinstance(code, int) and 400 <= code < 600 else 502, error, secrets)
    choices = event.get("choices")
    if choices is None:
        event["choices"] = []
    elif not _are_choices(choices, "delta"):
        raise BadBackendReply(f"model '{name}': the upstream's stream holds an event that is not a chat chunk")
    return event


def _are_choices(choices: object, content: str) -> bool:
    """Are these choices in OpenAI's shape, as far as anything here reads them?"""
    return isinstance(choices, list) and all(isinstance(c, dict) and _is_choice(c, content) for c in choices)


def _is_choice(choice: Mapping[str, Any], content: str) -> bool:
    message, logprobs = choice.get(content) or {}, choice.get("logprobs") or {}
    return (
        isinstance(message, dict)
        and isinstance(message.get("content") or "", str | list)
        and isinstance(logprobs, dict)
        and isinstance(logprobs.get("content") or [], list)
        and isinstance(choice.get("index") or 0, int)
        and isinstance(choice.get("finish_reason") or "", str)
        and _are_calls(message.get("tool_calls") or [])
    )


def _are_calls(calls: object) -> bool:
    return isinstance(calls, list) and all(
        isinstance(call, dict) and isinstance(call.get("function") or {}, dict) for call in calls
    )


def as_chunk(completion: Mapping[str, Any]) -> Json:
    """A whole completion as one stream chunk, for upstreams that do not stream though asked to."""
    choices = []
    for choice in completion["choices"]:
        delta = dict(choice.get("message") or {})
        if delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta["tool_calls"])]
        choices.append({**{k: v for k, v in choice.items() if k != "message"}, "delta": delta})
    rest = {name: value for name, value in completion.items() if name != "usage"}
    return {**rest, "object": "chat.completion.chunk", "choices": choices}
