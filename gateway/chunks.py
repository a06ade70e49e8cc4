"""What travels from a model to the client: one event of a stream after another."""

from __future__ import annotations

import re
from typing import Any

import orjson

Json = dict[str, Any]
QUOTE = b'"'
TEXT_FIELDS = ("content", "reasoning_content", "reasoning")
LITERAL = re.compile(rb'"(?:[^"\\]|\\.)*"')  # a JSON string, or what looks like one


class Shape:
    """What chunks of one stream have in common that differ in nothing but the text of their only delta.

    Most chunks of a stream do, so that only their text needs to be read, and written.

    Args:
        event: one of them, tidied, without its text; nobody changes it.
        field: of its delta, the text.
        before, after: the bytes around the text's JSON literal, in the event's data.
    """

    __slots__ = ("_from", "_less", "after", "before", "event", "field", "index", "model")

    def __init__(self, event: Json, field: str, before: bytes, after: bytes) -> None:
        self.event, self.field, self.before, self.after = event, field, before, after
        self.index: int = event["choices"][0]["index"]
        self.model = event.get("model")
        self._from, self._less = len(before), -len(after)

    @classmethod
    def of(cls, payload: bytes, event: Json) -> Shape | None:
        """Of a tidied event that was read from `payload`; None where there is more in it than a text."""
        if len(event["choices"]) != 1 or event.get("usage"):
            return None
        choice = event["choices"][0]
        delta = choice["delta"]
        field = next(iter(delta), None)
        if len(delta) != 1 or field not in TEXT_FIELDS or choice.get("finish_reason") or choice.get("logprobs"):
            return None
        name = b'"%b":' % field.encode()
        start = payload.find(name) + len(name)
        if payload.count(name) != 1:
            return None
        start += payload[start : start + 1] == b" "
        literal = LITERAL.match(payload, start)
        if literal is None or orjson.loads(literal[0]) != delta[field]:
            return None
        bare = {**event, "choices": [{**choice, "delta": {}}]}
        return cls(bare, field, payload[:start], payload[literal.end() :])

    def read(self, payload: bytes) -> Chunk | None:
        """The chunk, where this event is of this shape: with nothing but one JSON string in the text's place."""
        if not (payload.startswith(self.before) and payload.endswith(self.after)):
            return None
        literal = payload[self._from : self._less]
        if literal[:1] != QUOTE or literal[-1:] != QUOTE:
            return None
        try:
            text = orjson.loads(literal)
        except orjson.JSONDecodeError:
            return None
        return Chunk(None, self, text, literal)

    def with_text(self, text: str) -> Json:
        """A whole event of this shape."""
        choice = self.event["choices"][0]
        return {**self.event, "choices": [{**choice, "delta": {self.field: text}}]}


class Chunk:
    """One event (a `chat.completion.chunk` object) on its way to the client. An emitted chunk is a promise.

    `shape`, `text`, `literal` (the text as JSON): of a chunk with nothing but a text in it, whose `data` is only made
    when somebody asks. `is_followed`: others came with it, and follow at once.
    """

    __slots__ = ("_data", "is_followed", "literal", "shape", "text")

    def __init__(self, data: Json | None, shape: Shape | None = None, text: str = "", literal: bytes = b"") -> None:
        self._data, self.shape, self.text, self.literal = data, shape, text, literal
        self.is_followed = False

    @property
    def data(self) -> Json:
        if self._data is None:
            assert self.shape is not None  # it has one or the other
            self._data = self.shape.with_text(self.text)
            self.shape = None  # whoever has the data may change them
        return self._data

    @property
    def model(self) -> str:
        """Who says it."""
        return str(self.shape.model if self.shape is not None else self.data.get("model"))

    @property
    def choices(self) -> list[Json]:
        choices: list[Json] = self.data.get("choices") or []
        return choices

    @property
    def word_count(self) -> int:
        """Content, refusal and tool-argument deltas in it, white space alone is none: what a prefix hold counts."""
        if self.shape is not None:
            return int(self.shape.field == "content" and bool(self.text) and not self.text.isspace())
        count = 0
        for choice in self.choices:
            delta = choice.get("delta") or {}
            content = delta.get("content") or delta.get("refusal")
            count += bool(content and not (isinstance(content, str) and content.isspace()))
            count += sum(1 for call in delta.get("tool_calls") or () if call)
        return count

    @property
    def is_silent(self) -> bool:
        """Nothing in it but, perhaps, whose turn it is."""
        if self.shape is not None:
            return not self.text
        for choice in self.choices:
            delta = choice.get("delta") or {}
            if choice.get("finish_reason") or any(value for name, value in delta.items() if name != "role"):
                return False
        return True

    @property
    def is_last_of_a_choice(self) -> bool:
        return self.shape is None and any(choice.get("finish_reason") for choice in self.choices)

    def without_logprobs(self) -> Chunk:
        if self.shape is not None:
            return self
        bare = Chunk({**self.data, "choices": [{**choice, "logprobs": None} for choice in self.choices]})
        bare.is_followed = self.is_followed
        return bare

    def encode(self) -> bytes:
        return b"data: " + orjson.dumps(self.data) + b"\n\n"
