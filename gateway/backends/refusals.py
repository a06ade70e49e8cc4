"""How upstreams say no: each provider's error shape, read into one, and their words for a full context into OpenAI's.

Shapes: `{"error": {…}}` (OpenAI, with Azure's and OpenRouter's additions), `{"error": "text"}` (Ollama, LM Studio), the
error itself (Mistral, Cerebras, vLLM), `{"detail": …}` (FastAPI), and a list of one (Google).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.chat import Json
from gateway.errors import (
    STOPPING,
    AddressFault,
    BackendError,
    BackendTimeout,
    BadBackendReply,
    ChecksFailed,
    ContentFiltered,
    CostCapReached,
    LoopDetected,
    UpstreamRefused,
)

KEPT_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
MAX_MESSAGE_CHARS = 2000
MAX_DETAILS = 5
MAX_NESTING = 8  # of a message within a message
LONG_CHARS = 8  # of a secret that is none by chance
CONTEXT_WORDS = frozenset({"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"})
OF_A_MODEL = (BackendTimeout.code, BadBackendReply.code, ChecksFailed.code)
FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "moderation_blocked", "invalid_prompt"})
NO_MONEY = "insufficient_quota"  # OpenAI's word, with a 429 that no waiting helps against
FAULTS = {
    402: AddressFault.KEY,
    429: AddressFault.BUSY,
    502: AddressFault.BROKEN,
    503: AddressFault.UNAVAILABLE,
    504: AddressFault.BROKEN,
    529: AddressFault.UNAVAILABLE,  # Anthropic's overload
}
LASTING = (501, 505, 508)  # not implemented, not this HTTP, a loop
CONTEXT_STATUSES = (400, 413, 422)
CONTEXT_MESSAGE = re.compile(
    r"maximum context length (?:is|of|:)|model maximum context length"  # OpenAI, vLLM, DeepSeek, OpenRouter, Fireworks
    r"|exceeds? the (?:available )?context (?:size|length|window)"  # llama.cpp, Ollama, OpenAI
    r"|too large for model with \d+ maximum context length"  # Mistral
    r"|(?:greater|longer) than the (?:model'?s? )?(?:maximum )?(?:context|model) length"  # LM Studio, vLLM
    r"|loaded with context length of only \d+"  # LM Studio
    r"|exceeds? (?:the )?context limit|prompt is too long"  # Anthropic, Fireworks
    r"|maximum prompt length is \d+"  # xAI
    r"|`inputs` tokens \+ `max_new_tokens` must be"  # Together
    r"|tokens exceed the configured limit"  # Azure
    r"|exceeds the maximum number of tokens allowed"  # Google
    r"|current length is \d+ while limit is \d+",  # Cerebras
    re.IGNORECASE,
)


def error_of(
    name: str, status: int, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...]
) -> BackendError | LoopDetected:
    """The error for a reply with a status other than 200.

    Args: `name` is the model's, for the message; `secrets` are cut out of what the upstream says.
    """
    kept = {
        k.lower(): v for k, v in headers.items() if k.lower() in KEPT_HEADERS or k.lower().startswith("x-ratelimit-")
    }
    try:
        error = read_error(orjson.loads(body), sure=True)
    except orjson.JSONDecodeError:
        error = None
    if status in (401, 403) and not _is_moderation(error):
        return key_refused(name, f"HTTP {status}")
    message = f"the upstream answered HTTP {status} without a JSON error"
    if status == LoopDetected.status and error is not None:  # as the gateway that noticed has said it
        return LoopDetected(hidden(error["message"], secrets)[:MAX_MESSAGE_CHARS])
    if error is None and 400 <= status < 500 and b"<html" not in body[:1000].lower():
        error = {"message": message}
    found: BackendError
    if error is None:
        found = BadBackendReply(f"model '{name}': {message}", headers=kept)
    else:
        found = refused(name, status if 400 <= status < 600 else 502, error, secrets, kept)
    found.fault = _fault(status, error or {})
    return found


def _fault(status: int, error: Mapping[str, Any]) -> AddressFault | None:
    """Is the address to blame? Another gateway is not, where a model of its own fails it."""
    if status == 503 and error.get("message") == STOPPING:
        return AddressFault.STOPPING
    if error.get("code") in OF_A_MODEL or (status == 402 and error.get("code") == CostCapReached.code):
        return None
    has_no_money = status == 429 and NO_MONEY in (error.get("code"), error.get("type"))
    other = AddressFault.FAILED if status >= 500 and status not in LASTING else None
    return AddressFault.KEY if has_no_money else FAULTS.get(status, other)


def read_error(said: object, *, sure: bool = False) -> Json | None:
    """The error object in what an upstream said, with its message as text; None where there is none.

    Args: `sure`: it is an error, if it is anything.
    """
    if isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, dict):
        return None
    found = said.get("error")
    if not found:
        is_one = sure or str(said.get("object")).lower() == "error" or not said.keys() & {"choices", "usage", "id"}
        if not (is_one and ("message" in said or "detail" in said)):
            return None
        found = said
    error: Json = dict(found) if isinstance(found, dict) else {"message": found}
    message = _in_words(error.get("message") or error.get("detail")) or "no message"
    raw = error.get("metadata", {}).get("raw") if isinstance(error.get("metadata"), dict) else None
    if raw:  # OpenRouter: what the provider behind it said
        message += f": {_in_words(_unpacked(raw))}"
    return {**error, "message": message}


def _in_words(said: object, depth: int = 0) -> str:
    """A message as text: some nest FastAPI's list of faults in it, whose `input` is what the client wrote."""
    if isinstance(said, str):
        return said
    if depth > MAX_NESTING:
        return "…"
    if isinstance(said, list):
        return "; ".join(_in_words(one, depth + 1) for one in said[:MAX_DETAILS])
    if not isinstance(said, dict):
        return "" if said is None else str(said)
    text = _in_words(said.get("msg") or said.get("message") or said.get("detail") or said.get("error"), depth + 1)
    place = said.get("loc")
    if isinstance(place, list):
        return f"{'.'.join(str(part) for part in place if part != 'body')}: {text}"
    return text


