"""A chat as Anthropic's Messages API takes it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from gateway.backends.dialects import SYSTEM_ROLES, Lost, objects, split_data_url, text_in
from gateway.chat import Json
from gateway.errors import ModalityRefused

NOT_IN_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")
NO_WORDS = "."  # stands where a text is wanted and there is none
ROLES = {"assistant": "assistant", "developer": "system", "system": "system"}  # the rest is said by the user

Pieces = Callable[[Json], Sequence[Json] | None]
"""The blocks that a message was made of; None where it is to be translated."""


def nothing_known(message: Json) -> None:
    return None


def turns_of(messages: Sequence[Json], lost: Lost, pieces: Pieces = nothing_known) -> tuple[list[Json], list[Json]]:
    """The `system` blocks and the turns, one role after the other, the user's first. A system message that came in
    blocks stays among the turns."""
    system: list[Json] = []
    turns: list[Json] = []
    for message in messages:
        known, said_by = pieces(message), str(message.get("role"))
        if said_by in SYSTEM_ROLES and known is None:
            system += blocks_of(message, lost)
            continue
        blocks = blocks_of(message, lost) if known is None else list(known)
        role = ROLES.get(said_by, "user")
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    for turn in turns:  # results come before whatever else the user says
        turn["content"].sort(key=lambda block: block.get("type") != "tool_result")
    if not turns and system:  # OpenAI's models answer to a system message alone
        return [], [{"role": "user", "content": system}]
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": NO_WORDS}]})
    _trim_prefill(turns[-1])
    return system, turns


def _trim_prefill(last: Json) -> None:
    """What the answer is to begin with may not end in white space."""
    blocks = last["content"]
    if last["role"] == "assistant" and blocks[-1].get("type") == "text":
        blocks[-1] = {**blocks[-1], "text": blocks[-1]["text"].rstrip()}


def blocks_of(message: Json, lost: Lost) -> list[Json]:
    if message.get("name"):
        lost.add("messages[].name")
    if message.get("function_call"):
        lost.add("messages[].function_call")
    role, content = message.get("role"), message.get("content")
    if role == "tool":
        blocks = [_tool_result(message)]
    elif role == "assistant":
        thoughts = [block for block in objects(message.get("thinking_blocks")) if is_signed(block)]
        words = _parts_of(content) or _parts_of(message.get("refusal"))
        blocks = [*thoughts, *words, *map(_tool_use, objects(message.get("tool_calls")))]
    else:
        blocks = _parts_of(content)
    if blocks and message.get("cache_control"):
        blocks[-1] = {**blocks[-1], "cache_control": message["cache_control"]}
    return blocks


def is_signed(block: Mapping[str, Any]) -> bool:
    """Thinking that Anthropic takes back: its own."""
    if block.get("type") == "redacted_thinking":
        return bool(text_in(block.get("data")))
    return bool(text_in(block.get("signature"))) and isinstance(block.get("thinking"), str)


def _tool_result(message: Json) -> Json:
    block: Json = {"type": "tool_result", "tool_use_id": _call_id(message.get("tool_call_id"))}
    content = message.get("content")
    if isinstance(content, str):
        return {**block, "content": content} if content.strip() else block
    parts = _parts_of(content)
    return {**block, "content": parts} if parts else block


def _tool_use(call: Json) -> Json:
    part = call.get("custom") if call.get("type") == "custom" else call.get("function")
    said = part if isinstance(part, Mapping) else {}
    arguments = {"input": said.get("input")} if call.get("type") == "custom" else _as_object(said.get("arguments"))
    name = str(said.get("name") or "")
    return {"type": "tool_use", "id": _call_id(call.get("id")), "name": name, "input": arguments}


def _as_object(arguments: object) -> Json:
    """A model's arguments: what is no JSON object, a small model's slip, is shown as it was said."""
    if isinstance(arguments, str):
        if not arguments.strip():
            return {}
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return {"arguments": arguments}
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


def _call_id(id: object) -> str:
    """Other models' ids hold dots, colons and bars."""
    return NOT_IN_AN_ID.sub("_", str(id or "")) or "_"


def _parts_of(content: object) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    return [block for part in objects(content) if (block := _block_of(part)) is not None]


def _block_of(part: Json) -> Json | None:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        text = text_in(part.get(str(kind)))
        block: Json | None = {"type": "text", "text": text} if text.strip() else None
    elif kind == "image_url":
        block = {"type": "image", "source": _image_source(part.get("image_url"))}
    elif kind == "file":
        block = _document(part.get("file"))
    elif kind == "input_audio":
        raise ModalityRefused("Anthropic's models take no audio", kind="audio")
    else:
        return part  # a block of Anthropic's own
    if block is not None and part.get("cache_control"):
        block["cache_control"] = part["cache_control"]
    return block


def _image_source(image: object) -> Json:
    url = image if isinstance(image, str) else text_in(image.get("url")) if isinstance(image, Mapping) else ""
    data = split_data_url(url)
    if data is not None:
        return {"type": "base64", "media_type": data[0], "data": data[1]}
    if url.lower().startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    raise ModalityRefused("Anthropic's models take an image as a base64 data: URL or by its http(s) address")


def _document(file: object) -> Json:
    said = file if isinstance(file, Mapping) else {}
    title = {"title": said["filename"]} if text_in(said.get("filename")) else {}
    if text_in(said.get("file_id")):
        return {"type": "document", "source": {"type": "file", "file_id": said["file_id"]}, **title}
    if text_in(said.get("file_url")):
        return {"type": "document", "source": {"type": "url", "url": said["file_url"]}, **title}
    data = text_in(said.get("file_data"))
    media_type, encoded = split_data_url(data) or ("application/pdf", "" if ":" in data[:100] else data)
    if encoded and media_type == "application/pdf":
        source: Json = {"type": "base64", "media_type": media_type, "data": encoded}
    elif encoded and media_type.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _decoded(encoded)}
    else:
        raise ModalityRefused(
            "Anthropic's models take files that are PDF or text, in 'file_data' as a base64 data: URL"
        )
    return {"type": "document", "source": source, **title}


def _decoded(encoded: str) -> str:
    try:
        return base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ModalityRefused("a text file in 'file_data' must be UTF-8 in base64") from None
