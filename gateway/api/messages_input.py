"""What an Anthropic request says to a model, as a chat says it: messages and tools.

A block that a chat has no place for is left out and its name noted in `lost`, but for content that the answer would be
about: that is sent in the nearest form, and the model's own refusal speaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import orjson

from gateway.chat import Json
from gateway.errors import InvalidRequest

MAX_LOST = 32  # names in a response header
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.\[\]-]")
ROLES = ("user", "assistant", "system")
OF_TOOLS = frozenset({"name", "description", "input_schema", "strict", "type"})  # what a function keeps
SAYS_SO = ("error", "<tool_use_error")


def refuse(path: str, what: str) -> NoReturn:
    """As Anthropic writes it, with dots: `messages.0.content: Field required`."""
    raise InvalidRequest(f"{path}: {what}", param=path)


def wanted(holder: Mapping[str, Any], name: str, kind: type, path: str, what: str) -> Any:
    """A field that must be there. `path` is the holder's. Raises: InvalidRequest."""
    value = holder.get(name)
    if not isinstance(value, kind):
        place = f"{path}.{name}" if path else name
        refuse(place, "Field required" if value is None else f"Input should be {what}")
    return value


class Lost:
    """Names of what was left out, each once. Clients choose some of them, and they go into a header."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        if len(self._names) < MAX_LOST:
            self._names[NOT_IN_A_NAME.sub("_", name[:64])] = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)


class Conversation:
    """Chat messages in the making. `pieces`: the blocks that each was made from, by `id()`.

    All of `system` becomes the first message. What tool results show beside text (chat's tool messages hold nothing
    else) becomes part of the user message behind them, and stays a piece of the tool message.
    """

    def __init__(self, lost: Lost) -> None:
        self.messages: list[Json] = []
        self.pieces: dict[int, Sequence[Json]] = {}
        self._lost = lost

    def add_system(self, system: Any) -> None:
        if system is not None and system != "" and system != []:
            self._add_system(blocks_of(system, "system"), "system")

    def add_messages(self, messages: Any) -> None:
        """Raises: InvalidRequest."""
        if messages is None:
            refuse("messages", "Field required")
        if not isinstance(messages, list):
            refuse("messages", "Input should be a list")
        if not messages:
            refuse("messages", "at least one message is required")
        for i, message in enumerate(messages):
            path = f"messages.{i}"
            if not isinstance(message, dict):
                refuse(path, "Input should be an object")
            role = wanted(message, "role", str, path, "a string")
            if role not in ROLES:
                refuse(f"{path}.role", f"Input should be one of {', '.join(ROLES)}")
            blocks = blocks_of(message.get("content"), f"{path}.content")
            add = {"user": self._add_user, "assistant": self._add_assistant, "system": self._add_system}[role]
            add(blocks, f"{path}.content")

    def _add(self, message: Json, blocks: Sequence[Json]) -> None:
        self.messages.append(message)
        self.pieces[id(message)] = blocks

    # -- roles -------------------------------------------------------------------------------------------------------

    def _add_system(self, blocks: list[Json], path: str) -> None:
        parts = [part for i, block in enumerate(blocks) for part in self._parts(block, f"{path}.{i}")]
        for part in parts:
            if part["type"] != "text":
                self._lost.add(f"system.{part['type']}")
        self._add({"role": "system", "content": _text_only(parts)}, blocks)

    def _add_user(self, blocks: list[Json], path: str) -> None:
        shown: list[Json] = []  # by tool results
        own: list[Json] = []
        rest: list[Json] = []
        results = 0
        for i, block in enumerate(blocks):
            if block["type"] == "tool_result":
                shown += self._add_result(block, f"{path}.{i}")
                results += 1
            else:
                own += self._parts(block, f"{path}.{i}")
                rest.append(block)
        parts = shown + own
        if parts or not results:
            has_media = any(part["type"] != "text" for part in parts)
            self._add({"role": "user", "content": parts if has_media else _text_only(parts)}, rest)
        elif rest:
            last = id(self.messages[-1])
            self.pieces[last] = [*self.pieces[last], *rest]

    def _add_result(self, block: Json, path: str) -> list[Json]:
        """A tool message. Returns: parts that it has no place for."""
        call = wanted(block, "tool_use_id", str, path, "a string")
        content = block.get("content")
        inner = blocks_of(content, f"{path}.content") if content is not None else []
        parts = [part for i, one in enumerate(inner) for part in self._parts(one, f"{path}.content.{i}")]
        self._note_hints(block)
        text, shown = _text_only(parts), [part for part in parts if part["type"] != "text"]
        if block.get("is_error") and not text.lstrip().lower().startswith(SAYS_SO):
            text = f"Error: {text}"
        if shown and not text:
            text = "The next user message shows it."
        self._add({"role": "tool", "tool_call_id": call, "content": text}, [block])
        return [{"type": "text", "text": f"Result of the tool call {call}:"}, *shown] if shown else []

    def _add_assistant(self, blocks: list[Json], path: str) -> None:
        message: Json = {"role": "assistant", "content": None}
        texts, calls, thoughts = [], [], []
        cites = False
        for i, block in enumerate(blocks):
            kind, place = block["type"], f"{path}.{i}"
            if kind == "text":
                texts.append(wanted(block, "text", str, place, "a string"))
                cites = cites or bool(block.get("citations"))
            elif kind == "tool_use":
                calls.append(_call(block, place))
            elif kind in ("thinking", "redacted_thinking"):
                thoughts.append(block)
            else:
                self._lost.add(f"messages[].{kind}")
            self._note_hints(block)
        if calls:
            message["tool_calls"] = calls
        if any(texts) or not calls:
            message["content"] = ("" if cites else "\n").join(texts)  # citations cut sentences into blocks
        self._add(message | _carried(thoughts, path), blocks)

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _parts(self, block: Json, path: str) -> list[Json]:
        """What a block comes to in a message that is not the assistant's."""
        kind = block["type"]
        self._note_hints(block)
        if kind == "text":
            text = wanted(block, "text", str, path, "a string")
            return [{"type": "text", "text": text}] if text else []
        if kind == "image":
            return [_image(wanted(block, "source", dict, path, "an object"), f"{path}.source")]
        if kind == "document":
            return self._document(block, path)
        if kind == "search_result":
            self._lost.add("messages[].search_result")  # its text is sent, what it is to be cited by is not
            found = blocks_of(block.get("content"), f"{path}.content")
            inner = [part for i, one in enumerate(found) for part in self._parts(one, f"{path}.content.{i}")]
            return _titled([block.get("title"), block.get("source")], inner)
        if kind == "tool_reference":  # all tools are there from the start
            return [{"type": "text", "text": f"Tool loaded: {block.get('tool_name')}"}]
        self._lost.add(f"messages[].{kind}")
        return []

    def _document(self, block: Json, path: str) -> list[Json]:
        source = wanted(block, "source", dict, path, "an object")
        kind, place = wanted(source, "type", str, f"{path}.source", "a string"), f"{path}.source"
        headings = [block.get("title"), block.get("context")]
        cites = block.get("citations")
        if isinstance(cites, dict) and cites.get("enabled"):
            self._lost.add("messages[].citations")
        if kind == "text":
            text = wanted(source, "data", str, place, "a string")
            return _titled(headings, [{"type": "text", "text": text}])
        if kind == "content":
            inner = blocks_of(source.get("content"), f"{place}.content")
            parts = [part for i, one in enumerate(inner) for part in self._parts(one, f"{place}.content.{i}")]
            return _titled(headings, parts)
        if kind == "base64":
            title = headings[0] if isinstance(headings[0], str) and headings[0] else "document.pdf"
            return [{"type": "file", "file": {"filename": title, "file_data": _data_url(source, place)}}]
        return [_elsewhere(source, kind, place)]

    def _note_hints(self, block: Json) -> None:
        if block.get("cache_control") is not None:
            self._lost.add("cache_control")


