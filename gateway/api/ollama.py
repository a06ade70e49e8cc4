"""Ollama's dialect, read: `/api/chat` and `/api/generate`.

What is said in `options` becomes fields of the chat; what a chat has no place for (`keep_alive`, `num_ctx`, …) is lost,
and named. Ollama's tool calls have arguments that are objects and, in older clients, no ids: ids are made up, the same
for the same conversation.

Source: ollama `api/types.go` and `server/routes.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.api.asgi import Scope
from gateway.api.ollama_images import image_part
from gateway.api.ollama_names import known_name
from gateway.api.ollama_reply import LineWriter
from gateway.api.openai import INTEGER, NUMBER, NUMBERS, ROLES, hops_of, parse_json
from gateway.chat import ChatRequest, Extra, Json
from gateway.errors import InvalidRequest
from gateway.live import Live
from gateway.trace import RequestTrace

AS_IN_CHAT = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
OPTIONS: dict[str, tuple[str, float, float]] = {
    **{name: NUMBERS[name] for name in AS_IN_CHAT},
    "top_k": (INTEGER, -1, 2**31),
    "min_p": (NUMBER, 0, 1),
    "repeat_penalty": (NUMBER, 0, 100),
    "num_predict": (INTEGER, -(2**31), 2**31),
}
RANDOM_SEED = -1
READ = frozenset({"model", "stream", "options", "format", "think", "logprobs", "top_logprobs"})
READ_OF_CHAT = READ | {"messages", "tools"}
READ_OF_GENERATE = READ | {"prompt", "suffix", "system", "images", "raw"}
READ_OF_MESSAGE = frozenset("role content images thinking tool_calls tool_name name tool_call_id".split())


class OllamaDialect:
    """`POST /api/chat`, or with `generates` `POST /api/generate`."""

    def __init__(self, live: Live, *, generates: bool) -> None:
        self._live, self._generates = live, generates

    async def read(self, raw: bytes, scope: Scope, trace: RequestTrace) -> tuple[ChatRequest, LineWriter]:
        caller = scope["gateway"]
        body = parse_json(raw)
        name = model_of(body)
        reader = _Reader(body)
        chat = reader.generation() if self._generates else reader.chat()
        chat["model"] = known_name(self._live.gateway, name)
        headers = caller["headers"]
        extra = Extra("ollama", body, tuple(dict.fromkeys(reader.lost)))
        request = ChatRequest(chat, headers=headers, key=caller["key"], hops=hops_of(headers), extra=extra)
        thinks = body.get("think") is not False
        return request, LineWriter(trace, name, generates=self._generates, shows_thinking=thinks)


def model_of(body: Mapping[str, Any]) -> str:
    """Raises: InvalidRequest."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("model: you must name one, as text", param="model")
    return name


def asks_nothing(body: Mapping[str, Any], *, generates: bool) -> bool:
    """It only wants a model to be loaded, or unloaded."""
    if generates:
        return not (body.get("prompt") or body.get("suffix"))
    return body.get("messages") is None or body["messages"] == []


