"""A script that plays an OpenAI-compatible upstream, faults included, for `engine: scripted` and `gateway scripted`.

    replies:
      - when: {contains: weather}          # the last user turn holds this text; also `model:`
        text: It is sunny today.
        logprobs: -0.1                     # of every token; or a list, one a token
      - times: 1                           # used once, then the next that fits
        error: {status: 503, message: try later, headers: {retry-after: "2"}}
      - tool_calls: [{name: look_up, arguments: {city: Paris}}]
        first_token_ms: 200
        between_ms: 10
        cut_after: 3                       # events, then the connection is lost
      - chance: 0.05                       # of each request, this one gets it
        reset: true

The first reply that fits and has uses left is played; where none fits the upstream answers 404. A prompt in place of
messages is answered as at `/v1/completions`.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gateway.chat import ChatRequest, Json
from gateway.prompts import text_logprobs
from gateway.tokens import estimate, estimate_request


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Spec):
    contains: str | None = None
    model: str | None = None


class ScriptedCall(_Spec):
    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)  # a string is sent as it is, valid JSON or not


class ScriptedError(_Spec):
    status: int = Field(default=500, ge=400, le=599)
    message: str = "scripted error"
    type: str | None = None
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    body: str | None = None  # sent instead of a JSON error, e.g. an HTML page


class ScriptedReply(_Spec):
    when: When = When()
    times: int | None = Field(default=None, ge=1)
    chance: float | None = Field(default=None, gt=0, le=1)  # else it is played whenever it fits
    text: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ScriptedCall, ...] = ()
    logprobs: float | tuple[float, ...] | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | Literal["none"] | None = None  # "none": the upstream never says
    first_token_ms: float = Field(default=0, ge=0)
    between_ms: float = Field(default=0, ge=0)
    error: ScriptedError | None = None
    cut_after: int | None = Field(default=None, ge=0)
    malformed_after: int | None = Field(default=None, ge=0)
    error_after: int | None = Field(default=None, ge=0)
    stall_after: int | None = Field(default=None, ge=0)
    omit_done: bool = False
    silent: bool = False  # takes the request and never says a word
    reset: bool = False  # takes the request and drops the connection
    body: str | None = None  # sent as it is, with status 200 and as JSON, in place of an answer


class ScriptSpec(_Spec):
    replies: tuple[ScriptedReply, ...] = Field(min_length=1)
    seed: int | None = None  # of what is left to chance


@dataclass(frozen=True, slots=True)
class Head:
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is lost here."""


Step = Head | Wait | Send | Cut
FOREVER_S = 3600.0


class Script:
    """Plays replies in order; counts how often each was used and how many requests it was asked."""

    def __init__(self, spec: ScriptSpec) -> None:
        self.spec = spec
        self.used = [0] * len(spec.replies)
        self.requests: list[Json] = []  # bodies, newest last, for tests that look at what arrived
        self._ids = itertools.count(1)
        self._random = random.Random(spec.seed)

    def play(self, body: Json) -> Iterator[Step]:
        """The steps of the answer to this request body, faults and pauses included."""
        self.requests = [*self.requests[-9:], body]
        request = ChatRequest(body)
        drawn = self._random.random()  # once a request, so that chances add up
        for position, reply in enumerate(self.spec.replies):
            if reply.times is not None and self.used[position] >= reply.times:
                continue
            if _fits(reply.when, request):
                drawn -= reply.chance or 0.0
                if reply.chance is not None and drawn >= 0:
                    continue
                self.used[position] += 1
                return _steps(reply, request, next(self._ids))
        return _error_steps(ScriptedError(status=404, message="no scripted reply fits this request"))


def _fits(when: When, request: ChatRequest) -> bool:
    if when.model is not None and when.model != request.model:
        return False
    return when.contains is None or when.contains.lower() in request.last_user_text.lower()


def _steps(reply: ScriptedReply, request: ChatRequest, number: int) -> Iterator[Step]:
    if reply.error is not None:
        yield from _paused(reply.first_token_ms)
        yield from _error_steps(reply.error)
    elif reply.reset:
        yield Cut()
    elif reply.silent:
        yield Wait(FOREVER_S)
        yield Cut()
    elif reply.body is not None:
        yield from _paused(reply.first_token_ms)
        yield Head(200, {"content-type": "application/json"})
        yield Send(reply.body.encode())
    elif request.stream:
        yield from _stream_steps(reply, request, number)
    else:
        yield from _whole_steps(reply, request, number)