def blocks_of(content: Any, path: str) -> list[Json]:
    """Content as blocks; a string is one of text. Raises: InvalidRequest."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None:
        refuse(path, "Field required")
    if not isinstance(content, list):
        refuse(path, "Input should be a string or a list of blocks")
    for i, block in enumerate(content):
        if not isinstance(block, dict):
            refuse(f"{path}.{i}", "Input should be an object")
        wanted(block, "type", str, f"{path}.{i}", "a string")
    return content


def _text_only(parts: Sequence[Json]) -> str:
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


def _titled(headings: Sequence[Any], parts: list[Json]) -> list[Json]:
    texts = [text for text in headings if isinstance(text, str) and text]
    return [*({"type": "text", "text": text} for text in texts), *parts]


def _image(source: Json, path: str) -> Json:
    kind = wanted(source, "type", str, path, "a string")
    if kind == "base64":
        return {"type": "image_url", "image_url": {"url": _data_url(source, path)}}
    if kind == "url":
        return {"type": "image_url", "image_url": {"url": wanted(source, "url", str, path, "a string")}}
    return _elsewhere(source, kind, path)


def _data_url(source: Json, path: str) -> str:
    media_type = wanted(source, "media_type", str, path, "a string")
    return f"data:{media_type};base64,{wanted(source, 'data', str, path, 'a string')}"


def _elsewhere(source: Json, kind: str, path: str) -> Json:
    """Content that only the model's provider can get at."""
    if kind == "file":
        return {"type": "file", "file": {"file_id": wanted(source, "file_id", str, path, "a string")}}
    if kind == "url":
        return {"type": "file", "file": {"file_url": wanted(source, "url", str, path, "a string")}}
    refuse(f"{path}.type", "Input should be one of base64, content, file, text, url")


