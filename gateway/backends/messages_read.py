"""What an upstream says in Anthropic's Messages API, whole or streamed, read as a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.backends.dialects import EVENT, REPLY, count_in, objects, read_object, text_in, with_cost
from gateway.backends.messages_ask import is_signed
from gateway.backends.refusals import read_error, refused_in_reply
from gateway.backends.wire import Secrets
from gateway.chat import Json
from gateway.errors import BackendError, BadBackendReply

FINISH_REASONS = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "stop",
    "refusal": "content_filter",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
STATUSES = {  # of errors, by their type
    "api_error": 500,
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "request_too_large": 413,
    "timeout_error": 504,
}
CACHE_COUNTS = ("cache_creation_input_tokens", "cache_read_input_tokens")


def error_in(name: str, said: Json, secrets: Secrets) -> BackendError | None:
    """The error in what came with status 200."""
    if said.get("type") != "error" and not said.get("error"):
        return None
    error = read_error(said, sure=True) or {"message": "no message"}
    status = STATUSES.get(str(error.get("type")), error.get("code"))
    return refused_in_reply(name, {**error, "code": status}, secrets)


def finish_reason_of(stop_reason: object) -> str:
    return FINISH_REASONS.get(str(stop_reason), "stop")


def usage_of(usage: object) -> Json | None:
    """In OpenAI's words: a prompt's tokens are all of them, cached or not. The cache's own counts stay beside it, where
    clients look for them."""
    if not isinstance(usage, Mapping) or not {"input_tokens", "output_tokens"} <= usage.keys():
        return None
    written, read = (count_in(usage.get(name)) for name in CACHE_COUNTS)
    prompt, completion = count_in(usage["input_tokens"]) + written + read, count_in(usage["output_tokens"])
    out: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": read},
    }
    if written or read:
        out |= {"cache_creation_input_tokens": written, "cache_read_input_tokens": read}
    details = usage.get("output_tokens_details")
    if isinstance(details, Mapping) and details.get("thinking_tokens") is not None:
        out["completion_tokens_details"] = {"reasoning_tokens": count_in(details["thinking_tokens"])}
    return with_cost(out, usage)


# -- whole ---------------------------------------------------------------------------------------------------------


def completion_of(name: str, raw: bytes, secrets: Secrets) -> Json:
    """Raises: BadBackendReply, UpstreamRefused, BackendTimeout."""
    said = read_object(name, raw, REPLY)
    error = error_in(name, said, secrets)
    if error is not None:
        raise error
    if not isinstance(said.get("content"), list):
        raise BadBackendReply(f"model '{name}': {REPLY} is not a message")
    choice = {"index": 0, "message": _message_of(said["content"]), "logprobs": None, **_ending(said)}
    out: Json = {"id": said.get("id"), "object": "chat.completion", "choices": [choice]}
    usage = usage_of(said.get("usage"))
    return out | ({"usage": usage} if usage else {})


def _ending(said: Mapping[str, Any]) -> Json:
    reason = {"finish_reason": finish_reason_of(said.get("stop_reason"))}
    return {**reason, "stop_reason": said["stop_sequence"]} if said.get("stop_sequence") else reason


def _message_of(blocks: list[Any]) -> Json:
    texts, thoughts, signed, calls = [], [], [], []
    for block in objects(blocks):
        kind = block.get("type")
        if kind == "text":
            texts.append(text_in(block.get("text")))
        elif kind in ("thinking", "redacted_thinking"):
            thoughts.append(text_in(block.get("thinking")))
            signed += [block] if is_signed(block) else []
        elif kind == "tool_use":
            calls.append(_call(block, orjson.dumps(block.get("input") or {}).decode()))
    message: Json = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if signed:
        message["thinking_blocks"] = signed
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Json, arguments: str) -> Json:
    function = {"name": text_in(block.get("name")), "arguments": arguments}
    return {"id": text_in(block.get("id")), "type": "function", "function": function}


# -- streamed ------------------------------------------------------------------------------------------------------


class MessagesReader:
    """Reads one stream. A block that is not words, thinking or a call is passed over."""

    is_plain = False

    def __init__(self, name: str, secrets: Secrets) -> None:
        self._name, self._secrets = name, secrets
        self._blocks: dict[object, Json] = {}  # open ones, put together as they come, by index
        self._usage: Json = {}
        self._calls = 0
        self.is_done = False

    def read(self, payload: bytes) -> list[Json]:
        event = read_object(self._name, payload, EVENT)
        if not isinstance(event.get("index"), int | None):
            return []
        error = error_in(self._name, event, self._secrets)
        if error is not None:
            raise error
        match event.get("type"):
            case "message_start":
                message = event.get("message")
                self._note_usage(message if isinstance(message, Mapping) else {})
                return []
            case "content_block_start":
                return self._start(event)
            case "content_block_delta":
                return self._go_on(event)
            case "content_block_stop":
                return self._stop(event)
            case "message_delta":
                return self._end(event)
            case "message_stop":
                self.is_done = True
        return []

    def _note_usage(self, holder: Mapping[str, Any]) -> None:
        usage = holder.get("usage")
        if isinstance(usage, Mapping):
            self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _start(self, event: Json) -> list[Json]:
        found = event.get("content_block")
        block: Json = dict(found) if isinstance(found, Mapping) else {}
        self._blocks[event.get("index")] = block
        match block.get("type"):
            case "text":
                return _delta("content", text_in(block.get("text")))
            case "thinking":
                return _delta("reasoning_content", text_in(block.get("thinking")))
            case "tool_use":
                block["number"], block["json"] = self._calls, ""
                self._calls += 1
                return [_chunk({"tool_calls": [{"index": block["number"], **_call(block, "")}]})]
        return []

    def _go_on(self, event: Json) -> list[Json]:
        block, found = self._blocks.get(event.get("index")), event.get("delta")
        if block is None or not isinstance(found, Mapping):
            return []
        match found.get("type"):
            case "text_delta":
                return _delta("content", text_in(found.get("text")))
            case "thinking_delta":
                said = text_in(found.get("thinking"))
                block["thinking"] = text_in(block.get("thinking")) + said
                return _delta("reasoning_content", said)
            case "signature_delta":
                block["signature"] = text_in(block.get("signature")) + text_in(found.get("signature"))
            case "input_json_delta" if "number" in block:
                return self._argue(block, text_in(found.get("partial_json")))
        return []

    def _argue(self, block: Json, piece: str) -> list[Json]:
        block["json"] += piece
        return [_chunk({"tool_calls": [{"index": block["number"], "function": {"arguments": piece}}]})] if piece else []

    def _stop(self, event: Json) -> list[Json]:
        block = self._blocks.pop(event.get("index"), {})
        if block.get("type") in ("thinking", "redacted_thinking") and is_signed(block):
            return [_chunk({"thinking_blocks": [block]})]
        if "number" in block and not block["json"]:  # no arguments at all, or all of them said at the start
            return self._argue(block, orjson.dumps(block.get("input") or {}).decode())
        return []

    def _end(self, event: Json) -> list[Json]:
        self._note_usage(event)
        found = event.get("delta")
        delta = found if isinstance(found, Mapping) else {}
        chunks = [_chunk({}, _ending(delta))] if delta.get("stop_reason") else []
        usage = usage_of(self._usage)
        return [*chunks, {"choices": [], "usage": usage}] if usage else chunks


def _delta(name: str, text: str) -> list[Json]:
    return [_chunk({name: text})] if text else []


def _chunk(delta: Json, ending: Json | None = None) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": None, **(ending or {})}
    return {"object": "chat.completion.chunk", "choices": [choice]}
