"""OpenAI's older completions, written: `text_completion` objects, streamed or whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.api.envelopes import openai_error
from gateway.api.openai_reply import DONE
from gateway.chat import Answer, ChatRequest, Json, text_of
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.prompts import text_logprobs
from gateway.trace import RequestTrace

FINISH_REASONS = {"tool_calls": "stop", "function_call": "stop"}  # of a text, which calls nothing


class CompletionWriter:
    """The text of a choice is a string in every chunk, never null: clients put the pieces together unseen."""

    media_type = b"text/event-stream; charset=utf-8"
    keep_alive = b": keep-alive\n\n"

    def __init__(self, trace: RequestTrace, request: ChatRequest) -> None:
        self._trace, self._request = trace, request
        self._shows_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        self._last: Json | None = None  # the chunk with finish_reason, kept until usage is known
        self._offsets: dict[int, int] = {}  # where the next token of a choice stands

    def chunk(self, chunk: Chunk) -> bytes:
        choices = [self._choice(choice, choice.get("delta")) for choice in chunk.choices]
        choices = [choice for choice in choices if choice["text"] or choice["logprobs"] or choice["finish_reason"]]
        if not choices:
            return b""
        data = self._dressed({**chunk.data, "choices": choices})
        ready, self._last = self._last, data if chunk.is_last_of_a_choice else None
        return (_event(ready) if ready else b"") + (b"" if self._last else _event(data))

    def _dressed(self, data: Json) -> Json:
        data["id"] = f"cmpl-{self._trace.id}"
        data["object"] = "text_completion"
        data["created"] = int(self._trace.created)
        if self._request.stream:
            data.pop("usage", None)
            if self._shows_usage:
                data["usage"] = None
        return data

    def _choice(self, choice: Mapping[str, Any], message: Mapping[str, Any] | None) -> Json:
        said, index = message or {}, choice.get("index") or 0
        finish = choice.get("finish_reason")
        return {
            "text": text_of(said.get("content")) or str(said.get("refusal") or ""),
            "index": index,
            "logprobs": self._logprobs(choice.get("logprobs"), index),
            "finish_reason": FINISH_REASONS.get(str(finish), finish),
        }

    def _logprobs(self, logprobs: object, index: int) -> Json | None:
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        if not self._request.wants_logprobs or not isinstance(tokens, list) or not tokens:
            return None
        start = self._offsets.get(index, self._first_offset(index))
        out, self._offsets[index] = text_logprobs(tokens, int(self._request.body["logprobs"]), start)
        return out

    def _first_offset(self, index: int) -> int:
        """Characters are counted from the prompt's first, whether or not it is shown."""
        prompt = self._request.prompt_of(index)
        return len(prompt) if isinstance(prompt, str) and not self._request.body.get("echo") else 0

    async def end(self, answer: Answer, about: Json) -> bytes:
        out = b""
        if self._last is not None:
            out += _event({**self._last, "gateway": about})
        if self._shows_usage and answer.body.get("usage"):
            out += _event({**self._dressed({"choices": [], "model": answer.model}), "usage": answer.body["usage"]})
        return out + DONE

    async def whole(self, answer: Answer, about: Json) -> bytes:
        choices = [self._choice(choice, choice.get("message")) for choice in answer.body.get("choices") or ()]
        return orjson.dumps({**self._dressed({**answer.body, "choices": choices}), "gateway": about})

    def failure(self, error: GatewayError) -> bytes:
        return b"data: " + openai_error(error) + b"\n\n"


def _event(data: Json) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
