"""Errors as each API writes them: which envelope is meant is told by the path, so that errors before any dialect has
read the body (a wrong key, a body too large) come in it too."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from gateway.errors import GatewayError, ThreadNotFound

Envelope = Callable[[GatewayError], bytes]


def openai_error(error: GatewayError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`"""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return orjson.dumps({"error": fields})


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def anthropic_error(error: GatewayError) -> bytes:
    """`{"type": "error", "error": {"type", "message"}}`; the message names the field at fault."""
    kind = ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    message = error.message
    if error.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"  # Anthropic's words, which its clients look for
    elif error.param and error.param not in message:
        message = f"{error.param}: {message}"
    fields: dict[str, object] = {"type": kind, "message": message}
    if isinstance(error, ThreadNotFound):
        fields["details"] = {"error_code": error.code}  # at which Anthropic's SDKs send the whole conversation again
    return orjson.dumps({"type": "error", "error": fields})


def ollama_error(error: GatewayError) -> bytes:
    """`{"error": "message"}`"""
    return orjson.dumps({"error": error.message})


def envelope_of(path: str) -> Envelope:
    """Args: `path` as the door has tidied it."""
    if path.startswith("/v1/messages"):
        return anthropic_error
    if path.startswith("/api/"):
        return ollama_error
    return openai_error
