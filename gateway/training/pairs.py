"""Files to train on: one chat a line, as OpenAI's fine-tuning takes them. Read strictly, with the line at fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from gateway.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_LINES = 50_000
MAX_LINE_BYTES = 1 << 20
FEWEST = 10  # OpenAI's own, too
Json = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A chat whose assistant turns are learned, but for those with a `weight` of 0."""

    messages: tuple[Json, ...]
    tools: tuple[Json, ...] = ()

    @property
    def learned(self) -> list[int]:
        """Places of the messages that are learned."""
        return [
            place
            for place, message in enumerate(self.messages)
            if message["role"] == "assistant" and message.get("weight", 1) != 0
        ]

    def as_json(self) -> Json:
        tools = {"tools": list(self.tools)} if self.tools else {}
        return {"messages": list(self.messages), **tools}


def read_pairs(text: bytes, param: str = "training_file") -> list[Pair]:
    """Raises: InvalidRequest that names the line."""
    return list(_pairs(text.splitlines(), param))


def _pairs(lines: Iterable[bytes], param: str) -> Iterator[Pair]:
    count = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        count += 1
        if count > MAX_LINES:
            raise InvalidRequest(f"more than {MAX_LINES} examples", param=param)
        if len(line) > MAX_LINE_BYTES:
            raise InvalidRequest(f"line {number} is longer than {MAX_LINE_BYTES >> 20} MB", param=param)
        try:
            data = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise InvalidRequest(f"line {number} is no JSON: {exc}", param=param) from None
        fault = _fault(data)
        if fault:
            raise InvalidRequest(f"line {number}: {fault}", param=param)
        yield Pair(tuple(data["messages"]), tuple(data.get("tools") or ()))


def _fault(data: Any) -> str | None:
    """What is wrong with a line, for people; None where it is an example."""
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, list) or not messages:
        return "wants an object with a list of 'messages'"
    for place, message in enumerate(messages):
        fault = _fault_of(message)
        if fault:
            return f"messages[{place}] {fault}"
    tools = data.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        return "'tools' has to be a list of objects"
    if messages[-1]["role"] != "assistant":
        return "the last message has to be the assistant's"
    if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
        return "no message of the assistant has a weight of 1"
    return None


def _fault_of(message: Any) -> str | None:
    if not isinstance(message, dict):
        return "is no object"
    if message.get("role") not in ROLES:
        return f"has no 'role' of {', '.join(ROLES)}"
    content, calls = message.get("content"), message.get("tool_calls")
    if message["role"] == "assistant" and calls is not None:
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls) or not calls:
            return "has 'tool_calls' that are no list of objects"
    elif not isinstance(content, str) or not content:
        return "has no text as 'content'"
    if content is not None and not isinstance(content, str):
        return "has no text as 'content'"
    if message.get("weight", 1) not in (0, 1) or isinstance(message.get("weight"), bool):
        return "has a 'weight' that is neither 0 nor 1"
    return None


def written(pairs: Iterable[Pair]) -> bytes:
    """As a file of them, to be read again."""
    return b"".join(orjson.dumps(pair.as_json()) + b"\n" for pair in pairs)


def digest_of(pairs: Iterable[Pair]) -> str:
    """Names what was trained on: the same for the same chats in the same order."""
    return blake2b(written(pairs), digest_size=16).hexdigest()