class _Reader:
    """Reads one body; `lost` collects what a chat cannot say."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self.lost: list[str] = []

    def chat(self) -> Json:
        messages = _Conversation(self._list("messages") or [], self.lost).read()
        fields: Json = {"messages": messages, **self._settings(READ_OF_CHAT)}
        tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(self._list("tools") or ())]
        return {**fields, "tools": tools} if tools else fields

    def generation(self) -> Json:
        """A chat of one turn; a prompt that is completed as it is, where it is `raw` or has a `suffix`."""
        prompt, suffix, system = (self._text(name) for name in ("prompt", "suffix", "system"))
        images = self._list("images") or []
        if self._flag("raw") or suffix:
            if images:
                raise InvalidRequest("images: they need a chat, so leave out 'raw' and 'suffix'", param="images")
            if system:
                self.lost.append("system")
            return {"prompt": prompt or "", **({"suffix": suffix} if suffix else {}), **self._settings_of_a_prompt()}
        user: Json = {"role": "user", "content": _parts(prompt, images, "images") if images else prompt or ""}
        messages = [*([{"role": "system", "content": system}] if system else ()), user]
        return {"messages": messages, **self._settings(READ_OF_GENERATE)}

    def _settings_of_a_prompt(self) -> Json:
        """Where log-probabilities are asked for by how many alternatives to show, and nothing is said of thinking."""
        fields = self._settings(READ_OF_GENERATE)
        if fields.pop("reasoning_effort", None):
            self.lost.append("think")
        top = fields.pop("top_logprobs", 0)
        return {**fields, "logprobs": top} if fields.get("logprobs") else fields

    def _settings(self, known: frozenset[str]) -> Json:
        """What both requests may say beside their text. Ollama streams unless told not to."""
        stream = self._flag("stream")
        fields: Json = {"stream": True if stream is None else stream}
        fields |= self._options() | self._format() | self._thinking() | self._logprobs()
        self.lost += [name for name, value in self._body.items() if name not in known and value is not None]
        return fields

    def _options(self) -> Json:
        options = self._body.get("options")
        if options is None:
            return {}
        if not isinstance(options, dict):
            raise InvalidRequest("options: must be an object", param="options")
        fields: Json = {}
        for name, value in options.items():
            where = f"options.{name}"
            if value is None:
                continue
            if name == "stop":
                fields["stop"] = _stop(value, where)
            elif name in OPTIONS:
                fields[name] = _number(value, where, *OPTIONS[name])
            else:
                self.lost.append(where)
        longest = fields.pop("num_predict", 0)
        if fields.get("seed") == RANDOM_SEED:
            del fields["seed"]
        return {**fields, "max_tokens": longest} if longest > 0 else fields  # 0 and below: as long as it likes

    def _format(self) -> Json:
        wanted = self._body.get("format")
        if wanted is None or wanted == "":
            return {}
        if wanted == "json":
            return {"response_format": {"type": "json_object"}}
        if not isinstance(wanted, dict):
            raise InvalidRequest('format: must be "json" or a JSON schema', param="format")
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": wanted}}}

    def _thinking(self) -> Json:
        think = self._body.get("think")
        if isinstance(think, str) and think:
            return {"reasoning_effort": think}
        if isinstance(think, bool):
            self.lost.append("think")
        elif think not in (None, ""):
            raise InvalidRequest("think: must be true, false or a level such as 'low'", param="think")
        return {}

    def _logprobs(self) -> Json:
        if not self._flag("logprobs"):
            return {}
        top = self._body.get("top_logprobs")
        if top is None:
            return {"logprobs": True}
        return {"logprobs": True, "top_logprobs": _number(top, "top_logprobs", *NUMBERS["top_logprobs"])}

    def _text(self, name: str) -> str | None:
        value = self._body.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{name}: must be a string", param=name)
        return value

    def _flag(self, name: str) -> bool | None:
        value = self._body.get(name)
        if value is not None and not isinstance(value, bool):
            raise InvalidRequest(f"{name}: must be true or false", param=name)
        return value

    def _list(self, name: str) -> list[Any] | None:
        return _list(self._body.get(name), name)


class _Conversation:
    """Messages as a chat has them: each result of a tool names the call that it answers by an id."""

    def __init__(self, messages: list[Any], lost: list[str]) -> None:
        self._messages, self._lost = messages, lost
        self._open: list[tuple[str, str]] = []  # (id, name) of calls that have no result yet
        self._numbered = 0

    def read(self) -> list[Json]:
        return [self._message(message, f"messages[{i}]") for i, message in enumerate(self._messages)]

    def _message(self, message: Any, where: str) -> Json:
        if not isinstance(message, dict):
            raise InvalidRequest(f"{where}: must be an object", param=where)
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or role not in ROLES:
            known = ", ".join(sorted(ROLES))
            raise InvalidRequest(f"{where}.role: must be one of {known}", param=f"{where}.role")
        if content is not None and not isinstance(content, str):
            raise InvalidRequest(f"{where}.content: must be a string", param=f"{where}.content")
        out: Json = {"role": role, "content": content or ""}
        images = _list(message.get("images"), f"{where}.images")
        if images:
            out["content"] = _parts(content, images, f"{where}.images")
        if role == "tool":
            out["tool_call_id"] = self._answered(message, where)
        elif role == "assistant":
            self._add_words_of_a_model(message, out, where)
        else:
            self._open.clear()  # what has no result by now stays without one
        self._lost += [f"messages[].{name}" for name, value in message.items() if value and name not in READ_OF_MESSAGE]
        return out

    def _add_words_of_a_model(self, message: Json, out: Json, where: str) -> None:
        thinking = message.get("thinking")
        if thinking is not None and not isinstance(thinking, str):
            raise InvalidRequest(f"{where}.thinking: must be a string", param=f"{where}.thinking")
        if thinking:
            out["reasoning_content"] = thinking
        calls = _list(message.get("tool_calls"), f"{where}.tool_calls") or ()
        if calls:
            out["content"] = out["content"] or None
            out["tool_calls"] = [self._call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]

    def _call(self, call: Any, where: str) -> Json:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            raise InvalidRequest(f"{where}.function: needs a name", param=f"{where}.function.name")
        arguments = function.get("arguments")
        if not isinstance(arguments, dict | str | None):
            raise InvalidRequest(f"{where}.function.arguments: must be an object", param=f"{where}.function.arguments")
        written = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
        id = _id(call.get("id"), f"{where}.id") or self._new_id()
        self._open.append((id, name))
        return {"id": id, "type": "function", "function": {"name": name, "arguments": written}}

    def _answered(self, message: Json, where: str) -> str:
        """The id of the call that a result is of: as it says, else the first open call of that name, else the first."""
        id = _id(message.get("tool_call_id"), f"{where}.tool_call_id")
        name = message.get("tool_name") or message.get("name")
        by_id = (call for call in self._open if call[0] == id)
        by_name = (call for call in self._open if id is None and call[1] == name)
        in_order = (call for call in self._open if id is None)
        found = next(by_id, None) or next(by_name, None) or next(in_order, None)
        if found is None:
            return id or self._new_id()
        self._open.remove(found)
        return found[0]

    def _new_id(self) -> str:
        self._numbered += 1
        return f"call_{self._numbered}"


def _id(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{where}: must be a string", param=where)
    return value or None


def _list(value: Any, where: str) -> list[Any] | None:
    if value is not None and not isinstance(value, list):
        raise InvalidRequest(f"{where}: must be a list", param=where)
    return value


def _parts(text: str | None, images: list[Any], where: str) -> list[Json]:
    parts = [image_part(image, f"{where}[{i}]") for i, image in enumerate(images)]
    return [{"type": "text", "text": text}, *parts] if text else parts


def _tool(tool: Any, where: str) -> Json:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{where}.function: needs a name", param=f"{where}.function.name")
    return {**tool, "type": tool.get("type") or "function"}


def _stop(value: Any, where: str) -> list[str] | str:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return value
    raise InvalidRequest(f"{where}: must be a list of strings", param=where)


def _number(value: Any, where: str, wanted: str, lowest: float, highest: float) -> Any:
    """Some clients write whole numbers with a point."""
    if wanted is INTEGER and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int if wanted is INTEGER else int | float):
        raise InvalidRequest(f"{where}: must be {wanted}", param=where)
    if not lowest <= value <= highest:
        raise InvalidRequest(f"{where}: must be between {lowest} and {highest}", param=where)
    return value
