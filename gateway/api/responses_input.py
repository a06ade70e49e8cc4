"""The input of OpenAI's Responses API, read: its items as the messages of a chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.api.responses_items import for_upstream, reasoning_text, unseal
from gateway.api.responses_tools import Lost, arguments_of
from gateway.chat import Json
from gateway.errors import InvalidRequest
from gateway.tools import flat_name

ROLES = frozenset({"assistant", "developer", "system", "tool", "user"})
TEXTS = frozenset({"input_text", "output_text", "reasoning_text", "summary_text", "text"})
IMAGES = frozenset({"computer_screenshot", "image_url", "input_image"})
PARTS = "input_audio, input_file, input_image, input_text, output_text, refusal"
SEE_BELOW = "(see the next message)"


def items_of(value: Any, where: str = "input") -> list[Json]:
    """`input` as a list of items that each have a type. Raises: InvalidRequest."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        raise InvalidRequest(f"'{where}' must be a string or a list of items", param=where)
    return [_with_type(item, f"{where}[{i}]") for i, item in enumerate(value)]


def _with_type(item: Any, where: str) -> Json:
    if not isinstance(item, dict):
        raise InvalidRequest("an item must be an object", param=where)
    kind = item.get("type")
    if isinstance(kind, str):
        return item
    if kind is None and "role" in item:
        return {"type": "message", **{name: value for name, value in item.items() if name != "type"}}
    if kind is None and "id" in item:
        return {"type": "item_reference", "id": item["id"]}
    raise InvalidRequest("an item needs a string in 'type'", param=f"{where}.type")


class Messages:
    """Chat messages, put together item by item.

    What an assistant said in a row becomes one message, calls and all: tool messages have to follow it at once.
    `pieces`: the items that each message was made from, as `for_upstream` has them, by `id()` of the message.
    """

    def __init__(self, lost: Lost) -> None:
        self.all: list[Json] = []
        self.pieces: dict[int, list[Json]] = {}
        self._lost = lost
        self._turn: Json | None = None  # the assistant's message that still grows
        self._reasoning: list[Json] = []  # items that wait for what they led to
        self._media: list[Json] = []  # parts of tool outputs that a tool message has no place for
        self._readers: Mapping[str, Callable[[Json, str], None]] = {
            "message": self._add_message,
            "reasoning": self._add_reasoning,
            "function_call": self._add_call,
            "custom_tool_call": self._add_call,
            "function_call_output": self._add_output,
            "custom_tool_call_output": self._add_output,
        }

    def add_instructions(self, text: str) -> None:
        self._append({"role": "system", "content": text})

    def add(self, item: Json, where: str) -> None:
        """Raises: InvalidRequest."""
        reader = self._readers.get(item["type"])
        if item["type"] == "additional_tools":
            return  # which are no part of what was said
        if reader is None:
            self._lost.add(item["type"], "input[].")
        else:
            reader(item, where)

    def end(self) -> None:
        self._end_turn()
        self._show_media()

    def _append(self, message: Json, *items: Json) -> Json:
        self.all.append(message)
        self.pieces[id(message)] = [one for item in items for one in for_upstream(item)]
        return message

    def _end_turn(self) -> None:
        if self._reasoning and self._turn is not None:
            self._attach_reasoning(self._turn)
        elif self._reasoning:
            self._lost.add("reasoning", "input[].")  # it led to nothing that was kept
            self._reasoning = []
        self._turn = None

    def _show_media(self) -> None:
        if self._media:
            self._append({"role": "user", "content": self._media})
            self._media = []

    # -- messages ------------------------------------------------------------------------------------------------

    def _add_message(self, item: Json, where: str) -> None:
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidRequest(f"'role' must be one of {', '.join(sorted(ROLES))}", param=f"{where}.role")
        if role == "tool":  # a chat's own, among items
            self._add_output({"call_id": item.get("tool_call_id"), "output": item.get("content")}, where, item)
            return
        content = content_of(item.get("content"), f"{where}.content")
        if role == "assistant":
            self._add_said(item, content)
            return
        if content is None:
            raise InvalidRequest(f"a {role} message needs 'content'", param=f"{where}.content")
        self.end()
        self._append({"role": role, "content": content}, item)

    def _add_said(self, item: Json, content: str | list[Json] | None) -> None:
        if self._turn is None or not self._turn.get("tool_calls"):
            self._end_turn_before_text()
            self._turn = self._append({"role": "assistant", "content": content})
        else:  # text between calls and their outputs
            self._turn["content"] = _joined(self._turn["content"], content)
        self._attach_reasoning(self._turn)
        self.pieces[id(self._turn)] += for_upstream(item)
        calls = item.get("tool_calls")
        if isinstance(calls, list) and calls and all(isinstance(call, dict) for call in calls):
            self._turn["tool_calls"] = [*self._turn.get("tool_calls", ()), *calls]

    def _end_turn_before_text(self) -> None:
        """A second text begins a message of its own, and what was thought before it belongs there."""
        self._turn = None
        self._show_media()

    def _add_call(self, item: Json, where: str) -> None:
        name, call_id = item.get("name"), item.get("call_id") or item.get("id")
        for field, value in (("name", name), ("call_id", call_id)):
            if not isinstance(value, str) or not value:
                raise InvalidRequest(f"a call needs a string in '{field}'", param=f"{where}.{field}")
        said = item.get("input" if item["type"] == "custom_tool_call" else "arguments")
        if not isinstance(said, str | None):
            field = "input" if item["type"] == "custom_tool_call" else "arguments"
            raise InvalidRequest(f"'{field}' must be a string", param=f"{where}.{field}")
        arguments = arguments_of(said or "") if item["type"] == "custom_tool_call" else said or "{}"
        namespace = item.get("namespace")
        flat = flat_name(str(name), namespace if isinstance(namespace, str) else None)
        if self._turn is None:
            self._show_media()
            self._turn = self._append({"role": "assistant", "content": None})
        self._attach_reasoning(self._turn)
        self.pieces[id(self._turn)] += for_upstream(item)
        call = {"id": call_id, "type": "function", "function": {"name": flat, "arguments": arguments}}
        self._turn.setdefault("tool_calls", []).append(call)

    def _add_output(self, item: Json, where: str, source: Json | None = None) -> None:
        call_id = item.get("call_id")
        if not isinstance(call_id, str) or not call_id:
            raise InvalidRequest("an output needs the id of its call: a string in 'call_id'", param=f"{where}.call_id")
        content = content_of(item.get("output"), f"{where}.output")
        if content is None:
            raise InvalidRequest("an output needs a string or a list in 'output'", param=f"{where}.output")
        self._end_turn()
        if isinstance(content, list):
            self._media += [part for part in content if part["type"] != "text"]
            content = [part for part in content if part["type"] == "text"] or SEE_BELOW
        self._append({"role": "tool", "tool_call_id": call_id, "content": content}, source or item)

    # -- reasoning -----------------------------------------------------------------------------------------------

    def _add_reasoning(self, item: Json, where: str) -> None:
        self._reasoning.append(item)

    def _attach_reasoning(self, message: Json) -> None:
        """In the carriers that wires of other dialects know; see `Extra`."""
        texts = [message["reasoning_content"]] if message.get("reasoning_content") else []
        for item in self._reasoning:
            texts.append(reasoning_text(item))
            carried = unseal(item.get("encrypted_content")) or {}
            originals = for_upstream(item)
            for name, parts in {**carried, "reasoning_items": originals}.items():
                if parts:
                    message[name] = [*message.get(name, ()), *parts]
            self.pieces[id(message)] += originals
        text = "\n\n".join(filter(None, texts))
        if text:
            message["reasoning_content"] = text
        self._reasoning = []


