"""An answer as Anthropic's content blocks: one after the other, each with a start, deltas and a stop, whatever the
order in which a chat's deltas come."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.chat import Json, text_of

NOT_JSON = "INVALID_JSON"  # Anthropic's advice for arguments that are none


class _Block:
    """`start` is None while the name of the tool is not known."""

    __slots__ = ("deltas", "is_over", "kind", "said", "start", "started")

    def __init__(self, kind: str, start: Json | None, *, is_over: bool = False) -> None:
        self.kind, self.start, self.is_over = kind, start, is_over
        self.deltas: list[Json] = []
        self.said = ""  # text, thinking or arguments so far
        self.started = False

    def say(self, kind: str, field: str, piece: str) -> None:
        """Adds to a delta that has not been written yet."""
        self.said += piece
        if self.deltas and self.deltas[-1]["type"] == kind:
            self.deltas[-1][field] += piece
        else:
            self.deltas.append({"type": kind, field: piece})

    @property
    def may_end(self) -> bool:
        """Nothing more comes for it, now that another block has begun."""
        return self.kind != "tool_use" or _is_object(self.said)


class BlockStream:
    """`take` a chat's deltas, then `drain` the events that they come to.

    Only the first block that is not over is written as it grows; what belongs to later ones waits.

    Args: `shows_thinking`: the client has not said that it wants none.
    """

    def __init__(self, *, shows_thinking: bool = True) -> None:
        self._shows_thinking = shows_thinking
        self._blocks: deque[_Block] = deque()  # not over yet
        self._index = 0  # of the first of them
        self._calls: dict[object, _Block] = {}
        self.has_calls = False
        self.size = 0  # characters said

    def take(self, delta: Mapping[str, Any]) -> None:
        self._think(delta)
        for field in ("content", "refusal"):
            text = text_of(delta.get(field))
            if text:
                self._say("text", {"type": "text", "text": ""}, "text_delta", text)
        for place, call in enumerate(delta.get("tool_calls") or ()):
            self._call(call, call.get("index", place))

    def drain(self, *, to_the_end: bool = False) -> list[Json]:
        events: list[Json] = []
        while self._blocks:
            block = self._blocks[0]
            if block.start is None:
                if not to_the_end:
                    break
                block.start = _tool_use(None, "")
            if not block.started:
                block.started = True
                events.append({"type": "content_block_start", "index": self._index, "content_block": block.start})
            events += ({"type": "content_block_delta", "index": self._index, "delta": delta} for delta in block.deltas)
            block.deltas = []
            if not (to_the_end or block.is_over or (len(self._blocks) > 1 and block.may_end)):
                break
            events.append({"type": "content_block_stop", "index": self._index})
            block.is_over = True
            self._blocks.popleft()
            self._index += 1
        return events

    def _last(self, kind: str) -> _Block | None:
        """The newest block, if it is of this kind and goes on."""
        last = self._blocks[-1] if self._blocks else None
        return last if last is not None and last.kind == kind and not last.is_over else None

    def _say(self, kind: str, start: Json, delta: str, piece: str) -> None:
        block = self._last(kind)
        if block is None:
            block = _Block(kind, start)
            self._blocks.append(block)
        block.say(delta, kind, piece)
        self.size += len(piece)

    # -- thinking ----------------------------------------------------------------------------------------------------

    def _think(self, delta: Mapping[str, Any]) -> None:
        """Thinking comes as text, in blocks, or as both: then the blocks say it again, whole, with a signature."""
        if not self._shows_thinking:
            return
        given = delta.get("thinking_blocks")
        blocks = [block for block in given if isinstance(block, Mapping)] if isinstance(given, list) else []
        if not any(block.get("thinking") for block in blocks):
            self._thought(delta.get("reasoning_content") or delta.get("reasoning"))
        for block in blocks:
            if block.get("type") == "redacted_thinking":
                start = {"type": "redacted_thinking", "data": block.get("data") or ""}
                self._blocks.append(_Block("redacted_thinking", start, is_over=True))
            else:
                self._thinking_block(block.get("thinking"), block.get("signature"))

    def _thought(self, text: object) -> None:
        if isinstance(text, str) and text:
            self._say("thinking", {"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", text)

    def _thinking_block(self, text: object, signature: object) -> None:
        text = text if isinstance(text, str) else ""
        open_one = self._last("thinking")
        before = open_one.said if open_one is not None else ""
        if signature and text.startswith(before):
            self._thought(text[len(before) :])
        elif text != before:
            self._thought(text)
        if isinstance(signature, str) and signature:
            block = self._last("thinking")
            if block is None:
                block = _Block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                self._blocks.append(block)
            block.deltas.append({"type": "signature_delta", "signature": signature})
            block.is_over = True

    # -- tools -------------------------------------------------------------------------------------------------------

    def _call(self, call: Mapping[str, Any], index: object) -> None:
        function = call.get("function") or call.get("custom") or {}
        block = self._calls.get(index)
        if block is None:
            block = self._calls[index] = _Block("tool_use", None)
            self._blocks.append(block)
            self.has_calls = True
        name = function.get("name")
        if block.start is None and isinstance(name, str) and name:
            block.start = _tool_use(call.get("id"), name)
        arguments = function.get("arguments")
        if isinstance(arguments, str) and arguments and not block.is_over:
            block.say("input_json_delta", "partial_json", arguments)
            self.size += len(arguments)


def _tool_use(id: object, name: str) -> Json:
    return {"type": "tool_use", "id": id if isinstance(id, str) else "", "name": name, "input": {}}


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def content_of(message: Mapping[str, Any], blocks: BlockStream) -> list[Json]:
    """The blocks of a whole answer. Args: `blocks` has not been used yet."""
    blocks.take(message)
    content: list[Json] = []
    for event in blocks.drain(to_the_end=True):
        if event["type"] == "content_block_start":
            content.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            for field in ("text", "thinking", "signature"):
                if field in delta:
                    content[-1][field] += delta[field]
            if "partial_json" in delta:
                content[-1]["input"] = _input_of(delta["partial_json"])
    return content


def _input_of(arguments: str) -> Json:
    try:
        found = orjson.loads(arguments)
        if isinstance(found, str):  # said twice over
            found = orjson.loads(found)
    except orjson.JSONDecodeError:
        found = None if arguments.strip() else {}
    return found if isinstance(found, dict) else {NOT_JSON: arguments}
