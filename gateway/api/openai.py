"""OpenAI's chat dialect, read: what a body may hold, checked once at the door.

Unknown fields pass through untouched. Wrong types, and values out of OpenAI's published ranges, are refused with the
field at fault. (A hand-written table: it costs 3 us a request where a Pydantic model of the same costs 20.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.api.asgi import Scope
from gateway.api.ollama_names import known_name
from gateway.api.openai_reply import ChatWriter
from gateway.api.responses_chat import chat_of_responses
from gateway.chat import ChatRequest, Json
from gateway.depth import may_be_deep
from gateway.errors import InvalidRequest
from gateway.live import Live
from gateway.trace import RequestTrace

NUMBER, INTEGER = "a number", "an integer"
# field -> (wanted, lowest, highest); null is as good as absent
NUMBERS: dict[str, tuple[str, float, float]] = {
    "temperature": (NUMBER, 0, 2),
    "top_p": (NUMBER, 0, 1),
    "presence_penalty": (NUMBER, -2, 2),
    "frequency_penalty": (NUMBER, -2, 2),
    "n": (INTEGER, 1, 128),
    "max_tokens": (INTEGER, 1, 2**31),
    "max_completion_tokens": (INTEGER, 1, 2**31),
    "top_logprobs": (INTEGER, 0, 20),
    "seed": (INTEGER, -(2**63), 2**63),
}
KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "stream": (bool, "a boolean"),
    "logprobs": (bool, "a boolean"),
    "parallel_tool_calls": (bool, "a boolean"),
    "store": (bool, "a boolean"),
    "user": (str, "a string"),
    "service_tier": (str, "a string"),
    "reasoning_effort": (str, "a string"),
    "verbosity": (str, "a string"),
    "prompt_cache_key": (str, "a string"),
    "safety_identifier": (str, "a string"),
    "modalities": (list, "a list"),
    "audio": (dict, "an object"),
    "prediction": (dict, "an object"),
    "web_search_options": (dict, "an object"),
    "function_call": ((str, dict), "a string or an object"),
    "stop": ((str, list), "a string or a list of strings"),
    "logit_bias": (dict, "an object"),
    "metadata": (dict, "an object"),
    "stream_options": (dict, "an object"),
    "response_format": (dict, "an object"),
    "tools": (list, "a list"),
    "tool_choice": ((str, dict), "a string or an object"),
    "functions": (list, "a list"),
}
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
PARTS = frozenset({"text", "image_url", "input_audio", "file", "refusal"})
FORMATS = frozenset({"text", "json_object", "json_schema"})


class ChatDialect:
    """`POST /v1/chat/completions`"""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def read(self, raw: bytes, scope: Scope, trace: RequestTrace) -> tuple[ChatRequest, ChatWriter]:
        caller = scope["gateway"]
        request = parse_chat(raw, caller["headers"], caller["key"], caller["model"])
        meant = known_name(self._live.gateway, request.model)
        if meant != request.model:  # VS Code lists models as Ollama's, and then asks for them here
            request = request.with_body(model=meant)
        shows_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        return request, ChatWriter(trace, shows_usage=shows_usage)


def parse_json(raw: bytes) -> Json:
    """A JSON object. Raises: InvalidRequest for anything else: NaN, lone surrogates and deep nesting included."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    if may_be_deep(raw):
        try:
            # it reads four times as deep as it writes, and this is sent on or told again up to six levels deeper
            orjson.dumps([[[[[[body]]]]]])
        except orjson.JSONEncodeError:
            raise InvalidRequest("the body is nested too deeply") from None
    return body


def parse_chat(raw: bytes, headers: Mapping[str, str], key: str | None, model: str | None = None) -> ChatRequest:
    """Args: `model` is the one that the path names. Raises: InvalidRequest, with `param` naming the field at fault."""
    body, extra = parse_json(raw), None
    if model is not None:
        body["model"] = model
    if not body.get("messages") and body.get("input") is not None:
        body, extra = chat_of_responses(body)
    check_fields(body)
    return ChatRequest(body, headers=headers, key=key, hops=hops_of(headers), extra=extra)