def _paused(milliseconds: float) -> Iterator[Step]:
    if milliseconds:
        yield Wait(milliseconds / 1000)


def _error_steps(error: ScriptedError) -> Iterator[Step]:
    if error.body is not None:
        yield Head(error.status, {"content-type": "text/html", **error.headers})
        yield Send(error.body.encode())
        return
    yield Head(error.status, {"content-type": "application/json", **error.headers})
    yield Send(orjson.dumps({"error": error.model_dump(include={"message", "type", "code", "param"})}))


def _pieces(text: str | None) -> list[str]:
    """Word by word, white space kept, so that the pieces join to the text again."""
    return re.findall(r"\s*\S+|\s+$", text or "")


def _logprobs(reply: ScriptedReply, pieces: list[str]) -> list[Json]:
    if reply.logprobs is None:
        return []
    values = itertools.repeat(reply.logprobs) if isinstance(reply.logprobs, float | int) else reply.logprobs
    return [{"token": t, "logprob": v, "bytes": None, "top_logprobs": []} for t, v in zip(pieces, values, strict=False)]


def _calls(reply: ScriptedReply, number: int) -> list[Json]:
    """Clients take a call whose id they have seen before for the same: `number` makes them differ by request."""
    return [
        {
            "id": f"call_{number}_{i}",
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": call.arguments
                if isinstance(call.arguments, str)
                else orjson.dumps(call.arguments).decode(),
            },
        }
        for i, call in enumerate(reply.tool_calls)
    ]


