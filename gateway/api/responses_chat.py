"""The fields of a Responses body as those of a chat body, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.api.responses_input import Messages, items_of
from gateway.api.responses_items import for_upstream
from gateway.api.responses_tools import Lost, Tools
from gateway.chat import Extra, Json
from gateway.errors import InvalidRequest

KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "background": (bool, "a boolean"),
    "include": (list, "a list of strings"),
    "instructions": (str, "a string"),
    "max_output_tokens": (int, "an integer"),
    "parallel_tool_calls": (bool, "a boolean"),
    "reasoning": (dict, "an object"),
    "store": (bool, "a boolean"),
    "stream": (bool, "a boolean"),
    "text": (dict, "an object"),
    "tool_choice": ((str, dict), "a string or an object"),
    "tools": (list, "a list"),
    "top_logprobs": (int, "an integer"),
    "truncation": (str, "a string"),
}
NOT_HERE = ("background", "conversation", "prompt")  # an answer without them would not be one
SAME = frozenset(  # in a chat body too; those of other makers are for models that know them
    {"temperature", "top_p", "parallel_tool_calls", "user", "metadata", "store", "service_tier", "stream", "model"}
    | {"prompt_cache_key", "prompt_cache_retention", "safety_identifier", "reasoning_effort", "verbosity"}
    | {"seed", "stop", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs"}
    | {"max_tokens", "max_completion_tokens", "response_format", "prediction"}
    | {"top_k", "min_p", "repetition_penalty", "chat_template_kwargs"}
)
READ = frozenset({"input", "instructions", "tools", "tool_choice", "text", "reasoning", "max_output_tokens"})
ASKS_NOTHING = frozenset({"include", "stream_options", "client_metadata", "previous_response_id", "background"})
KNOWN = SAME | READ | ASKS_NOTHING
LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True)
class Chat:
    """`body`: what a chat model is asked."""

    body: Json
    extra: Extra
    tools: Tools


def as_chat(body: Json, items: Sequence[Json], before: Sequence[Json] = ()) -> Chat:
    """Args: `items` as from `items_of`; `before` are those of the conversation that it goes on with.

    Raises: InvalidRequest, with `param` naming the field at fault.
    """
    _check(body)
    lost = Lost()
    out: Json = {name: value for name, value in body.items() if name in SAME}
    messages = _messages(body, items, before, lost)
    out["messages"] = messages.all
    if body.get("max_output_tokens") is not None:
        out["max_completion_tokens"] = body["max_output_tokens"]
    if LOGPROBS in (body.get("include") or ()) or body.get("top_logprobs"):
        out["logprobs"] = True
    _add_text(out, body.get("text") or {})
    _add_reasoning(out, body.get("reasoning") or {})
    tools = _add_tools(out, body, items, before, lost)
    for name, value in body.items():
        if value is not None and name not in KNOWN and (name, value) != ("truncation", "disabled"):
            lost.add(name)
    original = {name: value for name, value in body.items() if name != "previous_response_id"}
    if before or not isinstance(body.get("input"), str):
        original["input"] = [one for item in (*before, *items) for one in for_upstream(item)]
    return Chat(out, Extra("responses", original, lost.names, messages.pieces), tools)


def chat_of_responses(body: Json) -> tuple[Json, Extra]:
    """A body in this shape that was sent to the chat route: Cursor does. Raises: InvalidRequest."""
    if body.get("previous_response_id") is not None:
        message = "stored responses are known to /v1/responses only"
        raise InvalidRequest(message, param="previous_response_id")
    chat = as_chat(body, items_of(body["input"]))
    if "stream_options" in body:
        chat.body["stream_options"] = body["stream_options"]
    return chat.body, chat.extra


def _check(body: Json) -> None:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("you must name a model: a string in 'model'", param="model")
    for name, (kind, wanted) in KINDS.items():
        value = body.get(name)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise InvalidRequest(f"'{name}' must be {wanted}", param=name)
    limit = body.get("max_output_tokens")
    if limit is not None and not 1 <= limit <= 2**31:
        raise InvalidRequest(f"'max_output_tokens' must be between 1 and {2**31}", param="max_output_tokens")
    for name in NOT_HERE:
        if body.get(name):
            raise InvalidRequest(f"'{name}' is not supported here: leave it out", param=name)


def _messages(body: Json, items: Sequence[Json], before: Sequence[Json], lost: Lost) -> Messages:
    messages = Messages(lost)
    if body.get("instructions"):
        messages.add_instructions(body["instructions"])
    instructed = len(messages.all)
    for item in before:
        messages.add(item, "previous_response_id")
    for i, item in enumerate(items):
        messages.add(item, f"input[{i}]")
    messages.end()
    if len(messages.all) == instructed:
        raise InvalidRequest("'input' must hold a text, or at least one message", param="input")
    return messages


def _add_text(out: Json, text: Json) -> None:
    if text.get("verbosity") is not None:
        out["verbosity"] = _string(text["verbosity"], "text.verbosity")
    form = text.get("format")
    if form is None:
        return
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        if not isinstance(form.get("schema"), dict):
            raise InvalidRequest("'schema' must be an object", param="text.format.schema")
        named = {"name": "response", **form}
        fields = ("name", "description", "schema", "strict")
        out["response_format"] = {
            "type": kind,
            "json_schema": {name: named[name] for name in fields if named.get(name) is not None},
        }
    elif kind == "json_object":
        out["response_format"] = {"type": kind}
    elif kind != "text":
        message = "'type' must be one of json_object, json_schema, text"
        raise InvalidRequest(message, param="text.format.type")


def _add_reasoning(out: Json, reasoning: Json) -> None:
    if reasoning.get("effort") is not None:
        out["reasoning_effort"] = _string(reasoning["effort"], "reasoning.effort")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"'{where}' must be a string", param=where)
    return value


def _add_tools(out: Json, body: Json, items: Sequence[Json], before: Sequence[Json], lost: Lost) -> Tools:
    tools = Tools(lost)
    tools.add_all(body.get("tools") or [], "tools")
    for i, item in enumerate((*before, *items)):
        if item["type"] == "additional_tools":  # offered in the middle of a conversation
            tools.add_all(item.get("tools") or [], f"input[{i - len(before)}].tools")
    if tools.chat:
        out["tools"] = tools.chat
        choice = tools.choice(body["tool_choice"]) if body.get("tool_choice") is not None else None
        if choice is not None:
            out["tool_choice"] = choice
    else:
        out.pop("parallel_tool_calls", None)  # which OpenAI refuses where there are no tools
        if body.get("tool_choice") not in (None, "auto", "none"):
            lost.add("tool_choice")
    return tools
