"""Drafts put together from deltas are what the model said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.chat import ChatRequest
from gateway.chunks import Chunk
from gateway.draft import Draft

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


def delta(index: int = 0, **fields: object) -> dict[str, object]:
    return {"choices": [{"index": index, "delta": fields}]}


@given(pieces=st.lists(st.tuples(st.integers(0, 2), TEXT), max_size=30))
def test_text_is_joined_per_choice(pieces: list[tuple[int, str]]) -> None:
    draft = Draft()
    for index, text in pieces:
        draft.add(delta(index, content=text))
    for choice in draft.choices:
        assert choice.text == "".join(text for index, text in pieces if index == choice.index)


def test_tool_calls_are_joined_by_index() -> None:
    draft = Draft()
    draft.add(
        delta(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}])
    )
    draft.add(delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]))
    draft.add(delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x"'}}]))
    draft.add(delta(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]))
    calls = draft.completion()["choices"][0]["message"]["tool_calls"]
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        ("a", "f", '{"x": 1}'),
        ("b", "g", "{}"),
    ]


def test_legacy_function_calls_are_joined_too() -> None:
    draft = Draft()
    for piece in ({"name": "f", "arguments": ""}, {"arguments": "{"}, {"arguments": "}"}):
        draft.add(delta(function_call=piece))
    assert draft.completion()["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": "{}"}


def test_unknown_fields_of_a_message_are_kept() -> None:
    draft = Draft()
    draft.add(delta(role="assistant", reasoning_content="so "))
    draft.add(delta(reasoning_content="what", annotations=[{"type": "x"}], content=None))
    message = draft.completion()["choices"][0]["message"]
    assert message["reasoning_content"] == "so what" and message["annotations"] == [{"type": "x"}]
    assert message["content"] is None and message["refusal"] is None, "OpenAI's schema wants both to be there"


def test_content_in_parts_reads_as_text() -> None:
    draft = Draft.of({"choices": [{"index": 0, "message": {"content": [{"type": "text", "text": "hi"}]}}]})
    assert draft.text == "hi"


def test_words_are_what_a_client_could_read() -> None:
    assert Chunk(delta(content="hi")).word_count == 1
    assert Chunk(delta(content=" \n")).word_count == Chunk(delta(role="assistant")).word_count == 0
    assert Chunk(delta(reasoning_content="hm")).word_count == 0
    assert Chunk(delta(role="assistant", content="")).is_silent
    assert not Chunk(delta(reasoning_content="hm")).is_silent
    assert not Chunk({"choices": [{"delta": {}, "finish_reason": "stop"}]}).is_silent


def test_a_request_with_other_fields_leaves_the_first_alone() -> None:
    request = ChatRequest({"messages": [], "seed": 1})
    assert request.with_body(seed=2).body["seed"] == 2
    assert request.body["seed"] == 1
    assert request.before(10.0).before(20.0).deadline == 10.0
