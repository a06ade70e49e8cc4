"""Items and events out of deltas that no script plays: carriers, refusals, citations, calls in odd pieces."""

from __future__ import annotations

from typing import Any

from gateway.api.responses_items import CARRIERS, unseal
from gateway.api.responses_output import Output
from gateway.api.responses_tools import Lost, Tools
from tests.openai_schemas import RESPONSE_EVENT, assert_valid

Json = dict[str, Any]
BLOCK = {"type": "thinking", "thinking": "hm", "signature": "s"}
ITEM = {
    "type": "reasoning",
    "id": "rs_theirs",
    "summary": [{"type": "summary_text", "text": "hm"}],
    "encrypted_content": "xyz",
}


def output(*tools: Json, **options: bool) -> Output:
    known = Tools(Lost())
    known.add_all(list(tools), "tools")
    asked = {"summarizes": False, "shows_logprobs": False, "shows_sealed": False, **options}
    return Output("0" * 32, known, **asked)


def feed(out: Output, *deltas: Json, finish: str = "stop") -> list[Json]:
    events = [event for delta in deltas for event in out.take({"index": 0, "delta": delta})] + out.close(finish)
    for number, event in enumerate(events):
        assert_valid(RESPONSE_EVENT, {**event, "sequence_number": number})
    return events


def kinds(out: Output) -> list[str]:
    return [item["type"] for item in out.items]


def sealed(item: Json) -> Json:
    carried = unseal(item["encrypted_content"])
    assert carried is not None
    return {name: carried[name] for name in CARRIERS if carried[name]}


def test_a_reasoning_keeps_what_its_upstream_wants_to_see_again() -> None:
    out = output(shows_sealed=True)
    feed(out, {"reasoning_content": "h"}, {"reasoning_content": "m"}, {"reasoning_items": [ITEM]}, {"content": "a"})
    assert kinds(out) == ["reasoning", "message"]
    assert out.shown[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert sealed(out.shown[0]) == {"reasoning_items": [ITEM]}


def test_a_reasoning_item_that_comes_alone_says_its_text() -> None:
    out = output(summarizes=True)
    events = feed(out, {"reasoning_items": [ITEM]}, {"content": "a"})
    assert out.shown[0]["summary"] == ITEM["summary"]
    assert [e["delta"] for e in events if e["type"] == "response.reasoning_summary_text.delta"] == ["hm"]


def test_what_is_sealed_is_shown_to_those_who_asked_only() -> None:
    out = output()
    events = feed(out, {"reasoning_items": [ITEM]})
    assert "encrypted_content" not in out.shown[0] and "encrypted_content" in out.items[0]
    assert all("encrypted_content" not in event.get("item", {}) for event in events)


def test_a_signature_signs_the_words_before_it() -> None:
    signature = {"type": "thinking", "thinking": "", "signature": "s"}
    out = output()
    feed(out, {"reasoning_content": "hm"}, {"thinking_blocks": [signature]}, {"content": "a"})
    assert sealed(out.items[0]) == {"thinking_blocks": [BLOCK]}


def test_blocks_without_a_signature_are_not_kept() -> None:
    out = output()
    redacted = {"type": "redacted_thinking", "data": "abc"}
    unsigned = {"type": "thinking", "thinking": "h"}
    feed(out, {"reasoning_content": "h", "thinking_blocks": [unsigned]}, {"thinking_blocks": [redacted]})
    assert sealed(out.items[0]) == {"thinking_blocks": [redacted]}
    assert out.items[0]["content"][0]["text"] == "h"


def test_refusals_are_parts_of_the_message() -> None:
    out = output()
    events = feed(out, {"content": "Well, "}, {"refusal": "I"}, {"refusal": " won't"})
    assert [part["type"] for part in out.items[0]["content"]] == ["output_text", "refusal"]
    assert out.items[0]["content"][1] == {"type": "refusal", "refusal": "I won't"}
    done = [event for event in events if event["type"] == "response.refusal.done"]
    assert (done[0]["refusal"], done[0]["content_index"]) == ("I won't", 1)


def test_citations_are_annotations() -> None:
    out = output()
    cited = {"url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 2}
    odd = [{"type": "odd"}, "x", {"type": "url_citation", "url_citation": {"title": "no address"}}]
    feed(out, {"content": "as A says"}, {"annotations": [{"type": "url_citation", "url_citation": cited}, *odd]})
    assert out.items[0]["content"][0]["annotations"] == [{"type": "url_citation", **cited}]


def test_the_part_that_begins_is_told_empty() -> None:
    out = output(shows_logprobs=True)
    token = {"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": [{"token": "b", "logprob": -2.0}]}
    events = out.take({"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token]}})
    assert events[1]["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert events[2]["logprobs"][0]["top_logprobs"][0]["bytes"] == [98]


def test_a_name_may_come_in_pieces_and_calls_may_be_mixed() -> None:
    out = output({"type": "function", "name": "look_up"})

    def piece(index: int, **function: str) -> Json:
        return {"tool_calls": [{"index": index, "id": f"call_{index}", "function": function}]}

    feed(
        out,
        piece(0, name="look"),
        piece(0, name="_up", arguments="{"),
        piece(1, name="other", arguments="{}"),
        piece(0, arguments="}"),
        piece(2, name="bare"),
        finish="tool_calls",
    )
    called = [(item["call_id"], item["name"], item["arguments"]) for item in out.items]
    assert called == [("call_0", "look_up", "{}"), ("call_1", "other", "{}"), ("call_2", "bare", "")]


def test_words_after_a_call_are_a_message_of_their_own() -> None:
    out = output()
    call = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}
    feed(out, {"content": "a"}, call, {"content": "b"}, {"reasoning": "hm"}, {"content": "c"})
    assert kinds(out) == ["message", "function_call", "message", "reasoning", "message"]


def test_a_custom_call_that_was_not_written_as_told_is_handed_on_as_it_is() -> None:
    for arguments in ("not json", "[1]", '{"other": 1}'):
        out = output({"type": "custom", "name": "patch"})
        feed(out, {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "patch", "arguments": arguments}}]})
        assert out.items[0]["input"] == arguments


def test_reasoning_alone_is_no_message_where_it_was_cut_short() -> None:
    out = output()
    feed(out, {"reasoning_content": "hm"}, finish="length")
    assert kinds(out) == ["reasoning"]


def test_of_an_answer_that_broke_off_only_what_was_finished_is_shown() -> None:
    out = output()
    out.take({"index": 0, "delta": {"reasoning_content": "hm"}})
    out.take({"index": 0, "delta": {"content": "a"}})
    assert [item["type"] for item in out.shown_finished] == ["reasoning"]
