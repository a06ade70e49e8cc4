"""Tools of the Responses API, which a chat model is shown as functions, and its calls, read back as what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.chat import Json
from gateway.errors import InvalidRequest
from gateway.tools import flat_name

NAME = re.compile(r"[\w.\-]{1,64}", re.ASCII)
MOST_LOST = 32


class Lost:
    """What a chat has no place for, by dotted names. They go into a header, so that a client's own odd names do not."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: object, within: str = "") -> None:
        if isinstance(name, str) and NAME.fullmatch(name) and len(self._names) < MOST_LOST:
            self._names[within + name] = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)


@dataclass(frozen=True, slots=True)
class Tool:
    """What a client calls a tool. `kind`: function or custom."""

    name: str
    kind: str = "function"
    namespace: str | None = None


class Tools:
    """The tools of one request: `chat` is what a chat body holds of them."""

    def __init__(self, lost: Lost) -> None:
        self.chat: list[Json] = []
        self._lost = lost
        self._by_flat_name: dict[str, Tool] = {}

    def add_all(self, tools: Any, where: str) -> None:
        """Raises: InvalidRequest."""
        if not isinstance(tools, list):
            raise InvalidRequest(f"'{where}' must be a list of tools", param=where)
        for i, tool in enumerate(tools):
            self._add(tool, f"{where}[{i}]", None)

    def _add(self, tool: Any, where: str, namespace: str | None) -> None:
        if not isinstance(tool, dict):
            raise InvalidRequest("a tool must be an object", param=where)
        kind = tool.get("type")
        if kind == "namespace":
            self._add_namespace(tool, where)
        elif kind == "function":
            inner = tool.get("function")
            self._add_function(inner if isinstance(inner, dict) else tool, where, namespace)
        elif kind == "custom":
            self._add_custom(tool, where, namespace)
        elif isinstance(kind, str):
            self._lost.add(kind, "tools[].")
        else:
            raise InvalidRequest("a tool needs a string in 'type'", param=f"{where}.type")

    def _add_namespace(self, tool: Json, where: str) -> None:
        name = _name_of(tool, where)
        inner = tool.get("tools")
        if not isinstance(inner, list):
            raise InvalidRequest("a namespace needs a list in 'tools'", param=f"{where}.tools")
        self._lost.add("namespace", "tools[].")
        for i, one in enumerate(inner):
            self._add(one, f"{where}.tools[{i}]", name)

    def _add_function(self, tool: Json, where: str, namespace: str | None) -> None:
        name = _name_of(tool, where)
        function = {key: tool[key] for key in ("description", "parameters", "strict") if tool.get(key) is not None}
        self._offer(Tool(name, "function", namespace), function)

    def _add_custom(self, tool: Json, where: str, namespace: str | None) -> None:
        """Text in, where a chat knows objects only: an object of one text."""
        name = _name_of(tool, where)
        description = tool.get("description") if isinstance(tool.get("description"), str) else ""
        form = tool.get("format")
        if isinstance(form, dict) and form.get("type") == "grammar":
            self._lost.add("format", "tools[].")
            grammar = f"The input must match this grammar ({form.get('syntax')}):\n{form.get('definition')}"
            description = f"{description}\n\n{grammar}" if description else grammar
        properties = {"input": {"type": "string", "description": "The whole input of the tool."}}
        parameters = {
            "type": "object",
            "properties": properties,
            "required": ["input"],
            "additionalProperties": False,
        }
        function: Json = {"description": description} if description else {}
        self._offer(Tool(name, "custom", namespace), {**function, "parameters": parameters})

    def _offer(self, tool: Tool, function: Json) -> None:
        flat = flat_name(tool.name, tool.namespace)
        if flat in self._by_flat_name:
            return
        self._by_flat_name[flat] = tool
        self.chat.append({"type": "function", "function": {"name": flat, **function}})

    def called(self, flat: str) -> Tool:
        """The tool that a chat model means; one that was never offered is what it says."""
        return self._by_flat_name.get(flat) or Tool(flat)

    def choice(self, choice: Any) -> Any:
        """A chat's `tool_choice`; None where it has no place for this one. Raises: InvalidRequest."""
        if isinstance(choice, str):
            return choice
        kind = choice.get("type")
        if kind in ("function", "custom"):
            return self._chosen(choice, "tool_choice")
        if kind == "allowed_tools":
            inner = choice.get("allowed_tools")
            allowed = inner if isinstance(inner, dict) else choice
            tools = [self._chosen(tool, "tool_choice.tools") for tool in _functions_in(allowed.get("tools"))]
            if tools:
                return {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": allowed.get("mode") or "auto", "tools": tools},
                }
        self._lost.add("tool_choice")
        return None

    def _chosen(self, choice: Json, where: str) -> Json:
        inner = choice.get("function")
        named = inner if isinstance(inner, dict) else choice
        name, namespace = _name_of(named, where), named.get("namespace")
        flat = flat_name(name, namespace if isinstance(namespace, str) else None)
        if flat not in self._by_flat_name:  # within a namespace that was not said
            flat = next((known for known, tool in self._by_flat_name.items() if tool.name == name), flat)
        return {"type": "function", "function": {"name": flat}}


def _name_of(tool: Json, where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("a tool needs a name: a string in 'name'", param=f"{where}.name")
    return name


def _functions_in(tools: Any) -> Iterable[Json]:
    """Of allowed tools, those that a chat can name."""
    if not isinstance(tools, list):
        raise InvalidRequest("'tool_choice.tools' must be a list of tools", param="tool_choice.tools")
    return (tool for tool in tools if isinstance(tool, dict) and tool.get("type") in ("function", "custom"))


def input_of(arguments: str) -> str:
    """A custom tool's input, out of the arguments that a chat model wrote; all of them where they are not as told."""
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = parsed.get("input") if isinstance(parsed, dict) else None
    return text if isinstance(text, str) else arguments


def arguments_of(text: str) -> str:
    """The other way round."""
    return orjson.dumps({"input": text}).decode()
