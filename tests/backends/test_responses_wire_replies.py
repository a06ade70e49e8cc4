"""What upstreams that speak OpenAI's Responses API say, whole, streamed and odd, and what a client gets of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.backends.responses import ResponsesWire
from gateway.errors import BadBackendReply
from tests.backends.wires import deltas, joined, meeting, named_events, scripted
from tests.conftest import Serve
from tests.responses_shaped import ResponsesShaped
from tests.vendors import Event, Json, Say

ENTRY = "speaks: responses, model: gpt-5-mini"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
READ = {"type": "function", "name": "read", "description": "a file", "parameters": PARAMETERS, "strict": False}
ASKED: Json = {
    "model": "auto",
    "input": "look",
    "store": False,
    "tools": [
        {"type": "custom", "name": "apply_patch"},
        {"type": "namespace", "name": "fs", "description": "files", "tools": [READ]},
    ],
}


def said(text: str, role: str = "user") -> Json:
    return {"role": role, "content": text}


CITATION = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}


def ended(status: str = "completed", **more: Any) -> Event:
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    return f"response.{status}", {"response": {"status": status, "output": [], "usage": usage, **more}}


def added(place: int, item: Json) -> Event:
    return "response.output_item.added", {"output_index": place, "item": item}


def done(place: int, item: Json) -> Event:
    return "response.output_item.done", {"output_index": place, "item": item}


def delta(kind: str, place: int, text: str) -> Event:
    return f"response.{kind}.delta", {"output_index": place, "delta": text}


def failed(error: Json | None) -> Event:
    return "response.failed", {"response": {"status": "failed", "error": error}}


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_is_told_and_kept_in_its_seal(serve: Serve, stream: bool) -> None:
    async with meeting(serve, ResponsesShaped, ENTRY, Say(thinking="hm", call=("f", {"a": 1}))) as (client, server):
        reply = await client.chat(stream=stream, tools=[TOOL])
        if stream:
            assert joined(reply, "reasoning_content") == "hm"
            (items,) = [delta["reasoning_items"] for delta in deltas(reply) if "reasoning_items" in delta]
        else:
            answer = reply.json["choices"][0]["message"]
            assert (answer["reasoning_content"], answer["content"]) == ("hm", "Hello there")
            assert reply.json["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
            items = answer["reasoning_items"]
        assert [item["encrypted_content"] for item in items] == ["sealed"]
        answered = {"role": "assistant", "content": "Hello there", "reasoning_items": items, "tool_calls": [CALL]}
        result = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
        await client.chat(messages=[said("a"), answered, result], tools=[TOOL])
        assert server.requests[1]["input"][1] == items[0]


def calls_in(reply: Any) -> dict[int, tuple[str, str, str]]:
    """(id, name, arguments) by number."""
    found: dict[int, tuple[str, str, str]] = {}
    for piece in (call for delta in deltas(reply) for call in delta.get("tool_calls") or ()):
        id, name, arguments = found.get(piece["index"], ("", "", ""))
        function = piece["function"]
        found[piece["index"]] = (
            id or piece.get("id", ""),
            name or function.get("name", ""),
            arguments + function.get("arguments", ""),
        )
    return found


async def test_a_stream_with_all_that_may_stand_in_it(serve: Serve) -> None:
    quiet = {"type": "function_call", "call_id": "c3", "name": "quiet", "arguments": "{}"}
    events = [
        ("response.created", {"response": {"status": "in_progress"}}),
        ("keepalive", {}),
        added(0, {"type": "reasoning", "id": "rs"}),
        ("response.reasoning_summary_part.added", {"output_index": 0, "summary_index": 0}),
        delta("reasoning_summary_text", 0, "one"),
        ("response.reasoning_summary_part.added", {"output_index": 0, "summary_index": 1}),
        delta("reasoning_summary_text", 0, "two"),
        done(0, {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "one"}]}),
        added(1, {"type": "web_search_call", "id": "ws"}),
        ("response.web_search_call.searching", {"output_index": 1}),
        done(1, {"type": "web_search_call", "id": "ws", "status": "completed"}),
        added(2, {"type": "message"}),
        delta("output_text", 2, "Let me see."),
        (
            "response.output_text.annotation.added",
            {
                "output_index": 2,
                "annotation": {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1},
            },
        ),
        done(2, {"type": "message", "content": [{"type": "output_text", "text": "Let me see."}]}),
        done(3, {"type": "message", "content": [{"type": "output_text", "text": "Hey"}]}),
        added(4, {"type": "function_call", "call_id": "c1", "name": "read", "namespace": "fs", "arguments": ""}),
        added(5, {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": ""}),
        delta("function_call_arguments", 4, '{"a":'),
        delta("custom_tool_call_input", 5, 'say "'),
        delta("custom_tool_call_input", 5, 'é"\n'),
        delta("function_call_arguments", 4, "1}"),
        done(4, {"type": "function_call", "call_id": "c1", "name": "read", "arguments": '{"a":1}'}),
        done(5, {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": 'say "é"\n'}),
        ended(output=[*({"type": "other"} for _ in range(6)), quiet]),
    ]
    async with meeting(serve, scripted(ResponsesShaped, events), ENTRY) as (client, _):
        reply = await client.chat(stream=True, stream_options={"include_usage": True})
        assert reply.text == "Let me see.\n\nHey" and joined(reply, "reasoning_content") == "one\n\ntwo"
        assert calls_in(reply) == {
            0: ("c1", "fs__read", '{"a":1}'),
            1: ("c2", "patch", '{"input":"say \\"é\\"\\n"}'),
            2: ("c3", "quiet", "{}"),
        }
        (notes,) = [delta["annotations"] for delta in deltas(reply) if "annotations" in delta]
        assert notes[0]["url_citation"]["url"] == "u"
        assert reply.events[-3]["choices"][0]["finish_reason"] == "tool_calls"
        assert reply.events[-2]["usage"]["total_tokens"] == 15 and reply.events[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_a_clients_own_tools_come_back_in_its_own_dialect(serve: Serve, stream: bool) -> None:
    calls = [
        {"type": "function_call", "id": "fc", "call_id": "c1", "name": "read", "namespace": "fs", "arguments": "{}"},
        {"type": "custom_tool_call", "id": "ct", "call_id": "c2", "name": "apply_patch", "input": "*** Begin\n"},
    ]
    events = [event for i, call in enumerate(calls) for event in (added(i, call), done(i, call))]
    whole = {"object": "response", "status": "completed", "output": calls, "usage": None}
    kind = scripted(ResponsesShaped, [*events, ended()], whole)
    async with meeting(serve, kind, ENTRY) as (client, _):
        reply = await client.call("POST", "/v1/responses", {**ASKED, "stream": stream})
        told = named_events(reply)[-1]["response"] if stream else reply.json
        read, patch = told["output"]
        assert (read["type"], read["name"], read["namespace"]) == ("function_call", "read", "fs")
        assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n")


@pytest.mark.parametrize(
    ("status", "reason", "finish"),
    [
        ("completed", None, "stop"),
        ("incomplete", "max_output_tokens", "length"),
        ("incomplete", "content_filter", "content_filter"),
        ("incomplete", None, "length"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_why_an_answer_ends(serve: Serve, status: str, reason: str | None, finish: str, stream: bool) -> None:
    more = {"incomplete_details": {"reason": reason} if reason else None}
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    whole = {**ended(status, **more)[1]["response"], "output": [item]}
    kind = scripted(ResponsesShaped, [delta("output_text", 0, "Hi"), done(0, item), ended(status, **more)], whole)
    async with meeting(serve, kind, ENTRY) as (client, _):
        reply = await client.chat(stream=stream)
        choice = (reply.events[-2] if stream else reply.json)["choices"][0]
        assert (choice["finish_reason"], reply.text) == (finish, "Hi")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal(serve: Serve, stream: bool) -> None:
    item = {"type": "message", "content": [{"type": "refusal", "refusal": "I will not."}]}
    whole = {"status": "completed", "output": [item]}
    async with meeting(
        serve, scripted(ResponsesShaped, [delta("refusal", 0, "I will not."), ended()], whole), ENTRY
    ) as (
        client,
        _,
    ):
        reply = await client.chat(stream=stream)
        told = joined(reply, "refusal") if stream else reply.json["choices"][0]["message"]["refusal"]
        assert told == "I will not."


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs(serve: Serve, stream: bool) -> None:
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hi", "logprobs": [token]}]}
    text = ("response.output_text.delta", {"output_index": 0, "delta": "Hi", "logprobs": [token]})
    kind = scripted(ResponsesShaped, [text, done(0, item), ended()], {"status": "completed", "output": [item]})
    async with meeting(serve, kind, ENTRY) as (client, _):
        reply = await client.chat(stream=stream, logprobs=True)
        events = [e for e in reply.events if e != "[DONE]"] if stream else [reply.json]
        found = [choice["logprobs"]["content"] for e in events for choice in e["choices"] if choice.get("logprobs")]
        assert found == [[token]]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (("error", {"code": "rate_limit_exceeded", "message": "no", "param": None}), 429),
        (("error", {"error": {"type": "invalid_request_error", "code": None, "message": "no"}}), 400),
        (("error", {"code": None, "message": "no"}), 502),
        (
            ("response.failed", {"response": {"status": "failed", "error": {"code": "server_error", "message": "no"}}}),
            500,
        ),
        (
            (
                "response.failed",
                {"response": {"status": "failed", "error": {"code": "invalid_prompt", "message": "no"}}},
            ),
            400,
        ),
        (("response.failed", {"response": {"status": "failed", "error": None}}), 502),
        (("error", {"error": {"type": "authentication_error", "code": "invalid_api_key", "message": "no"}}), 502),
        (("error", {"code": "vector_store_timeout", "message": "late"}), 504),
    ],
)
async def test_an_error_in_a_stream_before_its_first_word_has_its_status(
    serve: Serve, error: Event, status: int
) -> None:
    events = [("response.created", {"response": {"status": "in_progress"}}), error]
    async with meeting(serve, scripted(ResponsesShaped, events), ENTRY) as (client, _):
        reply = await client.chat(stream=True)
        assert reply.status == status and reply.error["type"] not in (None, "error")


async def test_an_error_after_the_first_word_ends_the_stream_loudly(serve: Serve) -> None:
    async with meeting(serve, ResponsesShaped, ENTRY, Say(ends="error", after=5)) as (client, _):
        reply = await client.chat(stream=True)
        assert reply.events[-1]["error"]["code"] == "overloaded_error" and "Hello" in reply.text


@pytest.mark.parametrize(
    ("whole", "status"),
    [
        ({"status": "failed", "output": [], "error": {"code": "rate_limit_exceeded", "message": "no"}}, 429),
        ({"status": "failed", "output": [], "error": None}, 502),
        ({"status": "in_progress", "output": []}, 502),
        ({"status": "completed"}, 502),
        ({"choices": []}, 502),
        ([], 502),
    ],
)
async def test_a_reply_that_is_no_answer_is_an_error(serve: Serve, whole: Any, status: int) -> None:
    async with meeting(serve, scripted(ResponsesShaped, whole=whole), ENTRY) as (client, _):
        assert (await client.chat()).status == status


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"[]",
        b"1",
        b"{}",
        b'{"type":1}',
        b'{"type":"response.output_item.done"}',
        b'{"type":"response.output_item.added","item":1}',
        b'{"type":"response.output_text.delta","delta":1}',
        b'{"type":"response.function_call_arguments.delta","delta":"x"}',
    ],
)
def test_events_of_any_shape(payload: bytes) -> None:
    reader = ResponsesWire().reader("m", ())
    try:
        assert reader.read(payload) == []
    except BadBackendReply:
        assert payload in (b"{", b"[]", b"1")
