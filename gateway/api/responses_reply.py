"""OpenAI's Responses API, written: typed events, or one `response`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api.responses_chat import LOGPROBS
from gateway.api.responses_items import as_stored, response_id
from gateway.api.responses_output import Output
from gateway.api.responses_tools import Tools
from gateway.chat import Answer, Json
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.store.responses import ResponseStore, Stored
from gateway.trace import RequestTrace, Usage

SEALED = "reasoning.encrypted_content"
CUT_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}
TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})


@dataclass(frozen=True)
class Asked:
    """What an answer has to say again of its request.

    Args:
        items: the input, without the conversation before it.
        store: where the answer is kept; None where the client does not want that.
    """

    body: Json
    items: list[Json]
    tools: Tools
    store: ResponseStore | None

    @property
    def previous(self) -> str | None:
        previous: str | None = self.body.get("previous_response_id")
        return previous

    def includes(self, name: str) -> bool:
        return name in (self.body.get("include") or ())


class ResponsesWriter:
    media_type = b"text/event-stream; charset=utf-8"
    keep_alive = b": keep-alive\n\n"

    def __init__(self, trace: RequestTrace, asked: Asked) -> None:
        self._trace, self._asked = trace, asked
        self._id = response_id(trace.id)
        reasoning = asked.body.get("reasoning") or {}
        self._output = Output(
            trace.id,
            asked.tools,
            summarizes=bool(reasoning.get("summary") or reasoning.get("generate_summary")),
            shows_logprobs=asked.includes(LOGPROBS) or bool(asked.body.get("top_logprobs")),
            shows_sealed=asked.includes(SEALED),
        )
        self._model: str = asked.body["model"]
        self._number = 0  # of the next event

    # -- a stream ------------------------------------------------------------------------------------------------

    def chunk(self, chunk: Chunk) -> bytes:
        out = self._begin(str(chunk.data.get("model") or self._model))
        for choice in chunk.choices:
            if choice.get("index", 0) == 0:
                events = self._output.take(choice)
                if choice.get("finish_reason"):
                    events += self._output.close(choice["finish_reason"])
                out += self._encode(*events)
        return out

    async def end(self, answer: Answer, about: Json) -> bytes:
        out = self._begin(answer.model)
        out += self._encode(*self._close(answer))
        response = await self._finished(answer, about)
        return out + self._encode({"type": f"response.{response['status']}", "response": response})

    def failure(self, error: GatewayError) -> bytes:
        """Clients hold every other end for a success, or for a lost connection."""
        out = self._begin(self._model)
        response = self._response("failed", self._output.shown_finished)
        response["error"] = {"code": _code_of(error), "message": error.message}
        return out + self._encode({"type": "response.failed", "response": response})

    def _begin(self, model: str) -> bytes:
        if self._number:
            return b""
        self._model = model
        response = self._response("in_progress", [])
        kinds = ("response.created", "response.in_progress")
        return self._encode(*({"type": kind, "response": response} for kind in kinds))

    def _encode(self, *events: Json) -> bytes:
        out = []
        for event in events:
            event["sequence_number"] = self._number
            self._number += 1
            out.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)))
        return b"".join(out)

    # -- the whole -----------------------------------------------------------------------------------------------

    async def whole(self, answer: Answer, about: Json) -> bytes:
        self._close(answer)
        return orjson.dumps(await self._finished(answer, about))

    def _close(self, answer: Answer) -> list[Json]:
        """Everything of the answer that no chunk has told."""
        output = self._output
        if output.is_closed:
            return []
        choice: Json = next(iter(answer.body.get("choices") or ()), {})
        events = [] if output.items else output.take({**choice, "delta": choice.get("message")})
        return events + output.close(choice.get("finish_reason") or "stop")

    async def _finished(self, answer: Answer, about: Json) -> Json:
        choice: Json = next(iter(answer.body.get("choices") or ()), {})
        reason = CUT_SHORT.get(choice.get("finish_reason") or "")
        self._model = answer.model
        response = self._response("incomplete" if reason else "completed", self._output.items)
        response["incomplete_details"] = {"reason": reason} if reason else None
        response["completed_at"] = None if reason else int(time.time())
        response["usage"] = self._usage(answer)
        tier = answer.body.get("service_tier")
        response["service_tier"] = tier if isinstance(tier, str) and tier in TIERS else None
        response["gateway"] = about
        if self._asked.store is not None:
            stored = Stored(as_stored(self._asked.items, self._trace.id), response, self._asked.previous)
            response["store"] = await self._asked.store.put(self._id, self._trace.key, stored)
        return {**response, "output": self._output.shown}

    def _usage(self, answer: Answer) -> Json:
        """Of the answer that is shown; estimated, as its spend is, where the upstream did not say."""
        said: Json = answer.body.get("usage") or {}
        usage = Usage.read(said) or next(
            (hop.spend.usage for hop in self._trace.models() if hop.spend and hop.spend.model == answer.model),
            Usage(0, 0),
        )
        return {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": _number_in(said, "prompt_tokens_details", "cache_write_tokens"),
            },
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {
                "reasoning_tokens": _number_in(said, "completion_tokens_details", "reasoning_tokens")
            },
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }

    def _response(self, status: str, output: list[Json]) -> Json:
        body = self._asked.body
        text, reasoning = body.get("text") or {}, body.get("reasoning") or {}
        return {
            "id": self._id,
            "object": "response",
            "created_at": int(self._trace.created),
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "max_tool_calls": body.get("max_tool_calls"),
            "model": self._model,
            "output": output,
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": self._asked.previous,
            "prompt_cache_key": body.get("prompt_cache_key"),
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "safety_identifier": body.get("safety_identifier"),
            "service_tier": None,
            "store": self._asked.store is not None,
            "temperature": body.get("temperature"),
            "text": {**text, "format": text.get("format") or {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": [_shown_tool(tool) for tool in body.get("tools") or ()],
            "top_logprobs": body.get("top_logprobs") or 0,
            "top_p": body.get("top_p"),
            "truncation": body.get("truncation") or "disabled",
            "usage": None,
            "user": body.get("user"),
            "metadata": body.get("metadata") or {},
        }


def _shown_tool(tool: Json) -> Json:
    """Functions with the keys that the API's own answers always have."""
    if tool.get("type") != "function":
        return tool
    inner = tool.get("function")
    flat: Json = {"type": "function", **inner} if isinstance(inner, dict) else tool
    return {"description": None, "parameters": None, "strict": None, **flat}


def _number_in(usage: Json, details: str, name: str) -> int:
    found: Any = usage.get(details)
    number = found.get(name) if isinstance(found, dict) else None
    return number if isinstance(number, int) else 0


def _code_of(error: GatewayError) -> str:
    """One of the API's few codes; what clients act on keeps its own."""
    if error.status == 429 or error.code == "rate_limit_exceeded":
        return "rate_limit_exceeded"
    if error.code == "context_length_exceeded":
        return error.code
    return "server_error" if error.status >= 500 else "invalid_prompt"
