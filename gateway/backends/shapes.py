"""Choices as upstreams write them, brought into OpenAI's shape in place: clients read them strictly."""

from __future__ import annotations

import secrets
from typing import Any

import orjson

from gateway.chat import Json

FINISH_REASONS = {  # others' words
    "": None,
    "end_turn": "stop",
    "eos": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}


def tidy(choice: Json, content: str) -> bool:
    """One choice; `content` is `delta` or `message`. Returns: False if it cannot be read as one."""
    message = choice.get(content)
    if not message:
        message = choice[content] = {}
    if not isinstance(message, dict):
        return False
    text = message.get("content")
    if isinstance(text, list):
        _join_parts(message, text)
    elif text and not isinstance(text, str):
        return False
    logprobs = choice.get("logprobs")
    if logprobs and not (isinstance(logprobs, dict) and isinstance(logprobs.get("content") or [], list)):
        return False
    finish = choice.get("finish_reason")
    if finish is not None:
        if finish and not isinstance(finish, str):
            return False
        choice["finish_reason"] = FINISH_REASONS.get(finish or "", finish)
    if choice.get("index") is None:
        choice["index"] = 0
    return isinstance(choice["index"], int) and _are_calls(message.get("tool_calls"))


def _are_calls(calls: object) -> bool:
    return not calls or (
        isinstance(calls, list)
        and all(isinstance(call, dict) and isinstance(call.get("function") or {}, dict) for call in calls)
    )


def _join_parts(message: Json, parts: list[Any]) -> None:
    """Mistral's lists of text and thinking. A list with anything else in it is left as it is."""
    texts: dict[str, list[str]] = {"text": [], "thinking": [], "reference": []}
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in texts:
            return
        texts[kind].append(_text_of(part.get(kind)))
    message["content"] = "".join(texts["text"])
    if texts["thinking"] and not message.get("reasoning_content"):
        message["reasoning_content"] = "".join(texts["thinking"])


def _text_of(value: object) -> str:
    if isinstance(value, list):
        return "".join(_text_of(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def tidy_whole(choice: Json, place: int) -> bool:
    """One choice of a whole completion, the `place`-th of its list."""
    if choice.get("index") is None:
        choice["index"] = place
    if not tidy(choice, "message"):
        return False
    choice["message"] = {"role": "assistant", "content": None, "refusal": None, **choice["message"]}
    choice.setdefault("logprobs", None)
    calls = choice["message"].get("tool_calls") or []
    for call in calls:
        call.pop("index", None)  # a stream's: Mistral says 0 of each
        _complete(call)
    if not choice.get("finish_reason"):
        choice["finish_reason"] = "tool_calls" if calls else "stop"
    return True


def _complete(call: Json) -> None:
    """What a client needs to answer a call: its id, its type, its arguments as text."""
    call["id"] = call.get("id") or f"call_{secrets.token_hex(12)}"
    call["type"] = call.get("type") or "function"
    if call["type"] == "function":
        function = call["function"] = call.get("function") or {}
        function["arguments"] = _as_text(function.get("arguments"))


def _as_text(arguments: object) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()


class CallNumbers:
    """Numbers the tool calls in the stream of one choice. Some upstreams leave `index` out, or say 0 of every call;
    some leave out `type` and `id`."""

    def __init__(self) -> None:
        self._ours: dict[int, int] = {}  # by their index
        self._ids: list[str] = []
        self._names: list[object] = []
        self._said: list[str] = []  # arguments so far

    def tidy(self, pieces: list[Json]) -> None:
        for piece in pieces:
            function = piece.get("function")
            if function and "arguments" in function:
                function["arguments"] = _as_text(function["arguments"])
            number = self._number_of(piece, function or {})
            if number is None:
                number = len(self._ids)
                _complete(piece)
                self._ids.append(piece["id"])
                self._names.append((function or {}).get("name"))
                self._said.append("")
                if isinstance(piece.get("index"), int):
                    self._ours[piece["index"]] = number
            elif function and function.get("name") == self._names[number]:
                function.pop("name", None)  # said again: whoever puts names together would double it
            piece["index"] = number
            if function:
                self._said[number] += function.get("arguments") or ""

    def _number_of(self, piece: Json, function: Json) -> int | None:
        """Of the call that this piece goes on with; None where it begins one."""
        index, id, name = piece.get("index"), piece.get("id"), function.get("name")
        number = self._ours.get(index) if isinstance(index, int) else (len(self._ids) - 1 if self._ids else None)
        if number is None:
            return None
        if id and id != self._ids[number] and name:
            return None
        if not isinstance(index, int) and (id or name):
            return number if id == self._ids[number] else None
        if name and not id and _is_whole(self._said[number]) and _is_whole(function.get("arguments") or ""):
            return None
        return number


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        return False