def _finish_reason(reply: ScriptedReply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _usage(reply: ScriptedReply, request: ChatRequest) -> Json | None:
    if reply.usage == "none":
        return None
    if isinstance(reply.usage, dict):
        return reply.usage
    prompt = estimate_request(request.body)
    said = len(_pieces(reply.text)) + sum(estimate(call["function"]["arguments"]) for call in _calls(reply, 0))
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def _head_fields(request: ChatRequest, number: int, kind: str) -> Json:
    prefix = "cmpl" if request.is_prompt else "chatcmpl"
    return {"id": f"{prefix}-scripted-{number}", "object": kind, "created": int(time.time()), "model": request.model}


# --- prompts


def _text_tokens(reply: ScriptedReply, request: ChatRequest, index: int) -> list[Json]:
    """One object a word, the prompt's in front where the client wants it back. Nothing is foretold of the first."""
    prompt = request.prompt_of(index)
    text = prompt if request.body.get("echo") and isinstance(prompt, str) else ""
    echoed, said = _pieces(text), _pieces(reply.text)
    tokens = _logprobs(reply, said) or [{"token": piece, "logprob": None, "top_logprobs": None} for piece in said]
    alike = tokens[0]["logprob"] if tokens else None
    head: list[Json] = [
        {"token": piece, "logprob": alike if i else None, "top_logprobs": [] if i else None}
        for i, piece in enumerate(echoed)
    ]
    return [*head, *tokens]


def _text_choice(
    reply: ScriptedReply, request: ChatRequest, index: int, tokens: list[Json], offset: int, reason: str | None
) -> Json:
    top = request.body.get("logprobs")
    shows = request.wants_logprobs and reply.logprobs is not None and tokens
    return {
        "text": "".join(token["token"] for token in tokens),
        "index": index,
        "logprobs": text_logprobs(tokens, top if isinstance(top, int) else 0, offset)[0] if shows else None,
        "finish_reason": reason,
    }


def _start(request: ChatRequest, index: int) -> int:
    """Where the text of a choice begins: characters are counted from the prompt's first."""
    prompt = request.prompt_of(index)
    return 0 if request.body.get("echo") or not isinstance(prompt, str) else len(prompt)


def _text_completion(reply: ScriptedReply, request: ChatRequest, number: int) -> Json:
    choices = [
        _text_choice(reply, request, i, _text_tokens(reply, request, i), _start(request, i), _finish_reason(reply))
        for i in range(request.choice_count)
    ]
    return {**_head_fields(request, number, "text_completion"), "choices": choices, "usage": _usage(reply, request)}


def _text_events(reply: ScriptedReply, request: ChatRequest, number: int) -> Iterator[Json]:
    head = _head_fields(request, number, "text_completion")
    for index in range(request.choice_count):
        offset = _start(request, index)
        for token in _text_tokens(reply, request, index):
            yield {**head, "choices": [_text_choice(reply, request, index, [token], offset, None)]}
            offset += len(token["token"])
        yield {**head, "choices": [_text_choice(reply, request, index, [], offset, _finish_reason(reply))]}
    yield from _usage_events(reply, request, head)


# --- chats


def _whole_steps(reply: ScriptedReply, request: ChatRequest, number: int) -> Iterator[Step]:
    pieces = _pieces(reply.text)
    yield from _paused(reply.first_token_ms + reply.between_ms * max(0, len(pieces) - 1))
    completion = (_text_completion if request.is_prompt else _chat_completion)(reply, request, number)
    body = orjson.dumps(completion)
    yield Head(200, {"content-type": "application/json"})
    if reply.malformed_after is not None:
        yield Send(body[: len(body) // 2])
    elif reply.stall_after is not None:
        yield Send(body[: len(body) // 2])
        yield Wait(FOREVER_S)
    elif reply.cut_after is not None or reply.error_after is not None:
        yield Send(body[: len(body) // 2])
        yield Cut()
    else:
        yield Send(body)


def _chat_completion(reply: ScriptedReply, request: ChatRequest, number: int) -> Json:
    pieces = _pieces(reply.text)
    message: Json = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = _calls(reply, number)
    wants_logprobs = request.body.get("logprobs") and reply.logprobs is not None
    logprobs = {"content": _logprobs(reply, pieces), "refusal": None} if wants_logprobs else None
    choices = [
        {"index": i, "message": message, "logprobs": logprobs, "finish_reason": _finish_reason(reply)}
        for i in range(request.body.get("n") or 1)
    ]
    return {**_head_fields(request, number, "chat.completion"), "choices": choices, "usage": _usage(reply, request)}


def _stream_steps(reply: ScriptedReply, request: ChatRequest, number: int) -> Iterator[Step]:
    yield Head(200, {"content-type": "text/event-stream"})
    yield from _paused(reply.first_token_ms)
    sent = 0
    for event in (_text_events if request.is_prompt else _events)(reply, request, number):
        if reply.cut_after is not None and sent >= reply.cut_after:
            yield Cut()
            return
        if reply.malformed_after is not None and sent >= reply.malformed_after:
            yield Send(b'data: {"choices": [{"index": 0, "delta"\n\n')
            return
        if reply.error_after is not None and sent >= reply.error_after:
            yield Send(b'data: {"error": {"message": "scripted error", "type": "server_error", "code": null}}\n\n')
            return
        if reply.stall_after is not None and sent >= reply.stall_after:
            yield Wait(FOREVER_S)
        if sent:
            yield from _paused(reply.between_ms)
        yield Send(b"data: " + orjson.dumps(event) + b"\n\n")
        sent += 1
    if reply.cut_after is not None:
        yield Cut()
    elif not reply.omit_done:
        yield Send(b"data: [DONE]\n\n")


def _events(reply: ScriptedReply, request: ChatRequest, number: int) -> Iterator[Json]:
    head = _head_fields(request, number, "chat.completion.chunk")
    pieces = _pieces(reply.text)
    logprobs = _logprobs(reply, pieces) if request.body.get("logprobs") else []

    def chunk(index: int, delta: Json, reason: str | None = None, token: Json | None = None) -> Json:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        if token is not None:
            choice["logprobs"] = {"content": [token], "refusal": None}
        return {**head, "choices": [choice]}

    choices = range(request.body.get("n") or 1)
    for index in choices:
        yield chunk(index, {"role": "assistant", "content": ""})
        for piece in _pieces(reply.reasoning):
            yield chunk(index, {"reasoning_content": piece})
        for position, piece in enumerate(pieces):
            yield chunk(index, {"content": piece}, token=logprobs[position] if position < len(logprobs) else None)
        for number_of_call, call in enumerate(_calls(reply, number)):
            arguments = call["function"]["arguments"]
            opening = {**call, "index": number_of_call, "function": {"name": call["function"]["name"], "arguments": ""}}
            yield chunk(index, {"tool_calls": [opening]})
            for start in range(0, len(arguments), 8):
                piece_of_call = {"index": number_of_call, "function": {"arguments": arguments[start : start + 8]}}
                yield chunk(index, {"tool_calls": [piece_of_call]})
        yield chunk(index, {}, _finish_reason(reply))
    yield from _usage_events(reply, request, head)


def _usage_events(reply: ScriptedReply, request: ChatRequest, head: Json) -> Iterator[Json]:
    usage = _usage(reply, request)
    if usage is not None and (request.body.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": usage}
