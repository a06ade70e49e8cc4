"""What an upstream says in OpenAI's Responses API, whole or streamed, read as a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.backends.dialects import EVENT, REPLY, count_in, objects, read_object, text_in, with_cost
from gateway.backends.refusals import read_error, refused, refused_in_reply
from gateway.backends.wire import Secrets
from gateway.chat import Json
from gateway.errors import BackendError, BadBackendReply
from gateway.tools import flat_name

FINISH_REASONS = {"content_filter": "content_filter", "max_output_tokens": "length"}  # by why it is incomplete
STATUSES = {  # of errors, by code or type
    "authentication_error": 401,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "not_found_error": 404,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "server_error": 500,
    "server_is_overloaded": 503,
    "slow_down": 503,
    "vector_store_timeout": 504,
}
OF_THE_REQUEST = ("bio_policy", "context_", "empty_image", "image_", "invalid_", "unsupported_")  # 400
KEPT_STATUSES = (401, 403, 408, 504)  # of which more is known than the upstream's words


def error_of(name: str, said: object, secrets: Secrets) -> BackendError:
    """From an error object, an `error` event, or a response that has failed."""
    error = read_error(said if isinstance(said, dict) else {"error": said}, sure=True) or {}
    code, kind = str(error.get("code")), str(error.get("type"))
    status = STATUSES.get(code) or STATUSES.get(kind)
    if status is None and (code.startswith(OF_THE_REQUEST) or kind == "invalid_request_error"):
        status = 400
    if kind == "error":  # the event's own type
        error = {**error, "type": None}
    if status is None or status in KEPT_STATUSES:
        return refused_in_reply(name, error if status is None else {**error, "code": status}, secrets)
    return refused(name, status, error, secrets)


def usage_of(usage: object) -> Json | None:
    if not isinstance(usage, Mapping) or not {"input_tokens", "output_tokens"} <= usage.keys():
        return None
    prompt, completion = count_in(usage["input_tokens"]), count_in(usage["output_tokens"])
    out: Json = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    for there, name, counts in (
        ("input_tokens_details", "prompt_tokens_details", ("cached_tokens", "cache_write_tokens")),
        ("output_tokens_details", "completion_tokens_details", ("reasoning_tokens",)),
    ):
        details = usage.get(there)
        if isinstance(details, Mapping):
            out[name] = {count: count_in(details[count]) for count in counts if details.get(count) is not None}
    return with_cost(out, usage)


def finish_reason_of(response: Mapping[str, Any], *, calls: bool) -> str:
    details = response.get("incomplete_details")
    if response.get("status") == "incomplete":
        return FINISH_REASONS.get(str(details.get("reason") if isinstance(details, Mapping) else ""), "length")
    return "tool_calls" if calls else "stop"


def arguments_of(item: Mapping[str, Any]) -> str:
    """Of a call. A custom tool's input is one text: a chat has an object of one."""
    if item.get("type") == "custom_tool_call":
        return orjson.dumps({"input": text_in(item.get("input"))}).decode()
    return text_in(item.get("arguments"))


def annotation_of(annotation: Json) -> list[Json]:
    """In a chat's shape, which has one kind."""
    if annotation.get("type") != "url_citation":
        return []
    cited = {name: value for name, value in annotation.items() if name != "type"}
    return [{"type": "url_citation", "url_citation": cited}]


# -- whole ---------------------------------------------------------------------------------------------------------


def completion_of(name: str, raw: bytes, secrets: Secrets) -> Json:
    """Raises: BadBackendReply, UpstreamRefused, BackendTimeout."""
    said = read_object(name, raw, REPLY)
    if said.get("error") or said.get("status") in ("failed", "cancelled"):
        raise error_of(name, said if said.get("error") else {"message": "the response has failed"}, secrets)
    if not isinstance(said.get("output"), list):
        raise BadBackendReply(f"model '{name}': {REPLY} is not a response")
    if said.get("status") in ("queued", "in_progress"):
        raise BadBackendReply(f"model '{name}': {REPLY} is a response that is not ready")
    message, logprobs = _message_of(objects(said["output"]))
    finish = finish_reason_of(said, calls="tool_calls" in message)
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
    out: Json = {"id": said.get("id"), "object": "chat.completion", "choices": [choice]}
    usage = usage_of(said.get("usage"))
    return out | ({"usage": usage} if usage else {})