def check_fields(body: Json) -> None:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("you must name a model: a string in 'model'", param="model")
    for name, value in body.items():
        if value is None:
            continue
        if name in NUMBERS:
            wanted, lowest, highest = NUMBERS[name]
            if type(value) is not int or not lowest <= value <= highest:  # a bool is no number
                check_number(name, value, wanted, lowest, highest)
        elif name in KINDS and not isinstance(value, KINDS[name][0]):
            raise InvalidRequest(f"'{name}' must be {KINDS[name][1]}", param=name)
    _check_messages(body.get("messages"))
    _check_rest(body)


def check_number(name: str, value: Any, wanted: str, lowest: float, highest: float) -> None:
    is_number = isinstance(value, int) or (wanted is NUMBER and isinstance(value, float))
    if not is_number or isinstance(value, bool):
        raise InvalidRequest(f"'{name}' must be {wanted}", param=name)
    if not lowest <= value <= highest:
        raise InvalidRequest(f"'{name}' must be between {lowest} and {highest}", param=name)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a list of at least one message", param="messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest("a message must be an object", param=f"messages[{i}]")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidRequest(f"'role' must be one of {', '.join(sorted(ROLES))}", param=f"messages[{i}].role")
        content = message.get("content")
        if isinstance(content, str):
            continue
        if content is None:
            if role != "assistant" and role != "function":
                raise InvalidRequest(f"a {role} message needs 'content'", param=f"messages[{i}].content")
        elif isinstance(content, list):
            _check_parts(content, f"messages[{i}].content")
        else:
            raise InvalidRequest("'content' must be a string or a list of parts", param=f"messages[{i}].content")
        _check_calls(message.get("tool_calls"), f"messages[{i}].tool_calls")


def _check_parts(parts: list[Any], where: str) -> None:
    for i, part in enumerate(parts):
        if not isinstance(part, dict):
            raise InvalidRequest("a content part must be an object", param=f"{where}[{i}]")
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in PARTS:
            raise InvalidRequest(
                f"a content part's 'type' must be one of {', '.join(sorted(PARTS))}", param=f"{where}[{i}].type"
            )
        if kind == "text" and not isinstance(part.get("text"), str):
            raise InvalidRequest("a text part needs a string in 'text'", param=f"{where}[{i}].text")
        if kind == "image_url" and not isinstance(part.get("image_url"), dict | str):
            raise InvalidRequest("an image part needs 'image_url'", param=f"{where}[{i}].image_url")


def _check_calls(calls: Any, where: str) -> None:
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise InvalidRequest("'tool_calls' must be a list of objects", param=where)


def _check_rest(body: Json) -> None:
    stop = body.get("stop")
    if isinstance(stop, list) and not all(isinstance(item, str) for item in stop):
        raise InvalidRequest("'stop' must be a string or a list of strings", param="stop")
    for name in ("tools", "functions"):
        for i, tool in enumerate(body.get(name) or ()):
            if not isinstance(tool, dict):
                raise InvalidRequest("a tool must be an object", param=f"{name}[{i}]")
            function = tool.get("function")
            if tool.get("type") == "function" and not (
                isinstance(function, dict) and isinstance(function.get("name"), str)
            ):
                raise InvalidRequest("a function tool needs a name", param=f"{name}[{i}].function.name")
    wanted = body.get("response_format")
    if wanted is not None:
        kind = wanted.get("type")
        if not isinstance(kind, str) or kind not in FORMATS:
            raise InvalidRequest(f"'type' must be one of {', '.join(sorted(FORMATS))}", param="response_format.type")
        if kind == "json_schema" and not isinstance(wanted.get("json_schema"), dict):
            raise InvalidRequest("'json_schema' must be an object", param="response_format.json_schema")


def hops_of(headers: Mapping[str, str]) -> int:
    value = headers.get("x-gateway-hops", "0")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 4 else 0


def number_header(headers: Mapping[str, str], name: str) -> float | None:
    """A header that holds a number of 0 or more. Raises: InvalidRequest."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise InvalidRequest(f"header {name} must be a number of 0 or more", param=name)
    return number
