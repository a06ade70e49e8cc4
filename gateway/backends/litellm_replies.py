"""What litellm answers, in OpenAI's shape, and what it raises, as an upstream's error."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gateway.backends.refusals import hidden
from gateway.chat import Json
from gateway.errors import BadBackendReply
from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout

log = logging.getLogger(__name__)
PREFIXES = re.compile(r"(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?: \w+Error)?\s*[:-]\s*)+")
ADVICE = re.compile(r"\.?\s*(?:Handle with `litellm\.|To drop these|Received Model Group=|Original exception:).*", re.S)
TRACEBACK = re.compile(r"\s*Traceback \(most recent call last\):.*", re.S)
Refusal = tuple[int, Mapping[str, str], bytes]  # status, headers, body


# -- answers -------------------------------------------------------------------------------------------------------


def completion_of(answer: Any) -> Json:
    """A whole `chat.completion`."""
    data: Json = answer.model_dump(exclude_none=True)
    choices = []
    for choice in data.get("choices") or ():
        message = {"role": "assistant", "content": None, "refusal": None, **_cleaned(choice.get("message") or {})}
        for call in message.get("tool_calls") or ():
            call.pop("index", None)
        choices.append({**_choice(choice), "message": message})
    out = {**_head(data), "object": "chat.completion", "choices": choices}
    return {**out, "usage": _usage(data["usage"])} if data.get("usage") else out


def chunk_of(chunk: Any) -> Json:
    """A `chat.completion.chunk`; one that says nothing has no choices."""
    data: Json = chunk.model_dump(exclude_none=True)
    choices = []
    for choice in data.get("choices") or ():
        delta = _cleaned(choice.get("delta") or {})
        delta = {name: value for name, value in delta.items() if value != ""}
        if choice.get("finish_reason") or choice.get("logprobs") or set(delta) - {"role"}:
            choices.append({**_choice(choice), "delta": delta})
    out = {**_head(data), "object": "chat.completion.chunk", "choices": choices}
    return {**out, "usage": _usage(data["usage"])} if data.get("usage") else out


def _head(data: Json) -> Json:
    kept = ("id", "created", "model", "system_fingerprint", "service_tier", "citations")
    return {name: data[name] for name in kept if name in data}


def _choice(choice: Json) -> Json:
    return {name: choice.get(name) for name in ("index", "finish_reason", "logprobs")}


def _cleaned(message: Json) -> Json:
    """A message or delta without litellm's empty fields, and without what it says twice."""
    out = {name: value for name, value in message.items() if value != [] and value is not None}
    extras = {
        name: value
        for name, value in (out.pop("provider_specific_fields", None) or {}).items()
        if value is not None and name not in out
    }
    return {**out, "provider_specific_fields": extras} if extras else out


def _usage(usage: Json) -> Json:
    return {name: value for name, value in usage.items() if name != "cost"}  # litellm's guess; the gateway has its own


# -- errors --------------------------------------------------------------------------------------------------------


def refusal_of(error: Exception, name: str, secrets: tuple[str, ...], *, in_stream: bool = False) -> Refusal:
    """The HTTP reply that a provider's error comes to; `in_stream`, its body has the status as its `code`.

    Args: `name` is the model's, for messages; `secrets` are cut out of what is said.
    Raises: ConnectFailed, ConnectTimeout, ConnectionCut, TimeoutError, BadBackendReply.
    """
    if isinstance(error, ConnectionCut):
        raise error
    chain = list(_chain(error))
    response = _vendors_reply(chain)
    if response is None:
        _raise_without_reply(chain, name)
    status = response.status_code if response is not None else _status(chain)
    if status in (408, 504):
        raise TimeoutError from error
    if not 400 <= status < 600:
        raise _unreadable(error, name)
    said = _said(response) if response is not None else {}
    message = str(said.get("message") or _without_noise(str(getattr(chain[-1], "message", None) or chain[-1])))
    kind, code = said.get("type") or said.get("status"), said.get("code")
    fields: Json = {"message": hidden(message, secrets), "param": None}
    fields["type"] = kind.lower() if isinstance(kind, str) else None
    fields["code"] = code if isinstance(code, str) else None
    if any(type(e).__name__ == "ContextWindowExceededError" for e in chain):
        status = 400
        fields |= {"type": "invalid_request_error", "code": "context_length_exceeded", "param": "messages"}
    if in_stream:
        fields["code"] = status
    return status, dict(response.headers) if response is not None else {}, orjson.dumps({"error": fields})


def has_no_such_route(error: Exception) -> bool:
    """litellm knows of no embeddings, or no reranks, at this provider."""
    return any(
        type(one).__name__ == "LiteLLMUnknownProvider" or str(one).startswith("Unsupported provider")
        for one in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, newest first."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [getattr(found, "original_exception", None), found.__cause__, found.__context__]


def _vendors_reply(chain: list[BaseException]) -> Any:
    """The HTTP reply that the provider really sent. Those of litellm's own exceptions are often made up."""
    import httpx  # litellm's own

    for error in chain:
        is_real = isinstance(error, httpx.HTTPStatusError) or type(error).__module__.split(".")[0] == "openai"
        response = getattr(error, "response", None)
        if is_real and isinstance(response, httpx.Response):
            return response
    return None


def _raise_without_reply(chain: list[BaseException], name: str) -> None:
    import aiohttp
    import httpx

    def came_from(*kinds: type[BaseException]) -> bool:
        return any(isinstance(error, kinds) for error in chain)

    if came_from(httpx.ConnectTimeout, aiohttp.ConnectionTimeoutError):
        raise ConnectTimeout from chain[0]
    if came_from(aiohttp.ClientConnectorError):
        raise ConnectFailed from chain[0]
    if came_from(httpx.TimeoutException, TimeoutError) or any(type(e).__name__ == "Timeout" for e in chain):
        raise TimeoutError from chain[0]
    if came_from(aiohttp.ClientError, ConnectionError):  # also where litellm takes a reset for a failed connection
        raise ConnectionCut from chain[0]
    if came_from(httpx.ConnectError):
        raise ConnectFailed from chain[0]
    if came_from(httpx.TransportError):
        raise ConnectionCut from chain[0]
    if type(chain[-1]).__module__ == "builtins":
        raise _unreadable(chain[0], name)


def _unreadable(error: BaseException, name: str) -> BadBackendReply:
    """Nobody thought of this one. Its message may hold what a user wrote, so only its kind and place are logged."""
    chain = list(_chain(error))
    frames = "".join(traceback.format_list(traceback.extract_tb(chain[-1].__traceback__)[-3:]))
    log.error("model '%s': litellm failed with %s\n%s", name, " < ".join(type(e).__name__ for e in chain), frames)
    return BadBackendReply(f"model '{name}': litellm cannot translate this request or its answer")


def _status(chain: list[BaseException]) -> int:
    for error in chain:
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            return status
    return 0


def _said(response: Any) -> Json:
    """The error object in a vendor's reply, with what it calls its message under `message`."""
    try:
        body = orjson.loads(response.content)
    except Exception:  # not JSON, or never read
        return {"message": f"the provider answered HTTP {response.status_code}"}
    body = body[0] if isinstance(body, list) and body else body
    found = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(found, Mapping):
        return {"message": str(found)}
    message = found.get("message") or found.get("Message") or found.get("detail")
    return {**found, "message": message or f"the provider answered HTTP {response.status_code}"}


def _without_noise(message: str) -> str:
    """A message of litellm's own making, without its prefixes, advice and traceback."""
    message = ADVICE.sub("", TRACEBACK.sub("", message))
    return PREFIXES.sub("", message, count=1).strip() or "no message"
