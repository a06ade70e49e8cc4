"""Anthropic's Messages API, written: events from `message_start` to `message_stop`, or one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.api.envelopes import anthropic_error
from gateway.api.messages_blocks import BlockStream, content_of
from gateway.chat import Answer, ChatRequest, Json
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.tokens import BYTES_PER_TOKEN, estimate_request
from gateway.trace import RequestTrace, Usage

STOP_REASONS: Mapping[object, str] = {
    "content_filter": "refusal",
    "function_call": "tool_use",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
STOPPED_BY = ("stop_reason", "matched_stop")  # vLLM's and SGLang's names for the stop sequence that was met


class MessagesWriter:
    media_type = b"text/event-stream; charset=utf-8"
    keep_alive = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, trace: RequestTrace, request: ChatRequest) -> None:
        self._trace, self._request = trace, request
        thinking = request.extra.body.get("thinking") if request.extra else None
        wants_none = isinstance(thinking, Mapping) and thinking.get("type") == "disabled"
        self._blocks = BlockStream(shows_thinking=not wants_none)
        self._has_begun = False
        self._end: Mapping[str, Any] = {}  # the choice that said why it ended

    def chunk(self, chunk: Chunk) -> bytes:
        out = self._begin(chunk.data.get("model"))
        for choice in chunk.choices:
            if choice.get("index"):
                continue  # one answer is all that there is a place for
            self._blocks.take(choice.get("delta") or {})
            if choice.get("finish_reason"):
                self._end = choice
        return out + _encoded(*self._blocks.drain())

    def _begin(self, model: object) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        usage = {**_counts(0, 0, 0, 0), "input_tokens": estimate_request(self._request.body)}
        return _encoded({"type": "message_start", "message": self._message(model, [], None, usage)})

    async def end(self, answer: Answer, about: Json) -> bytes:
        out = self._begin(answer.model) + _encoded(*self._blocks.drain(to_the_end=True))
        reason, sequence = self._stop(self._end)
        return out + _encoded(
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": sequence},
                "usage": self._usage(answer.body.get("usage")),
            },
            {"type": "message_stop", "gateway": about},
        )

    async def whole(self, answer: Answer, about: Json) -> bytes:
        choice = answer.body["choices"][0]
        content = content_of(choice.get("message") or {}, self._blocks)
        reason, sequence = self._stop(choice)
        message = self._message(answer.model, content, reason, self._usage(answer.body.get("usage")), sequence)
        return orjson.dumps({**message, "gateway": about})

    def failure(self, error: GatewayError) -> bytes:
        return b"event: error\ndata: " + anthropic_error(error) + b"\n\n"

    def _message(
        self, model: object, content: list[Json], reason: str | None, usage: Json, sequence: str | None = None
    ) -> Json:
        return {
            "id": f"msg_{self._trace.id}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage,
        }

    def _stop(self, choice: Mapping[str, Any]) -> tuple[str, str | None]:
        """Why it ended, and the stop sequence that ended it, where the model says which."""
        reason = STOP_REASONS.get(choice.get("finish_reason"), "end_turn")
        if reason in ("end_turn", "tool_use"):  # not all servers say that there are calls, and some that there are none
            reason = "tool_use" if self._blocks.has_calls else "end_turn"
        if reason == "end_turn":
            stops = self._request.body.get("stop") or ()
            for name in STOPPED_BY:
                if isinstance(choice.get(name), str) and choice[name] in stops:
                    return "stop_sequence", choice[name]
        return reason, None

    def _usage(self, said: object) -> Json:
        """In Anthropic's words: what a cache held or took is not part of `input_tokens`. Estimated where the model
        did not say."""
        usage = Usage.read(said)
        if usage is None or not isinstance(said, Mapping):
            return _counts(estimate_request(self._request.body), -(-self._blocks.size // BYTES_PER_TOKEN), 0, 0)
        details = said.get("prompt_tokens_details")
        cached, written = _count(said, "cache_read_input_tokens"), _count(said, "cache_creation_input_tokens")
        if isinstance(details, Mapping):
            cached = cached or _count(details, "cached_tokens")
            written = written or _count(details, "cache_creation_tokens") or _count(details, "cache_write_tokens")
        out = _counts(max(0, usage.input_tokens - cached - written), usage.output_tokens, cached, written)
        details = said.get("completion_tokens_details")
        if isinstance(details, Mapping) and _count(details, "reasoning_tokens"):
            out["output_tokens_details"] = {"thinking_tokens": _count(details, "reasoning_tokens")}
        return out


def _counts(given: int, said: int, cached: int, written: int) -> Json:
    return {
        "input_tokens": given,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": said,
    }


def _count(holder: Mapping[str, Any], name: str) -> int:
    value = holder.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def _encoded(*events: Json) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events)
