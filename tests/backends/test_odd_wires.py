"""Whatever is wrong in what an upstream says in a dialect of its own: it is read, or it is the upstream's error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.backends.messages import MessagesWire
from gateway.backends.responses import ResponsesWire
from gateway.backends.wire import Wire
from gateway.chat import ChatRequest
from gateway.errors import BackendError
from tests.responses_shaped import ResponsesShaped
from tests.vendors import Anthropic, Json, Say, Vendor

SAY = Say(thinking="hm", call=("f", {"a": 1}), cached=2)
ODD: tuple[Any, ...] = (None, True, -1, 1.5, "x", [], [1], {}, {"a": 1}, [{"type": 1}])


def odd_versions(value: Any) -> Iterator[Any]:
    """The same with one thing in it replaced or missing."""
    yield from ODD
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, inner in items:
        for odd in odd_versions(inner):
            copy = value.copy()
            copy[place] = odd
            yield copy
        copy = value.copy()
        del copy[place]
        yield copy


def is_chunk(chunk: Json) -> bool:
    return all(choice["index"] == 0 and isinstance(choice["delta"], dict) for choice in chunk["choices"])


@pytest.mark.parametrize(("wire", "kind"), [(MessagesWire(), Anthropic), (ResponsesWire(), ResponsesShaped)])
def test_an_odd_event_is_read_or_is_an_error(wire: Wire, kind: type[Vendor]) -> None:
    events = [data for _, data in kind([]).events(SAY)]
    for place, event in enumerate(events):
        for odd in odd_versions(event):
            reader = wire.reader("m", ())
            try:
                for one in (*events[:place], odd, *events[place + 1 :]):
                    assert all(map(is_chunk, reader.read(orjson.dumps(one))))
            except BackendError:
                continue


@pytest.mark.parametrize(("wire", "kind"), [(MessagesWire(), Anthropic), (ResponsesWire(), ResponsesShaped)])
def test_an_odd_reply_is_read_or_is_an_error(wire: Wire, kind: type[Vendor]) -> None:
    for odd in odd_versions(kind([]).whole(SAY)):
        try:
            choice = wire.whole("m", orjson.dumps(odd), ())["choices"][0]
        except BackendError:
            continue
        assert isinstance(choice["message"].get("content"), str | None) and isinstance(choice["finish_reason"], str)


MESSAGES: list[Json] = [
    {"role": "system", "content": [{"type": "text", "text": "a"}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,x"}}]},
    {
        "role": "assistant",
        "content": "b",
        "thinking_blocks": [{"type": "thinking", "thinking": "c", "signature": "d"}],
        "reasoning_items": [{"type": "reasoning", "encrypted_content": "e"}],
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "g"}]},
    {"role": "user", "content": [{"type": "file", "file": {"file_data": "data:application/pdf;base64,x"}}]},
]
ASKED: Json = {
    "messages": MESSAGES,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function"}]}},
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "x",
            "schema": {"type": ["object"], "properties": {"a": {"anyOf": [{"type": "array"}]}}},
        },
    },
    "reasoning_effort": "low",
    "stop": ["x"],
    "metadata": {"user_id": "u"},
    "max_tokens": 5000,
}


@pytest.mark.parametrize("wire", [MessagesWire(), ResponsesWire()])
def test_an_odd_chat_is_sent_or_is_an_error(wire: Wire) -> None:
    for odd in odd_versions(ASKED):
        if isinstance(odd, dict) and isinstance(odd.get("messages"), list):
            body = {**odd, "model": "up"}
            try:
                orjson.dumps(wire.ask(body, ChatRequest(body))[0])
            except BackendError:
                continue
