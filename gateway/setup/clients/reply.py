"""A chat reply as bytes, whole or streamed, read the way a plain HTTP client has to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.setup.clients import Failure
from gateway.transport.sse import SseDecoder


@dataclass
class StreamText:
    """Takes a stream piece by piece. `is_done` once `[DONE]` has come."""

    text: str = ""
    is_done: bool = False
    failure: Failure | None = None
    _decoder: SseDecoder = field(default_factory=SseDecoder)

    def feed(self, piece: bytes) -> None:
        for event in self._decoder.feed(piece):
            if event == b"[DONE]":
                self.is_done = True
            else:
                self._take(event)

    def end(self) -> None:
        if not self.is_done and self.failure is None:
            self.failure = Failure("the stream broke off before its end")

    def _take(self, event: bytes) -> None:
        data = _parsed(event)
        if data is None:
            self.failure = Failure("the stream has an event that is not JSON")
        elif "error" in data:
            self.failure = failure_of(None, event)
        else:
            self.text += _text_of(data, "delta")


def whole_text(body: bytes) -> tuple[str, Failure | None]:
    data = _parsed(body)
    return ("", Failure("the reply is not JSON")) if data is None else (_text_of(data, "message"), None)


def failure_of(status: int | None, body: bytes) -> Failure:
    """From OpenAI's error object, or what else stands there."""
    data = _parsed(body) or {}
    error = data.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        return Failure(str(error.get("message", "")), status, str(code) if code is not None else None)
    if isinstance(error, str):  # Ollama's
        return Failure(error, status)
    return Failure(body[:200].decode("utf-8", "replace").strip() or "an empty reply", status)


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None


def _text_of(data: dict[str, Any], part: str) -> str:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return ""
    message = choices[0].get(part)
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""
