"""Anthropic's Messages API, read: the messages that a chat model is told."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.api.messages import parse_messages
from gateway.chat import ChatRequest
from tests.messages_shaped import body

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
HI = [{"role": "user", "content": "hi"}]


def read(**fields: Any) -> ChatRequest:
    return parse_messages(orjson.dumps(body(**fields)), {}, None)


def lost(request: ChatRequest) -> set[str]:
    assert request.extra is not None
    return set(request.extra.lost)


def said(*blocks: Any, role: str = "user") -> list[dict[str, Any]]:
    """The chat messages that one message of these blocks comes to."""
    return read(messages=[{"role": role, "content": list(blocks)}]).messages


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def result(content: Any, id: str = "toolu_1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **fields}


@pytest.mark.parametrize("system", ["be brief", [text("be", cache_control={"type": "ephemeral"}), text("brief")]])
def test_system_is_the_first_message(system: Any) -> None:
    request = read(system=system)
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert request.messages[0]["content"].split() == ["be", "brief"]


@pytest.mark.parametrize("system", [None, "", []])
def test_no_system_is_no_message(system: Any) -> None:
    assert [message["role"] for message in read(system=system).messages] == ["user"]


def test_texts_become_one_text() -> None:
    assert said(text("one"), text(""), text("two")) == [{"role": "user", "content": "one\ntwo"}]
    assert said(text("one"), text("two"), role="assistant")[0]["content"] == "one\ntwo"


def test_citations_cut_a_sentence_and_it_is_put_together_again() -> None:
    cited = text("is blue", citations=[{"type": "char_location"}])
    assert said(text("The sky "), cited, text("."), role="assistant")[0]["content"] == "The sky is blue."


def test_images() -> None:
    by_url = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    parts = said(text("look"), PNG, by_url)[0]["content"]
    assert parts == [text("look"), PNG_PART, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]


def test_documents() -> None:
    pdf = {"type": "document", "title": "a.pdf", "source": {**PNG["source"], "media_type": "application/pdf"}}  # type: ignore[dict-item]
    plain = {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    blocks = {"type": "document", "source": {"type": "content", "content": [text("in blocks")]}}
    assert said(pdf)[0]["content"] == [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    ]
    assert said(plain, blocks)[0]["content"] == "Notes\nx\nin blocks"


@pytest.mark.parametrize("kind", ["image", "document"])
def test_content_that_is_elsewhere_is_not_left_out_in_silence(kind: str) -> None:
    (message,) = said({"type": kind, "source": {"type": "file", "file_id": "file_1"}})
    assert message["content"] == [{"type": "file", "file": {"file_id": "file_1"}}]


def test_an_assistants_blocks_are_one_message() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    unsigned = {"type": "thinking", "thinking": "local", "signature": ""}
    (message,) = said(signed, hidden, unsigned, text("I look."), CALL, role="assistant")
    function = {"name": "weather", "arguments": '{"city":"Paris"}'}
    assert message == {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
        "thinking_blocks": [signed, hidden],
        "reasoning_content": "local",
    }
    assert said(CALL, role="assistant")[0]["content"] is None


def test_tool_results_are_messages_and_the_rest_comes_after_them() -> None:
    messages = said(text("and now?"), result("sunny"), result([text("wet"), text("cold")], "toolu_2"))
    assert messages == [
        {"role": "tool", "tool_call_id": "toolu_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "wet\ncold"},
        {"role": "user", "content": "and now?"},
    ]


def test_an_image_in_a_tool_result_is_shown_by_the_user() -> None:
    first, second = said(result([PNG]))
    assert first["role"] == "tool" and first["content"]
    assert second["role"] == "user" and second["content"][1:] == [PNG_PART]
    assert "toolu_1" in second["content"][0]["text"], "whose image it is"


def test_an_error_says_that_it_is_one() -> None:
    assert said(result("no such city", is_error=True))[0]["content"] == "Error: no such city"
    assert said(result("Error: gone", is_error=True))[0]["content"] == "Error: gone"
    assert said({"type": "tool_result", "tool_use_id": "toolu_1"})[0]["content"] == ""


def test_search_results_are_read_and_tool_references_are_words() -> None:
    found = {"type": "search_result", "title": "Sky", "source": "a.md", "content": [text("It is blue.")]}
    request = read(messages=[{"role": "user", "content": [found]}])
    assert request.messages[0]["content"] == "Sky\na.md\nIt is blue."
    assert lost(request) == {"messages[].search_result"}
    (message,) = said(result([{"type": "tool_reference", "tool_name": "weather"}]))
    assert "weather" in message["content"]


def test_unknown_blocks_are_left_out_and_named() -> None:
    blocks = [{"type": "container_upload", "file_id": "f"}, text("hi"), {"type": "new\r\nthing: €"}]
    request = read(messages=[{"role": "user", "content": blocks}, {"role": "assistant", "content": [blocks[0]]}])
    assert [message["content"] for message in request.messages] == ["hi", ""]
    assert lost(request) == {"messages[].container_upload", "messages[].new__thing___"}


def test_a_system_message_among_the_others_stays_there() -> None:
    messages = [*HI, {"role": "system", "content": [text("be brief")]}, {"role": "assistant", "content": "ok"}, *HI]
    assert [message["role"] for message in read(messages=messages).messages] == ["user", "system", "assistant", "user"]


def test_a_prefill_is_passed_on() -> None:
    request = read(messages=[*HI, {"role": "assistant", "content": "The answer is ("}])
    assert request.messages[-1] == {"role": "assistant", "content": "The answer is ("}


def test_pieces_are_what_each_message_was_made_of() -> None:
    shown = result([PNG])
    unknown = {"type": "container_upload", "file_id": "f"}
    sent = [
        {"role": "user", "content": [shown, text("a"), unknown, result("x", "toolu_2")]},
        {"role": "user", "content": [result("y", "toolu_3"), unknown]},
        {"role": "assistant", "content": "b"},
    ]
    request = read(system=[text("s", cache_control={"type": "ephemeral"})], messages=sent)
    assert request.extra is not None
    assert list(request.extra.pieces) == [id(message) for message in request.messages]
    roles = [message["role"] for message in request.messages]
    assert roles == ["system", "tool", "tool", "user", "tool", "assistant"]
    assert list(request.extra.pieces.values()) == [
        [text("s", cache_control={"type": "ephemeral"})],
        [shown],
        [result("x", "toolu_2")],
        [text("a"), unknown],
        [result("y", "toolu_3"), unknown],
        [text("b")],
    ]