def _call(block: Json, path: str) -> Json:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        refuse(f"{path}.input", "Field required" if arguments is None else "Input should be an object")
    return {
        "id": wanted(block, "id", str, path, "a string"),
        "type": "function",
        "function": {
            "name": wanted(block, "name", str, path, "a string"),
            "arguments": orjson.dumps(arguments).decode(),
        },
    }


def _carried(thoughts: Sequence[Json], path: str) -> Json:
    """Thinking goes back to whom it came from: what is signed in blocks, the rest as text."""
    signed = [block for block in thoughts if block.get("signature") or block["type"] == "redacted_thinking"]
    words = [block.get("thinking") for block in thoughts if not block.get("signature")]
    plain = "".join(text for text in words if isinstance(text, str))
    if not all(isinstance(block.get("thinking", ""), str) for block in thoughts):
        refuse(path, "'thinking' should be a string")
    return ({"thinking_blocks": signed} if signed else {}) | ({"reasoning_content": plain} if plain else {})


# -- tools -----------------------------------------------------------------------------------------------------------


def tools_of(body: Mapping[str, Any], lost: Lost) -> Json:
    """`tools`, `tool_choice` and `parallel_tool_calls` of a chat. Raises: InvalidRequest."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools is not None and not isinstance(tools, list):
        refuse("tools", "Input should be a list")
    functions = [function for i, tool in enumerate(tools or ()) for function in _functions(tool, f"tools.{i}", lost)]
    out: Json = {"tools": functions} if functions else {}
    if choice is None:
        return out
    if not isinstance(choice, dict):
        refuse("tool_choice", "Input should be an object")
    chosen = _choice(choice, {tool["function"]["name"] for tool in functions})
    if chosen is not None and functions:
        out["tool_choice"] = chosen
    elif choice["type"] in ("any", "tool"):
        lost.add("tool_choice")
    if choice.get("disable_parallel_tool_use") and functions:
        out["parallel_tool_calls"] = False
    return out


def _functions(tool: Any, path: str, lost: Lost) -> Iterator[Json]:
    """The tool as a function; nothing for those that Anthropic itself runs, and those without a schema."""
    if not isinstance(tool, dict):
        refuse(path, "Input should be an object")
    kind, schema = tool.get("type"), tool.get("input_schema")
    if kind is not None and not isinstance(kind, str):
        refuse(f"{path}.type", "Input should be a string")
    if schema is None and kind not in (None, "custom"):
        lost.add(f"tools[].{kind}")
        return
    function: Json = {"name": wanted(tool, "name", str, path, "a string")}
    description = tool.get("description")
    if description is not None:
        function["description"] = wanted(tool, "description", str, path, "a string")
    function["parameters"] = wanted(tool, "input_schema", dict, path, "an object")
    if tool.get("strict") is not None:
        function["strict"] = wanted(tool, "strict", bool, path, "a boolean")
    for name, value in tool.items():
        if name == "cache_control" and value is not None:
            lost.add(name)
        elif name not in OF_TOOLS and value not in (None, False):
            lost.add(f"tools[].{name}")
    yield {"type": "function", "function": function}


def _choice(choice: Json, names: set[str]) -> str | Json | None:
    """None where the tool that is wanted was left out."""
    kind = wanted(choice, "type", str, "tool_choice", "a string")
    if kind == "tool":
        name = wanted(choice, "name", str, "tool_choice", "a string")
        return {"type": "function", "function": {"name": name}} if name in names else None
    words = {"auto": "auto", "any": "required", "none": "none"}
    if kind not in words:
        refuse("tool_choice.type", "Input should be one of auto, any, tool, none")
    return words[kind]
