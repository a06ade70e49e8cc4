"""Items of OpenAI's Responses API: their ids, and what a reasoning item keeps for the next turn."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.chat import Json

SEALED = "gw1."  # what our `encrypted_content` begins with
CARRIERS = {"reasoning_items": ("reasoning",), "thinking_blocks": ("thinking", "redacted_thinking")}  # types of each
OWN_ID = re.compile(r"[a-z]+_([0-9a-f]{32})[io]\d+")
PREFIXES = {"message": "msg", "function_call": "fc", "custom_tool_call": "ctc", "reasoning": "rs"}


def response_id(trace_id: str) -> str:
    return f"resp_{trace_id}"


def item_id(kind: str, trace_id: str, place: int, *, is_input: bool = False) -> str:
    """Names its response, so that an `item_reference` can be followed without an index."""
    return f"{PREFIXES.get(kind, 'item')}_{trace_id}{'i' if is_input else 'o'}{place}"


def response_of(item: str) -> str | None:
    """Id of the response that an item of ours belongs to; None for an id that somebody else gave."""
    found = OWN_ID.fullmatch(item)
    return response_id(found[1]) if found else None


def seal(carried: Mapping[str, Sequence[Json]]) -> str:
    """The carriers of a reasoning, as `encrypted_content` that a client hands back unread.

    A reasoning item's id is told at its first word, and the upstream's own id at its last; the upstream wants it back.
    """
    return SEALED + base64.urlsafe_b64encode(orjson.dumps(carried)).decode()


def unseal(text: object) -> dict[str, list[Json]] | None:
    """The carriers again; None for what was sealed by somebody else.

    Anybody can write one, so nothing but reasoning is taken out of it: whatever else a request says has to stand where
    rules and limits see it.
    """
    if not isinstance(text, str) or not text.startswith(SEALED):
        return None
    try:
        carried = orjson.loads(base64.urlsafe_b64decode(text[len(SEALED) :]))
        orjson.dumps([[[[carried]]]])  # a model must be sent this, a few levels deeper
    except (ValueError, orjson.JSONEncodeError):
        return None
    if not isinstance(carried, dict):
        return None
    return {name: _reasoning_in(carried.get(name), kinds) for name, kinds in CARRIERS.items()}


def _reasoning_in(parts: Any, kinds: Sequence[str]) -> list[Json]:
    found = parts if isinstance(parts, list) else []
    return [part for part in found if isinstance(part, dict) and part.get("type") in kinds]


def for_upstream(item: Json) -> list[Json]:
    """An item as an upstream of this dialect may be handed it: ids that we gave mean nothing to it, and neither does
    reasoning that no upstream of its kind has sealed."""
    if item.get("type") == "reasoning":
        carried = unseal(item.get("encrypted_content"))
        if carried is not None:
            return carried["reasoning_items"]
    if not (isinstance(item.get("id"), str) and OWN_ID.fullmatch(item["id"])):
        return [item]
    if item["type"] == "reasoning":
        return [] if not item.get("encrypted_content") else [item]
    return [{name: value for name, value in item.items() if name != "id"}]


def reasoning_text(item: Mapping[str, Any]) -> str:
    """What a reasoning item says in plain words: its text, else the summary of it."""
    for name, between in (("content", ""), ("summary", "\n\n")):
        parts = item.get(name)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        text = between.join(one for one in texts if isinstance(one, str))
        if text:
            return text
    return ""


def without_seal(item: Json) -> Json:
    """A reasoning item as it is shown to a client that did not ask for `encrypted_content`."""
    if item.get("type") != "reasoning" or "encrypted_content" not in item:
        return item
    return {name: value for name, value in item.items() if name != "encrypted_content"}


def as_stored(items: Sequence[Json], trace_id: str) -> list[Json]:
    """Input items as they are kept and listed: each with an id, messages with lists of parts."""
    out = []
    for place, item in enumerate(items):
        kind = item["type"]
        item = {"id": item_id(kind, trace_id, place, is_input=True), **item}
        if not isinstance(item["id"], str):
            item["id"] = item_id(kind, trace_id, place, is_input=True)
        if kind == "message":
            item = {"status": "completed", **item, "content": _as_parts(item)}
        out.append(item)
    return out


def _as_parts(message: Json) -> list[Json]:
    content = message.get("content")
    if isinstance(content, str):
        is_output = message.get("role") == "assistant"
        text: Json = {"type": "output_text" if is_output else "input_text", "text": content}
        return [{**text, "annotations": [], "logprobs": []} if is_output else text]
    return content or []
