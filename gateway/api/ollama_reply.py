"""Ollama's dialect, written: a line of JSON for each piece of an answer, and a last one with counts and durations.

A client that waits is sent blanks before the next line: every reader of JSON passes over them, while an empty line is
an error to some.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.api.envelopes import ollama_error
from gateway.chat import Answer, Json, text_of
from gateway.chunks import Chunk
from gateway.errors import BadBackendReply, GatewayError
from gateway.tools import name_of, part_of
from gateway.trace import RequestTrace, Trace, Usage

DONE_REASONS = {"tool_calls": "stop", "function_call": "stop", None: "stop"}  # others as they are: stop, length
WORDS = ("content", "refusal")
THOUGHTS = ("reasoning_content", "reasoning")


class LineWriter:
    """Writes `message` objects, or with `generates` texts in `response`. `name`: the model as the client called it."""

    media_type = b"application/x-ndjson"
    keep_alive = b" "

    def __init__(self, trace: RequestTrace, name: str, *, generates: bool, shows_thinking: bool) -> None:
        self._trace, self._name = trace, name
        self._generates, self._shows_thinking = generates, shows_thinking

    def chunk(self, chunk: Chunk) -> bytes:
        out = b""
        for choice in chunk.choices:
            delta = choice.get("delta") or {}
            text, thinking = _first(delta, WORDS), self._thinking(delta)
            if not choice.get("index") and (text or thinking):
                out += _line({**self._head(), **self._said(text, thinking), **_logprobs(choice), "done": False})
        return out

    async def end(self, answer: Answer, about: Json) -> bytes:
        message = _choice(answer).get("message") or {}
        calls = _calls(answer.model, message)
        out = _line({**self._head(), **self._said("", "", calls), "done": False}) if calls else b""
        return out + _line({**self._head(), **self._said("", ""), **self._last(answer, about)})

    async def whole(self, answer: Answer, about: Json) -> bytes:
        choice = _choice(answer)
        message = choice.get("message") or {}
        said = self._said(_first(message, WORDS), self._thinking(message), _calls(answer.model, message))
        return orjson.dumps({**self._head(), **said, **_logprobs(choice), **self._last(answer, about)})

    def failure(self, error: GatewayError) -> bytes:
        return ollama_error(error) + b"\n"

    def loaded(self, reason: str) -> bytes:
        """For who asked for nothing but the model to be there."""
        return orjson.dumps({**self._head(), **self._said("", ""), "done": True, "done_reason": reason})

    def _head(self) -> Json:
        return {"model": self._name, "created_at": rfc3339(time.time())}

    def _said(self, text: str, thinking: str, calls: list[Json] | None = None) -> Json:
        thought = {"thinking": thinking} if thinking else {}
        if self._generates:
            return {"response": text, **thought}
        called = {"tool_calls": calls} if calls else {}
        return {"message": {"role": "assistant", "content": text, **thought, **called}}

    def _thinking(self, said: Json) -> str:
        return _first(said, THOUGHTS) if self._shows_thinking else ""

    def _last(self, answer: Answer, about: Json) -> Json:
        reason = _choice(answer).get("finish_reason")
        hop = self._hop(answer.model)
        usage = Usage.read(answer.body.get("usage")) or (hop.spend.usage if hop and hop.spend else Usage(0, 0))
        prompt_ns, answer_ns = _durations(hop)
        return {
            "done": True,
            "done_reason": DONE_REASONS.get(reason, reason),
            "total_duration": int((time.monotonic() - self._trace.started) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": usage.input_tokens,
            "prompt_eval_duration": prompt_ns,
            "eval_count": usage.output_tokens,
            "eval_duration": answer_ns,
            "gateway": about,
        }

    def _hop(self, model: str) -> Trace | None:
        """The call of the model that the answer is of."""
        calls = [hop for hop in self._trace.models() if hop.name == model and hop.ended is not None]
        return next((hop for hop in reversed(calls) if hop.left is None), None) or (calls[-1] if calls else None)


def rfc3339(at: float) -> str:
    """Args: `at` in seconds, as of `time.time()`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _line(data: Json) -> bytes:
    return orjson.dumps(data) + b"\n"


def _choice(answer: Answer) -> Json:
    choices: list[Json] = answer.body.get("choices") or [{}]
    return choices[0]


def _first(said: Json, names: tuple[str, ...]) -> str:
    return next((text for name in names if (text := text_of(said.get(name)))), "")


def _durations(hop: Trace | None) -> tuple[int, int]:
    """Nanoseconds until the first word and from then on; a whole answer does not tell when it began."""
    if hop is None or hop.ended is None:
        return 0, 0
    first_ms: float = (hop.facts or {}).get("first_token_ms", 0.0)
    first_ns, all_ns = int(first_ms * 1e6), int((hop.ended - hop.started) * 1e9)
    return first_ns, max(0, all_ns - first_ns)


def _calls(model: str, message: Json) -> list[Json]:
    """Raises: BadBackendReply where the arguments are no object, which Ollama's clients take nothing else for."""
    return [
        {
            "id": call.get("id"),
            "function": {"index": i, "name": name_of(call), "arguments": _arguments(model, call)},
        }
        for i, call in enumerate(message.get("tool_calls") or ())
    ]


def _arguments(model: str, call: Json) -> Json:
    written = part_of(call).get("arguments") or "{}"
    try:
        arguments = orjson.loads(written)
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise BadBackendReply(f"model '{model}' called '{name_of(call)}' with arguments that are no JSON object")
    return arguments


def _logprobs(choice: Json) -> Json:
    """One object for each token, where they were asked for."""
    tokens: Any = (choice.get("logprobs") or {}).get("content") or ()
    shown = [{k: v for k, v in token.items() if v is not None} for token in tokens if isinstance(token, dict)]
    return {"logprobs": shown} if shown else {}
