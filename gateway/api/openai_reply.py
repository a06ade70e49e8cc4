"""OpenAI's chat dialect, written: `chat.completion.chunk` events, or one `chat.completion`."""

from __future__ import annotations

import orjson

from gateway.api.envelopes import openai_error
from gateway.chat import Answer, Json
from gateway.chunks import Chunk, Shape
from gateway.errors import GatewayError
from gateway.trace import RequestTrace

DONE = b"data: [DONE]\n\n"


class ChatWriter:
    media_type = b"text/event-stream; charset=utf-8"
    keep_alive = b": keep-alive\n\n"

    def __init__(self, trace: RequestTrace, *, shows_usage: bool) -> None:
        self._trace = trace
        self._shows_usage = shows_usage
        self._last: Chunk | None = None  # the chunk with finish_reason, kept until usage is known
        self._introduced: set[int] = set()  # choices whose role has been said
        self._shape: Shape | None = None
        self._around = (b"", b"")

    def chunk(self, chunk: Chunk) -> bytes:
        shape = chunk.shape
        if shape is not None and self._last is None and shape.index in self._introduced:
            if shape is not self._shape:
                self._shape, self._around = shape, self._dressed(shape)
            return chunk.literal.join(self._around)
        self._dress(chunk.data)
        ready, self._last = self._last, None  # another choice goes on, so the one kept was not the last
        if chunk.is_last_of_a_choice:
            self._last = chunk
        return (ready.encode() if ready else b"") + (b"" if self._last else chunk.encode())

    def _dressed(self, shape: Shape) -> tuple[bytes, bytes]:
        """What stands before and after the text in the events of this shape."""
        mark = f"{self._trace.id} {id(shape)}"
        data = shape.with_text(mark)
        self._dress(data)
        before, _, after = Chunk(data).encode().partition(orjson.dumps(mark))
        return before, after

    def _dress(self, data: Json) -> None:
        """One id and date in every chunk, the role in each choice's first, `usage: null` where usage was asked for."""
        data["id"] = f"chatcmpl-{self._trace.id}"
        data["object"] = "chat.completion.chunk"
        data["created"] = int(self._trace.created)
        if self._shows_usage:
            data["usage"] = None
        for choice in data["choices"]:
            delta = choice.get("delta")
            if delta is None:
                delta = choice["delta"] = {}
            index = choice.get("index", 0)
            if index in self._introduced:
                delta.pop("role", None)
            else:
                self._introduced.add(index)
                delta["role"] = "assistant"
            choice.setdefault("finish_reason", None)

    async def end(self, answer: Answer, about: Json) -> bytes:
        out = b""
        if self._last is not None:
            self._last.data["gateway"] = about
            out += self._last.encode()
        if self._shows_usage and answer.body.get("usage"):
            head: Json = {"choices": [], "model": answer.model}
            self._dress(head)
            out += Chunk({**head, "usage": answer.body["usage"]}).encode()
        return out + DONE

    async def whole(self, answer: Answer, about: Json) -> bytes:
        body = {
            **answer.body,
            "id": f"chatcmpl-{self._trace.id}",
            "object": "chat.completion",
            "created": int(self._trace.created),
            "gateway": about,
        }
        return orjson.dumps(body)

    def failure(self, error: GatewayError) -> bytes:
        return b"data: " + openai_error(error) + b"\n\n"