def _message_of(output: list[Json]) -> tuple[Json, Json | None]:
    """The message and its logprobs, from deltas that hold whole items."""
    reader = ResponsesReader("", ())
    message: Json = {"role": "assistant", "content": None, "refusal": None}
    logprobs: list[Json] = []
    for place, item in enumerate(output):
        for chunk in reader.read_item(item, place):
            choice = chunk["choices"][0]
            logprobs += (choice.get("logprobs") or {}).get("content") or []
            for field, value in choice["delta"].items():
                message[field] = value if message.get(field) is None else message[field] + value
    message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in message.get("tool_calls", ())]
    if not message["tool_calls"]:
        del message["tool_calls"]
    return message, {"content": logprobs, "refusal": None} if logprobs else None


# -- streamed ------------------------------------------------------------------------------------------------------


class _Item:
    """An item of the output under way."""

    def __init__(self, call: int | None = None, *, is_custom: bool = False) -> None:
        self.call, self.is_custom = call, is_custom  # number of a call
        self.said = False  # something of it went out in deltas


class ResponsesReader:
    """Reads one stream. Items that are not words, reasoning or calls of the client's tools are passed over."""

    is_plain = False

    def __init__(self, name: str, secrets: Secrets) -> None:
        self._name, self._secrets = name, secrets
        self._items: dict[object, _Item] = {}  # open ones, by place in the output
        self._done: set[object] = set()  # whole ones, by place and id
        self._calls = 0
        self._thought = self._spoke = False
        self.is_done = False

    def read(self, payload: bytes) -> list[Json]:
        if payload == b"[DONE]":  # some say it here too
            self.is_done = True
            return []
        event = read_object(self._name, payload, EVENT)
        place, kind = _place_of(event), event.get("type")
        if kind == "error" or (kind is None and event.get("error")):
            raise error_of(self._name, event, self._secrets)
        match kind:
            case "response.failed":
                raise error_of(self._name, event.get("response"), self._secrets)
            case "response.completed" | "response.incomplete":
                return self._end(event.get("response"), str(kind).removeprefix("response."))
            case "response.output_item.added":
                return self._open(event.get("item"), place)
            case "response.output_item.done":
                return self.read_item(event.get("item"), place)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                return self._argue(self._item(place), text_in(event.get("delta")))
        return self._say(str(kind), event, self._item(place))

    def _item(self, place: object) -> _Item:
        return self._items.setdefault(place, _Item())

    def _say(self, kind: str, event: Json, item: _Item) -> list[Json]:
        delta = text_in(event.get("delta"))
        match kind:
            case "response.output_text.delta":
                return [*self._part_from_before(item), *_text(delta, event.get("logprobs"))]
            case "response.refusal.delta":
                item.said = True
                return _delta("refusal", delta)
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                item.said = True
                return self._think(delta)
            case "response.reasoning_summary_part.added":
                return self._think("\n\n") if self._thought else []
            case "response.output_text.annotation.added":
                found = event.get("annotation")
                return _delta("annotations", annotation_of(found) if isinstance(found, dict) else [])
        return []

    def _part_from_before(self, item: _Item) -> list[Json]:
        """A second message, as after a word on what is being done, begins on a new line: a chat has one."""
        is_second = self._spoke and not item.said
        self._spoke = item.said = True
        return _delta("content", "\n\n") if is_second else []

    def _think(self, text: str) -> list[Json]:
        self._thought = self._thought or bool(text)
        return _delta("reasoning_content", text)

    # -- calls ---------------------------------------------------------------------------------------------------

    def _open(self, found: object, place: object, arguments: str = "") -> list[Json]:
        said = found if isinstance(found, dict) else {}
        if said.get("type") not in ("function_call", "custom_tool_call"):
            return []
        item = self._items[place] = _Item(self._calls, is_custom=said["type"] == "custom_tool_call")
        self._calls += 1
        return [_chunk({"tool_calls": [{"index": item.call, **_call(said, arguments)}]})]

    def _argue(self, item: _Item, piece: str) -> list[Json]:
        """A custom tool's input is written as the text in an object."""
        if item.call is None or not piece:
            return []
        if item.is_custom:
            piece = ("" if item.said else '{"input":"') + orjson.dumps(piece)[1:-1].decode()
        item.said = True
        return [_chunk({"tool_calls": [{"index": item.call, "function": {"arguments": piece}}]})]

    def _end_call(self, item: _Item, said: Json) -> list[Json]:
        if item.said and not item.is_custom:
            return []
        rest = '"}' if item.said else arguments_of(said)
        return [_chunk({"tool_calls": [{"index": item.call, "function": {"arguments": rest}}]})] if rest else []

    # -- ends ----------------------------------------------------------------------------------------------------

    def read_item(self, found: object, place: object) -> list[Json]:
        """A whole item: what of it has not been said yet."""
        said = found if isinstance(found, dict) else {}
        names = {place, text_in(said.get("id"))} - {None, ""}
        if self._done & names:
            return []
        self._done |= names
        match said.get("type"):
            case "function_call" | "custom_tool_call":
                item = self._item(place)
                return self._open(said, place, arguments_of(said)) if item.call is None else self._end_call(item, said)
            case "reasoning":
                words = [] if self._item(place).said else self._thoughts_of(said)
                sealed = bool(text_in(said.get("encrypted_content")))
                return [*words, _chunk({"reasoning_items": [said]})] if sealed else words
            case "message":
                item = self._item(place)
                return [] if item.said else [*self._part_from_before(item), *_words_of(said)]
        return []

    def _thoughts_of(self, said: Json) -> list[Json]:
        parts = objects(said.get("summary")) or objects(said.get("content"))
        text = "\n\n".join(filter(None, (text_in(part.get("text")) for part in parts)))
        between = self._think("\n\n") if text and self._thought else []
        return [*between, *self._think(text)]

    def _end(self, found: object, status: str) -> list[Json]:
        response = {"status": status, **(found if isinstance(found, dict) else {})}
        if response.get("status") == "failed":
            raise error_of(self._name, response, self._secrets)
        self.is_done = True
        output = objects(response.get("output"))
        chunks = [chunk for place, item in enumerate(output) for chunk in self.read_item(item, place)]
        finish = finish_reason_of(response, calls=self._calls > 0)
        chunks.append(_chunk({}, finish))
        usage = usage_of(response.get("usage"))
        return [*chunks, {"choices": [], "usage": usage}] if usage else chunks


