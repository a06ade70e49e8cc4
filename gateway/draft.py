"""What a model has said so far, put together from chunks or read from a whole completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.chat import Json, text_of
from gateway.chunks import Chunk, Shape

LISTS_OF_DELTAS = frozenset({"annotations", "reasoning_details", "reasoning_items", "thinking_blocks"})


class ChoiceDraft:
    """One choice of a draft, put together from deltas or read from a whole message."""

    __slots__ = ("calls", "finish_reason", "index", "logprobs", "parts", "rest")

    def __init__(self, index: int) -> None:
        self.index = index
        self.parts: dict[str, list[str]] = {}  # text fields of the message, in pieces
        self.calls: dict[int, Json] = {}  # tool calls by index
        self.logprobs: list[Json] = []  # one object a content token
        self.rest: Json = {}  # fields of the message that are not text: the last one wins
        self.finish_reason: str | None = None

    def text_field(self, name: str) -> str:
        pieces = self.parts.get(name)
        if not pieces:
            return ""
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]  # the same list: whoever adds to it goes on
        return pieces[0]

    @property
    def text(self) -> str:
        return self.text_field("content") or text_of(self.rest.get("content"))

    @property
    def tool_calls(self) -> list[Json]:
        return [self.calls[index] for index in sorted(self.calls)]

    def add(self, choice: Mapping[str, Any]) -> None:
        """Take in one choice of a stream chunk. A whole message is one large delta."""
        for name, value in (choice.get("delta") or {}).items():
            if name == "tool_calls":
                for call in value or ():
                    self._add_call(call)
            elif name == "function_call" and isinstance(value, Mapping):  # what calls were before there were tools
                _add_function(self.rest.setdefault(name, {"name": "", "arguments": ""}), value)
            elif name == "role" or value is None:
                continue
            elif isinstance(value, str):
                self.parts.setdefault(name, []).append(value)
            elif name in LISTS_OF_DELTAS and isinstance(value, list):
                self.rest.setdefault(name, []).extend(value)
            else:
                self.rest[name] = value
        self._add_logprobs(choice.get("logprobs"))
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _add_call(self, piece: Mapping[str, Any]) -> None:
        index = piece.get("index")
        call = self.calls.setdefault(index if isinstance(index, int) else len(self.calls), {"type": "function"})
        for name, value in piece.items():
            if name == "index" or not value:  # some repeat the call's name and id as null or ""
                continue
            if name == "function" and isinstance(value, Mapping):
                _add_function(call.setdefault("function", {"name": "", "arguments": ""}), value)
            else:
                call[name] = value

    def _add_logprobs(self, logprobs: object) -> None:
        if isinstance(logprobs, Mapping):
            self.logprobs.extend(token for token in logprobs.get("content") or () if isinstance(token, dict))

    def as_choice(self) -> Json:
        message: Json = {
            "role": "assistant",
            "content": None,
            "refusal": None,
            **{name: self.text_field(name) for name in self.parts},
            **self.rest,
        }
        if self.calls:
            message["tool_calls"] = self.tool_calls
        logprobs = {"content": self.logprobs, "refusal": None} if self.logprobs else None
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}


def _add_function(function: Json, piece: Mapping[str, Any]) -> None:
    for part, text in piece.items():
        before = function.get(part)
        if isinstance(text, str) and isinstance(before, str):
            function[part] = before + text
        elif text is not None:
            function[part] = text


class Draft:
    """What a model has said so far and nobody has promised to the client yet. Checks read it.

    `complete` is False while only a prefix is there.
    """

    __slots__ = ("_choices", "_pieces", "_shape", "complete", "head", "usage")

    def __init__(self) -> None:
        self._choices: dict[int, ChoiceDraft] = {}
        self._shape: Shape | None = None  # of the last chunk, and where its text belongs
        self._pieces: list[str] = []
        self.head: Json = {}  # id, created, model, system_fingerprint, foreign fields
        self.usage: Json | None = None
        self.complete = False

    @classmethod
    def of(cls, completion: Mapping[str, Any]) -> Draft:
        """From a whole `chat.completion` object."""
        draft = cls()
        for choice in completion.get("choices") or ():
            draft._choice(choice).add({**choice, "delta": choice.get("message")})
        draft._read_head(completion)
        draft.complete = True
        return draft

    @property
    def choices(self) -> list[ChoiceDraft]:
        return [self._choices[index] for index in sorted(self._choices)]

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.choices[0].text if self._choices else ""

    def take(self, chunk: Chunk) -> None:
        """Take in one stream chunk."""
        shape = chunk.shape
        if shape is None:
            self.add(chunk.data)
        elif chunk.text:
            if shape is not self._shape:
                if not self.head:
                    self._read_head(shape.event)
                self._shape = shape
                self._pieces = self._choice(shape.event["choices"][0]).parts.setdefault(shape.field, [])
            self._pieces.append(chunk.text)

    def add(self, data: Mapping[str, Any]) -> None:
        """Take in what a stream chunk holds."""
        for choice in data.get("choices") or ():
            self._choice(choice).add(choice)
        self._read_head(data)

    def _choice(self, choice: Mapping[str, Any]) -> ChoiceDraft:
        index = choice.get("index") or 0
        found = self._choices.get(index)
        if found is None:
            found = self._choices[index] = ChoiceDraft(index)
        return found

    def _read_head(self, data: Mapping[str, Any]) -> None:
        if data.get("usage"):
            self.usage = data["usage"]
        if not self.head:
            self.head = {name: value for name, value in data.items() if name not in ("choices", "usage", "object")}

    def completion(self) -> Json:
        """The draft as a `chat.completion` object."""
        choices = [choice.as_choice() for choice in self.choices]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self.usage}
