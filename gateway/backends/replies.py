"""What an OpenAI-compatible upstream says, read with suspicion: events and completions checked and tidied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.backends.refusals import read_error, refused_in_reply
from gateway.backends.shapes import tidy, tidy_whole
from gateway.chat import Json
from gateway.depth import may_be_deep
from gateway.errors import BadBackendReply
from gateway.trace import Usage

ENDS = ("stop", "length")
USUAL = frozenset({"role", "content", "refusal"})  # in an answer's message


def read_completion(name: str, body: bytes, secrets: tuple[str, ...]) -> Json:
    """A whole `chat.completion`. Raises: BadBackendReply, UpstreamRefused, BackendTimeout."""
    return check_completion(name, parse_reply(name, body), secrets)


def parse_reply(name: str, body: bytes) -> Any:
    """Raises: BadBackendReply."""
    try:
        return _parsed(body)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        raise BadBackendReply(f"model '{name}': the upstream's reply is not JSON") from None


def check_completion(name: str, completion: Any, secrets: tuple[str, ...]) -> Json:
    """Raises: as `read_completion`."""
    if isinstance(completion, dict) and "error" not in completion and _is_usual(completion.get("choices")):
        return _with_usage_or_none(completion)
    error = read_error(completion)
    if error is not None:
        raise refused_in_reply(name, error, secrets)
    choices = completion.get("choices") if isinstance(completion, dict) else None
    are_good = isinstance(choices, list) and all(
        isinstance(choice, dict) and tidy_whole(choice, place) for place, choice in enumerate(choices)
    )
    if not choices or not are_good:
        raise BadBackendReply(f"model '{name}': the upstream's reply is not a chat completion")
    _refuse_failed(name, choices, secrets)
    return _with_usage_or_none(completion)


def _is_usual(choices: Any) -> bool:
    """One choice, a text that ended as texts do: then there is nothing to tidy but what is left out."""
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return False
    choice = choices[0]
    message = choice.get("message")
    if (
        not isinstance(message, dict)
        or choice.get("index") != 0
        or choice.get("finish_reason") not in ("stop", "length")
    ):
        return False
    if not message.keys() <= USUAL or not isinstance(message.get("content"), str) or choice.get("logprobs"):
        return False
    choice["message"] = {"role": "assistant", "content": None, "refusal": None, **message}
    choice.setdefault("logprobs", None)
    return True


def read_event(name: str, data: bytes, secrets: tuple[str, ...]) -> Json:
    """One `chat.completion.chunk`. Raises: BadBackendReply, UpstreamRefused, BackendTimeout."""
    return check_event(name, parse_event(name, data), secrets)


def parse_event(name: str, data: bytes) -> Any:
    """Raises: BadBackendReply."""
    try:
        return _parsed(data)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        raise BadBackendReply(f"model '{name}': the upstream's stream holds an event that is not JSON") from None


def _parsed(data: bytes) -> Any:
    """Raises: JSONDecodeError; JSONEncodeError for what is nested more deeply than it could be told a client."""
    said = orjson.loads(data)
    if may_be_deep(data):
        orjson.dumps([[[[[[said]]]]]])
    return said


def check_event(name: str, event: Any, secrets: tuple[str, ...]) -> Json:
    """Raises: as `read_event`."""
    if not isinstance(event, dict):
        raise BadBackendReply(f"model '{name}': the upstream's stream holds an event that is not an object")
    choices = event.get("choices")
    if not choices or "error" in event:
        error = read_error(event)
        if error is not None:
            raise refused_in_reply(name, error, secrets)
    if choices is None:
        choices = event["choices"] = []
    if not isinstance(choices, list) or not all(isinstance(one, dict) and tidy(one, "delta") for one in choices):
        raise BadBackendReply(f"model '{name}': the upstream's stream holds an event that is not a chat chunk")
    _refuse_failed(name, choices, secrets)
    return _with_usage_or_none(event)


def _with_usage_or_none(said: Json) -> Json:
    """Clients take `usage` for complete, or take it for absent."""
    if "usage" in said:
        usage = Usage.read(said["usage"])
        if usage is None:
            del said["usage"]
        else:
            said["usage"].setdefault("total_tokens", usage.input_tokens + usage.output_tokens)
    return said


def _refuse_failed(name: str, choices: list[Json], secrets: tuple[str, ...]) -> None:
    """Mistral and OpenRouter say of a choice that it ended in an error."""
    for choice in choices:
        if choice.get("finish_reason") == "error":
            error = read_error({"error": choice.get("error") or "the upstream's answer ended in an error"})
            raise refused_in_reply(name, error or {}, secrets)


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
