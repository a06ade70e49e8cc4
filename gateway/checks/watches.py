"""Reading the JSON of a draft chunk by chunk, so that one that is broken ends at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.checks.growing_json import GrowingJson
from gateway.chunks import Chunk


class TextWatch:
    """Of the words of each choice.

    Args:
        begin: what reads those of a new choice.
    """

    def __init__(self, begin: Callable[[], GrowingJson]) -> None:
        self._begin = begin
        self._texts: dict[int, GrowingJson] = {}

    def take(self, chunk: Chunk) -> str | None:
        shape = chunk.shape
        if shape is not None:  # as most chunks
            return self._feed(shape.index, chunk.text) if shape.field == "content" else None
        for index, delta in deltas(chunk):
            text = delta.get("content")
            if isinstance(text, str) and (fault := self._feed(index, text)) is not None:
                return fault
        return None

    def _feed(self, index: int, text: str) -> str | None:
        growing = self._texts.get(index)
        if growing is None:
            growing = self._texts[index] = self._begin()
        return growing.feed(text)


class CallsWatch:
    """Of the arguments of each tool call.

    Args:
        begin: what reads those of a call of the tool with this name. It is not asked before they begin, and the name is
            whole by then. It may return what is wrong with that tool instead.
    """

    def __init__(self, begin: Callable[[str], GrowingJson | str]) -> None:
        self._begin = begin
        self._calls: dict[tuple[int, int], GrowingJson] = {}
        self._names: dict[tuple[int, int], str] = {}

    def take(self, chunk: Chunk) -> str | None:
        if chunk.shape is not None:
            return None
        for index, delta in deltas(chunk):
            for place, function in functions(delta):
                if (fault := self._read((index, place), function)) is not None:
                    return fault
        return None

    def _read(self, place: tuple[int, int], function: Mapping[str, Any]) -> str | None:
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str):
            self._names[place] = self._names.get(place, "") + name
        if not isinstance(arguments, str) or not arguments:
            return None
        growing = self._calls.get(place)
        if growing is None:
            begun = self._begin(self._names.get(place, ""))
            if isinstance(begun, str):
                return begun
            growing = self._calls[place] = begun
        return growing.feed(arguments)


def deltas(chunk: Chunk) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for choice in chunk.choices:
        yield choice.get("index") or 0, choice.get("delta") or {}


def functions(delta: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The pieces of calls in it, each with its place among them; a legacy `function_call` stands before all."""
    for call in delta.get("tool_calls") or ():
        if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
            if isinstance(place := call.get("index"), int):  # else nobody knows which call it goes on with
                yield place, call["function"]
    legacy = delta.get("function_call")
    if isinstance(legacy, Mapping):
        yield -1, legacy