def _unpacked(raw: object) -> object:
    try:
        return orjson.loads(raw) if isinstance(raw, str) else raw
    except orjson.JSONDecodeError:
        return raw


def _is_moderation(error: Mapping[str, Any] | None) -> bool:
    """OpenRouter's 403 for what it will not pass on."""
    metadata = error.get("metadata") if error else None
    return isinstance(metadata, dict) and ("reasons" in metadata or "flagged_input" in metadata)


def _is_filter(error: Mapping[str, Any]) -> bool:
    """Does the upstream refuse what the request, or the answer, says?"""
    words = (error.get("code"), error.get("type"))
    return _is_moderation(error) or any(isinstance(word, str) and word in FILTER_CODES for word in words)


def refused(
    name: str, status: int, error: Mapping[str, Any], secrets: tuple[str, ...], headers: Mapping[str, str] | None = None
) -> BackendError:
    """An OpenAI error object from an upstream, kept but for secrets."""
    message = str(error.get("message") or "no message")
    kind, code, param = error.get("type"), error.get("code"), error.get("param")
    if _is_full_context(status, kind, code, message):
        status, kind, code, param = 400, "invalid_request_error", "context_length_exceeded", "messages"
    error_class = ContentFiltered if _is_filter(error) else UpstreamRefused
    return error_class(
        f"model '{name}': {hidden(message, secrets)[:MAX_MESSAGE_CHARS]}",
        status=status,
        type=kind if isinstance(kind, str) else ("server_error" if status >= 500 else None),
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
        headers=headers,
    )


def refused_in_reply(name: str, error: Mapping[str, Any], secrets: tuple[str, ...]) -> BackendError:
    """As `refused`, for an error that came with status 200, in a stream or whole: its own code may be a status."""
    code = error.get("code")
    status = int(code) if isinstance(code, str) and re.fullmatch(r"[45]\d\d", code) else code
    if status in (408, 504):
        return BackendTimeout(f"model '{name}': the upstream gave up mid-stream")
    if status in (401, 403) and not _is_moderation(error):
        return key_refused(name, f"HTTP {status}")
    return refused(name, status if isinstance(status, int) and 400 <= status < 600 else 502, error, secrets)


def key_refused(name: str, how: str) -> BackendError:
    """Passed on as it is, it would make the client throw its own, valid key away."""
    error = BadBackendReply(f"model '{name}': the upstream refused the gateway's credentials ({how})")
    error.fault = AddressFault.KEY
    return error


def hidden(message: str, secrets: tuple[str, ...]) -> str:
    """Without secrets, and without the hosts of those that are addresses. A short one, such as a header's value, stays
    where it is a part of another word."""
    hosts = (urlsplit(secret).netloc for secret in secrets if "://" in secret)
    for word in filter(None, (*secrets, *hosts)):
        place = re.escape(word) if len(word) >= LONG_CHARS else rf"(?<!\w){re.escape(word)}(?!\w)"
        message = re.sub(place, "[hidden]", message)
    return message


def _is_full_context(status: int, kind: object, code: object, message: str) -> bool:
    if any(isinstance(word, str) and word in CONTEXT_WORDS for word in (kind, code)):
        return True
    return status in (*CONTEXT_STATUSES, 502) and CONTEXT_MESSAGE.search(message[:MAX_MESSAGE_CHARS]) is not None