def _place_of(event: Json) -> object:
    """What an item's events are known by: where it stands, or its id."""
    place, item = event.get("output_index"), event.get("item")
    if place is None:
        place = event.get("item_id") or (item.get("id") if isinstance(item, dict) else None)
    return place if isinstance(place, int | str) else None


def _words_of(message: Json) -> list[Json]:
    chunks: list[Json] = []
    for part in objects(message.get("content")):
        if part.get("type") == "output_text":
            chunks += _text(text_in(part.get("text")), part.get("logprobs"))
            notes = [note for one in objects(part.get("annotations")) for note in annotation_of(one)]
            chunks += _delta("annotations", notes)
        elif part.get("type") == "refusal":
            chunks += _delta("refusal", text_in(part.get("refusal")))
    return chunks


def _text(text: str, logprobs: object) -> list[Json]:
    chunks = _delta("content", text)
    tokens = objects(logprobs)
    if chunks and tokens:
        chunks[0]["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
    return chunks


def _call(item: Json, arguments: str) -> Json:
    function = {"name": flat_name(text_in(item.get("name")), text_in(item.get("namespace"))), "arguments": arguments}
    return {"id": text_in(item.get("call_id")) or text_in(item.get("id")), "type": "function", "function": function}


def _delta(name: str, value: str | list[Json]) -> list[Json]:
    return [_chunk({name: value})] if value else []


def _chunk(delta: Json, finish_reason: str | None = None) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"object": "chat.completion.chunk", "choices": [choice]}
