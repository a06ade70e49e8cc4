"""Marks of Anthropic's for what its prompt cache is to keep, in a chat that was made of a request to its API.

A chat of OpenAI's has no place for them, and most of who takes one refuses them. Those who pass it on to Anthropic take
`cache_control` on parts, messages and tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.backends.wire import ChatWire
from gateway.chat import ChatRequest, Extra, Json

MARK = "cache_control"
DIALECT = "messages"


class MarkedChatWire(ChatWire):
    """A chat with the marks in it that its client has set."""

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        asked, lost = super().ask(body, request)
        extra = request.extra
        if extra is None or extra.dialect != DIALECT or MARK not in lost:
            return asked, lost
        marked = {**asked, "messages": [_message(message, extra) for message in asked["messages"]]}
        if asked.get("tools"):
            marked["tools"] = _tools(asked["tools"], extra)
        if extra.body.get(MARK):
            marked[MARK] = extra.body[MARK]
        return marked, tuple(name for name in lost if name != MARK)


MARKED_CHAT = MarkedChatWire()


def takes_marks(model: str) -> bool:
    """Is it one of Anthropic's, by the name that somebody else has for it?"""
    return "claude" in model.lower()


def _message(message: Json, extra: Extra) -> Json:
    blocks = extra.pieces.get(id(message), ())
    marks = [block.get(MARK) for block in blocks]
    if not any(marks):
        return message
    content = message.get("content")
    if isinstance(content, str) and not message.get("tool_calls") and all(map(_is_text, blocks)):
        content = [{"type": "text", "text": block["text"]} for block in blocks if block["text"]]
        marks = [block.get(MARK) for block in blocks if block["text"]]
    if isinstance(content, list) and len(content) == len(marks):
        return {**message, "content": [_with(part, mark) for part, mark in zip(content, marks, strict=True)]}
    last = next(mark for mark in reversed(marks) if mark)
    if isinstance(content, list) and content:  # it keeps what comes before it
        return {**message, "content": [*content[:-1], _with(content[-1], last)]}
    return _with(message, last)


def _is_text(block: Json) -> bool:
    return block.get("type") == "text"


def _tools(tools: Sequence[Json], extra: Extra) -> list[Json]:
    theirs = [tool for tool in extra.body.get("tools") or () if isinstance(tool, dict)]
    marks = {tool.get("name"): tool.get(MARK) for tool in theirs}
    return [_with(tool, marks.get((tool.get("function") or {}).get("name"))) for tool in tools]


def _with(holder: Json, mark: object) -> Json:
    return {**holder, MARK: mark} if mark else holder
