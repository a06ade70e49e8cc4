"""Prompts, read: OpenAI's older completions, and Mistral's for filling in the middle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.api.asgi import Scope
from gateway.api.completions_reply import CompletionWriter
from gateway.api.ollama_names import known_name
from gateway.api.openai import INTEGER, NUMBER, check_number, hops_of, parse_chat, parse_json
from gateway.api.openai_reply import ChatWriter
from gateway.chat import ChatRequest, Json
from gateway.errors import InvalidRequest
from gateway.live import Live
from gateway.prompts import is_prompt
from gateway.trace import RequestTrace

# field -> (wanted, lowest, highest); null is as good as absent
NUMBERS: dict[str, tuple[str, float, float]] = {
    "temperature": (NUMBER, 0, 2),
    "top_p": (NUMBER, 0, 1),
    "presence_penalty": (NUMBER, -2, 2),
    "frequency_penalty": (NUMBER, -2, 2),
    "n": (INTEGER, 1, 128),
    "best_of": (INTEGER, 1, 128),
    "max_tokens": (INTEGER, 0, 2**31),
    "min_tokens": (INTEGER, 0, 2**31),
    "logprobs": (INTEGER, 0, 5),
    "seed": (INTEGER, -(2**63), 2**63),
    "random_seed": (INTEGER, -(2**63), 2**63),
}
KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "suffix": (str, "a string"),
    "echo": (bool, "a boolean"),
    "stream": (bool, "a boolean"),
    "stream_options": (dict, "an object"),
    "stop": ((str, list), "a string or a list of strings"),
    "logit_bias": (dict, "an object"),
    "metadata": (dict, "an object"),
    "response_format": (dict, "an object"),
    "user": (str, "a string"),
}
MAX_PROMPTS = 2048
PROMPT = "'prompt' must be a string, a list of strings, a list of token ids, or a list of such lists"


class CompletionsDialect:
    """`POST /v1/completions`"""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def read(self, raw: bytes, scope: Scope, trace: RequestTrace) -> tuple[ChatRequest, CompletionWriter]:
        request = _request_of(raw, scope["gateway"], self._live, _check_completion)
        return request, CompletionWriter(trace, request)


class FimDialect:
    """`POST /v1/fim/completions`: what stands between a prompt and its suffix, answered in a chat's shape."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def read(self, raw: bytes, scope: Scope, trace: RequestTrace) -> tuple[ChatRequest, ChatWriter]:
        request = _request_of(raw, scope["gateway"], self._live, _check_fim)
        shows_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        return request, ChatWriter(trace, shows_usage=shows_usage)


def parse_any(raw: bytes, headers: Mapping[str, str], key: str | None) -> ChatRequest:
    """A prompt or a chat. Raises: InvalidRequest, with `param` naming the field at fault."""
    body = parse_json(raw)
    if not is_prompt(body):
        return parse_chat(raw, headers, key)
    return _checked(body, headers, key, _check_completion)


def _checked(body: Json, headers: Mapping[str, str], key: str | None, check: Callable[[Json], Json]) -> ChatRequest:
    _check_fields(body)
    return ChatRequest(check(body), headers=headers, key=key, hops=hops_of(headers))


def _request_of(raw: bytes, caller: Mapping[str, Any], live: Live, check: Callable[[Json], Json]) -> ChatRequest:
    body = parse_json(raw)
    if caller["model"] is not None:
        body["model"] = caller["model"]
    if isinstance(body.get("model"), str):
        body["model"] = known_name(live.gateway, body["model"])
    return _checked(body, caller["headers"], caller["key"], check)


def _check_fields(body: Json) -> None:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("you must name a model: a string in 'model'", param="model")
    if "messages" in body:
        raise InvalidRequest("this path takes a 'prompt': 'messages' are for /v1/chat/completions", param="messages")
    for name, value in body.items():
        if value is None:
            continue
        if name in NUMBERS:
            check_number(name, value, *NUMBERS[name])
        elif name in KINDS and not isinstance(value, KINDS[name][0]):
            raise InvalidRequest(f"'{name}' must be {KINDS[name][1]}", param=name)
    stop = body.get("stop")
    if isinstance(stop, list) and not all(isinstance(item, str) for item in stop):
        raise InvalidRequest("'stop' must be a string or a list of strings", param="stop")


def _check_completion(body: Json) -> Json:
    _check_prompt(body.get("prompt"))
    candidates, wanted = body.get("best_of"), body.get("n") or 1
    if candidates is not None and candidates < wanted:
        raise InvalidRequest("'best_of' must be at least 'n'", param="best_of")
    if candidates is not None and candidates > wanted and body.get("stream"):
        raise InvalidRequest("'best_of' cannot be streamed: the best is known at the end", param="best_of")
    return body


def _check_prompt(prompt: Any) -> None:
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest(PROMPT, param="prompt")
    are_texts = all(isinstance(item, str) for item in prompt)
    if not are_texts and not _are_ids(prompt) and not all(_are_ids(item) for item in prompt):
        raise InvalidRequest(PROMPT, param="prompt")
    if not _are_ids(prompt) and len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(f"'prompt' must hold at most {MAX_PROMPTS} prompts", param="prompt")


def _are_ids(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(type(item) is int and 0 <= item < 2**31 for item in items)


def _check_fim(body: Json) -> Json:
    if not isinstance(body.get("prompt"), str):
        raise InvalidRequest("'prompt' must be a string: what stands before", param="prompt")
    if body.get("random_seed") is None:
        return body
    rest = {name: value for name, value in body.items() if name != "random_seed"}
    return {**rest, "seed": body["random_seed"]}  # as OpenAI calls it
