"""Anthropic's Messages API, read: what a body may hold, and the chat that it comes to.

Unknown fields are no error. What a chat has no place for is named in `Extra.lost`; `messages_input.py` says so of
messages and tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from gateway.api.asgi import Scope
from gateway.api.messages_input import Conversation, Lost, refuse, tools_of, wanted
from gateway.api.messages_reply import MessagesWriter
from gateway.api.openai import hops_of, parse_json
from gateway.chat import ChatRequest, Extra, Json
from gateway.errors import ThreadNotFound
from gateway.trace import RequestTrace

NUMBERS: Mapping[str, tuple[float, float]] = {"temperature": (0, 2), "top_p": (0, 1)}
INTEGERS: Mapping[str, tuple[int, int]] = {"max_tokens": (1, 2**31), "top_k": (0, 2**31)}
TRANSLATED = frozenset(
    "max_tokens messages metadata model output_config output_format stop_sequences stream system temperature "
    "tool_choice tools top_k top_p".split()
)
EFFORTS: Mapping[str, str] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
LONGEST_USER = 64  # as long as OpenAI lets a `safety_identifier` be, and Claude Code sends twice that


class MessagesDialect:
    """`POST /v1/messages`"""

    async def read(self, raw: bytes, scope: Scope, trace: RequestTrace) -> tuple[ChatRequest, MessagesWriter]:
        caller = scope["gateway"]
        request = parse_messages(raw, caller["headers"], caller["key"])
        return request, MessagesWriter(trace, request)


def parse_messages(
    raw: bytes, headers: Mapping[str, str], key: str | None, *, only_counts: bool = False
) -> ChatRequest:
    """Args: `only_counts`: nothing is to be generated, so that `max_tokens` may be missing.

    Raises: InvalidRequest, with `param` naming the field at fault.
    """
    body = parse_json(raw)
    _refuse_what_is_kept_elsewhere(body)
    lost = Lost()
    chat = _chat_of(body, lost, only_counts=only_counts)
    conversation = Conversation(lost)
    conversation.add_system(body.get("system"))
    conversation.add_messages(body.get("messages"))
    chat["messages"] = conversation.messages
    for name, value in body.items():
        if name == "cache_control" and value is not None:
            lost.add(name)
        elif name not in TRANSLATED and value is not None:
            lost.add(name)
    extra = Extra("messages", body, lost.names, conversation.pieces)
    return ChatRequest(chat, headers=headers, key=key, hops=hops_of(headers), extra=extra)


def _refuse_what_is_kept_elsewhere(body: Json) -> None:
    """A turn that goes on from a stored thread holds new messages only: the answer to those alone would be wrong.

    Raises: ThreadNotFound, at which Anthropic's SDKs send all of the conversation.
    """
    thread = body.get("thread")
    if isinstance(thread, dict) and thread.get("type") == "continue":
        raise ThreadNotFound("threads are not kept here: send the full conversation", param="thread")


def _chat_of(body: Json, lost: Lost, *, only_counts: bool) -> Json:
    """All but the messages."""
    chat: Json = {"model": wanted(body, "model", str, "", "a string")}
    if not chat["model"]:
        refuse("model", "Input should be the name of a model")
    if body.get("max_tokens") is None and not only_counts:
        refuse("max_tokens", "Field required")
    chat |= _numbers(body)
    if body.get("stream") is not None:
        chat["stream"] = wanted(body, "stream", bool, "", "a boolean")
    stops = body.get("stop_sequences")
    if stops is not None:
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            refuse("stop_sequences", "Input should be a list of strings")
        chat |= {"stop": stops} if stops else {}
    chat |= _metadata(body, lost)
    chat |= _output(body, lost)
    return chat | tools_of(body, lost)


def _numbers(body: Json) -> Json:
    out: Json = {}
    for limits, kind, what in ((NUMBERS, int | float, "a number"), (INTEGERS, int, "an integer")):
        for name, (lowest, highest) in limits.items():
            value = body.get(name)
            if value is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool):
                refuse(name, f"Input should be {what}")
            if not lowest <= value <= highest:
                refuse(name, f"Input should be between {lowest} and {highest}")
            out[name] = value
    return out


def _metadata(body: Json, lost: Lost) -> Json:
    metadata = body.get("metadata")
    if metadata is None:
        return {}
    user = wanted(body, "metadata", dict, "", "an object").get("user_id")
    for name, value in metadata.items():
        if name != "user_id" and value is not None:
            lost.add(f"metadata.{name}")
    if user is None:
        return {}
    if not isinstance(user, str):
        refuse("metadata.user_id", "Input should be a string")
    return {"user": user if len(user) <= LONGEST_USER else sha256(user.encode()).hexdigest()}


def _output(body: Json, lost: Lost) -> Json:
    """How much effort, and in which form."""
    out: Json = {}
    config = wanted(body, "output_config", dict, "", "an object") if body.get("output_config") is not None else {}
    for name, value in config.items():
        if name == "effort" and isinstance(value, str) and value in EFFORTS:
            out["reasoning_effort"] = EFFORTS[value]
        elif name != "format" and value is not None:
            lost.add(f"output_config.{name}")
    if config.get("format") is not None:
        out |= _format(config["format"], "output_config.format", lost)
    elif body.get("output_format") is not None:  # its name while it was new
        out |= _format(body["output_format"], "output_format", lost)
    return out


def _format(form: Any, path: str, lost: Lost) -> Json:
    if not isinstance(form, dict):
        refuse(path, "Input should be an object")
    if wanted(form, "type", str, path, "a string") != "json_schema":
        lost.add(path)
        return {}
    schema = wanted(form, "schema", dict, path, "an object")
    named: Json = {"name": "output", "schema": schema}
    if _is_strict(schema):
        named["strict"] = True
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _is_strict(schema: Any) -> bool:
    """Would OpenAI take it as a strict one: all properties required, and no others allowed?"""
    if isinstance(schema, list):
        return all(_is_strict(one) for one in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        names = set(properties) if isinstance(properties, dict) else set()
        required = schema.get("required", [])
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if not names <= {name for name in required if isinstance(name, str)}:
            return False
    return all(_is_strict(one) for one in schema.values())