def _joined(before: Any, after: Any) -> Any:
    if before is None or after is None:
        return after if before is None else before
    return [*_as_list(before), *_as_list(after)]


def _as_list(content: str | list[Json]) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def content_of(content: Any, where: str) -> str | list[Json] | None:
    """A chat's `content`; one text alone is a string. Raises: InvalidRequest."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest("this must be a string or a list of parts", param=where)
    parts = [_part_of(part, f"{where}[{i}]") for i, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts) and len(parts) < 2:
        return str(parts[0]["text"]) if parts else ""
    return parts


def _part_of(part: Any, where: str) -> Json:
    if not isinstance(part, dict):
        raise InvalidRequest("a content part must be an object", param=where)
    kind = part.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest("a content part needs a string in 'type'", param=f"{where}.type")
    if kind in TEXTS:
        return {"type": "text", "text": _text_in(part, "text", where)}
    if kind == "refusal":
        return {"type": "refusal", "refusal": _text_in(part, "refusal", where)}
    if kind in IMAGES:
        return _image_of(part, where)
    if kind in ("input_file", "file"):
        inner = part.get("file")
        given = inner if isinstance(inner, dict) else part
        fields = ("file_data", "file_id", "file_url", "filename")
        return {"type": "file", "file": {name: given[name] for name in fields if given.get(name) is not None}}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise InvalidRequest(f"a content part's 'type' must be one of {PARTS}", param=f"{where}.type")


def _image_of(part: Json, where: str) -> Json:
    image = part.get("image_url")
    if isinstance(image, str):
        image = {"url": image}
        if isinstance(part.get("detail"), str):
            image["detail"] = part["detail"]
    if isinstance(image, dict):
        return {"type": "image_url", "image_url": image}
    if isinstance(part.get("file_id"), str):
        return {"type": "file", "file": {"file_id": part["file_id"]}}
    raise InvalidRequest("an image needs a string in 'image_url' or 'file_id'", param=f"{where}.image_url")


def _text_in(part: Json, name: str, where: str) -> str:
    text = part.get(name)
    if not isinstance(text, str):
        raise InvalidRequest(f"a {part['type']} part needs a string in '{name}'", param=f"{where}.{name}")
    return text
