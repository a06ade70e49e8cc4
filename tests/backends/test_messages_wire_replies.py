"""What upstreams that speak Anthropic's Messages API say, whole, streamed and odd, and what a client gets of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.backends.messages import MessagesWire
from gateway.errors import BadBackendReply
from tests.backends.wires import deltas, joined, meeting, named_events, scripted
from tests.conftest import Serve
from tests.vendors import Anthropic, Event, Json, Say

ENTRY = "speaks: messages, model: claude-sonnet-4-5"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def said(text: str, role: str = "user") -> Json:
    return {"role": role, "content": text}


def block(text: str) -> Json:
    return {"type": "text", "text": text}


ASKED: Json = {
    "model": "auto",
    "max_tokens": 99,
    "messages": [said("look")],
    "tools": [{"name": "Read", "input_schema": {"type": "object", "properties": {}}}],
}
START: Event = ("message_start", {"message": {"id": "m", "usage": {"input_tokens": 10, "output_tokens": 1}}})
END: list[Event] = [
    ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
    ("message_stop", {}),
]


def of_block(start: Json, *pieces: Json, index: int = 0) -> list[Event]:
    return [
        ("content_block_start", {"index": index, "content_block": start}),
        *(("content_block_delta", {"index": index, "delta": piece}) for piece in pieces),
        ("content_block_stop", {"index": index}),
    ]


def text_delta(text: str) -> Json:
    return {"type": "text_delta", "text": text}


def words(*texts: str) -> list[Event]:
    return of_block(block(""), *map(text_delta, texts))


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_is_told_and_kept_with_its_signature(serve: Serve, stream: bool) -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    async with meeting(serve, Anthropic, ENTRY, Say(thinking="hm", call=("weather", {"a": 1}))) as (client, server):
        reply = await client.chat(stream=stream, tools=[TOOL])
        if stream:
            assert joined(reply, "reasoning_content") == "hm"
            assert [delta["thinking_blocks"] for delta in deltas(reply) if "thinking_blocks" in delta] == [[signed]]
            blocks = [signed]
        else:
            message = reply.json["choices"][0]["message"]
            assert (message["reasoning_content"], message["content"]) == ("hm", "Hello there")
            blocks = message["thinking_blocks"]
        answered = {"role": "assistant", "content": "Hello there", "thinking_blocks": blocks, "tool_calls": [CALL]}
        result = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
        await client.chat(messages=[said("a"), answered, result], tools=[TOOL])
        assert server.requests[1]["messages"][1]["content"][0] == signed


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_comes_back_in_its_own_dialect(serve: Serve, stream: bool) -> None:
    say = Say(thinking="hm", call=("Read", {"path": "a"}), cached=4)
    async with meeting(serve, Anthropic, ENTRY, say) as (client, _):
        reply = await client.call("POST", "/v1/messages", {**ASKED, "stream": stream})
        if stream:
            events = named_events(reply)
            starts = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
            signatures = [e for e in events if e.get("delta", {}).get("type") == "signature_delta"]
            assert starts == ["thinking", "text", "tool_use"] and signatures[0]["delta"]["signature"] == "sig"
            usage = events[-2]["usage"]
        else:
            thought, text, use = reply.json["content"]
            assert (
                thought == {"type": "thinking", "thinking": "hm", "signature": "sig"} and text["text"] == "Hello there"
            )
            assert (use["input"], reply.json["stop_reason"]) == ({"path": "a"}, "tool_use")
            usage = reply.json["usage"]
        assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (8, 4, 7)


async def test_a_stream_with_all_that_may_stand_in_it(serve: Serve) -> None:
    events = [
        START,
        ("ping", {}),
        *of_block({"type": "redacted_thinking", "data": "xyz"}),
        *of_block({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, index=1),
        *of_block({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, index=2),
        *of_block(
            block("He"), {"type": "citations_delta", "citation": {}}, {"type": "text_delta", "text": "y"}, index=3
        ),
        ("never_heard_of", {"index": 3}),
        ("content_block_delta", {"index": 77, "delta": {"type": "text_delta", "text": "of no block"}}),
        *of_block({"type": "tool_use", "id": "t1", "name": "f", "input": {}}, index=4),
        *of_block({"type": "tool_use", "id": "t2", "name": "g", "input": {"a": 1}}, index=5),
        ("message_delta", {"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}}),
        ("message_stop", {}),
    ]
    async with meeting(serve, scripted(Anthropic, events), ENTRY) as (client, _):
        reply = await client.chat(stream=True, stream_options={"include_usage": True})
        assert reply.text == "Hey" and reply.events[-1] == "[DONE]"
        calls = [call for delta in deltas(reply) for call in delta.get("tool_calls") or ()]
        said_of = {i: "".join(c["function"]["arguments"] for c in calls if c["index"] == i) for i in (0, 1)}
        assert said_of == {0: "{}", 1: '{"a":1}'} and [c["id"] for c in calls if c.get("id")] == ["t1", "t2"]
        assert {"thinking_blocks": [{"type": "redacted_thinking", "data": "xyz"}]} in deltas(reply)
        assert reply.events[-2]["usage"]["total_tokens"] == 15


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_why_an_answer_ends(serve: Serve, stop: str, finish: str, stream: bool) -> None:
    end = [("message_delta", {"delta": {"stop_reason": stop}, "usage": {"output_tokens": 5}}), ("message_stop", {})]
    whole = {"type": "message", "content": [block("Hi")], "stop_reason": stop}
    async with meeting(serve, scripted(Anthropic, [START, *words("Hi"), *end], whole), ENTRY) as (client, _):
        reply = await client.chat(stream=stream)
        choice = (reply.events[-2] if stream else reply.json)["choices"][0]
        assert (choice["finish_reason"], reply.text) == (finish, "Hi")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_stop_sequence_that_was_met_is_told(serve: Serve, stream: bool) -> None:
    delta = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    events = [START, *words("Hi"), ("message_delta", {"delta": delta, "usage": {"output_tokens": 5}}), END[1]]
    whole = {"type": "message", "content": [block("Hi")], **delta}
    async with meeting(serve, scripted(Anthropic, events, whole), ENTRY) as (client, _):
        body = {"model": "auto", "max_tokens": 9, "messages": [said("hi")], "stop_sequences": ["END"], "stream": stream}
        reply = await client.call("POST", "/v1/messages", body)
        told = named_events(reply)[-2]["delta"] if stream else reply.json
        assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "END")


async def test_all_tokens_of_a_prompt_are_counted(serve: Serve) -> None:
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 30,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 2},
    }
    whole = {"type": "message", "content": [block("Hi")], "stop_reason": "end_turn", "usage": usage}
    async with meeting(serve, scripted(Anthropic, whole=whole), ENTRY) as (client, _):
        told = (await client.chat()).json["usage"]
        assert (told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]) == (60, 5, 65)
        assert told["prompt_tokens_details"]["cached_tokens"] == 30
        assert told["completion_tokens_details"]["reasoning_tokens"] == 2
        assert (told["cache_creation_input_tokens"], told["cache_read_input_tokens"]) == (20, 30)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("overloaded_error", 529),
        ("rate_limit_error", 429),
        ("invalid_request_error", 400),
        ("api_error", 500),
        ("authentication_error", 502),
        ("timeout_error", 504),
        ("something_new", 502),
    ],
)
async def test_an_error_in_a_stream_before_its_first_word_has_its_status(serve: Serve, kind: str, status: int) -> None:
    events: list[Event] = [START, ("error", {"error": {"type": kind, "message": "no"}})]
    async with meeting(serve, scripted(Anthropic, events), ENTRY) as (client, _):
        assert (await client.chat(stream=True)).status == status


async def test_an_error_after_the_first_word_ends_the_stream_loudly(serve: Serve) -> None:
    async with meeting(serve, Anthropic, ENTRY, Say(ends="error", after=4)) as (client, _):
        reply = await client.chat(stream=True)
        assert reply.events[-1]["error"]["type"] == "overloaded_error" and "Hello" in reply.text


async def test_a_full_context_is_known_by_its_words(serve: Serve) -> None:
    error = Say(error=(400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum", {}))
    async with meeting(serve, Anthropic, ENTRY, error) as (client, _):
        assert (await client.chat()).error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "whole", [{"type": "message"}, {"type": "message", "content": "x"}, [], {"choices": []}, None], ids=str
)
async def test_a_reply_that_is_no_message_is_an_error(serve: Serve, whole: Any) -> None:
    async with meeting(serve, scripted(Anthropic, whole=whole), ENTRY) as (client, _):
        reply = await client.chat()
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")


@pytest.mark.parametrize("payload", [b"{", b"[]", b"1", b'{"type":1}', b'{"type":"content_block_delta"}', b"{}"])
def test_events_of_any_shape(payload: bytes) -> None:
    reader = MessagesWire().reader("m", ())
    try:
        assert reader.read(payload) == []
    except BadBackendReply:
        assert payload in (b"{", b"[]", b"1")
