"""`POST /v1/responses`, streamed and whole."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.asgi import Client, Response
from tests.conftest import Serve
from tests.openai_schemas import ERROR, RESPONSE, RESPONSE_EVENT, assert_valid
from tests.upstream import CASCADE, SINGLE, pointing_at, upstream

Json = dict[str, Any]
FUNCTIONS = [
    {"type": "function", "name": "look_up", "parameters": {"type": "object"}},
    {"type": "namespace", "name": "files", "description": "", "tools": [{"type": "function", "name": "read"}]},
    {"type": "custom", "name": "patch", "description": "Edits files."},
]
CALLS = """
models:
  m1:
    engine: scripted
    replies:
      - text: One moment
        reasoning: let me see
        tool_calls:
          - {name: look_up, arguments: {city: Paris}}
          - {name: files__read, arguments: {path: a.txt}}
          - {name: patch, arguments: {input: "*** Begin\\n"}}
"""


def models(*replies: str) -> str:
    lines = [f"  m{n}: {{engine: scripted, replies: [{reply}]}}" for n, reply in enumerate(replies, 1)]
    return "models:\n" + "\n".join(lines) + "\n"


async def ask(client: Client, input: Any = "hello", *, headers: Any = None, **fields: Any) -> Response:
    return await client.call("POST", "/v1/responses", {"model": "auto", "input": input, **fields}, headers)


def events_of(response: Response) -> list[Json]:
    """Each event, after a look at what is true of every stream."""
    assert response.status == 200 and response.finished
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for number, block in enumerate(filter(None, response.body.decode().split("\n\n"))):
        name, data = block.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}" and event["sequence_number"] == number
        assert_valid(RESPONSE_EVENT, event)
        events.append(event)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    _check_items(events)
    return events


def _check_items(events: list[Json]) -> None:
    """Items are told once, under one id and index, and the last event has all of them in order."""
    added = {event["output_index"]: event["item"] for event in events if event["type"].endswith("item.added")}
    done = [event for event in events if event["type"].endswith("item.done")]
    assert list(added) == list(range(len(added)))
    assert all(event["item"]["id"] == added[event["output_index"]]["id"] for event in done)
    assert all(event["item_id"] == added[event["output_index"]]["id"] for event in events if "item_id" in event)
    finished = {event["output_index"]: event["item"] for event in done}
    assert len(finished) == len(done)
    assert events[-1]["response"]["output"] == [finished[index] for index in sorted(finished)]


def only(events: list[Json], kind: str) -> list[Json]:
    return [event for event in events if event["type"] == kind]


def text_of(response: Json) -> str:
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part.get("text", "") for item in messages for part in item["content"])


async def test_a_whole_response(serve: Serve) -> None:
    client = await serve(models("{text: Hello you}"), default=SINGLE)
    reply = await ask(client, instructions="be kind", metadata={"a": "b"}, temperature=0.5)
    response = reply.json
    assert reply.status == 200
    assert_valid(RESPONSE, response)
    message = response["output"][0]
    assert message["content"] == [{"type": "output_text", "text": "Hello you", "annotations": [], "logprobs": []}]
    assert response["status"] == message["status"] == "completed"
    assert (response["model"], response["instructions"], response["temperature"]) == ("m1", "be kind", 0.5)
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert response["gateway"]["path"] == reply.headers["x-gateway-path"] == "m1"
    assert response["id"] == f"resp_{reply.headers['x-gateway-trace']}"


async def test_a_streamed_response(serve: Serve) -> None:
    client = await serve(models("{text: Hello you there}"), default=SINGLE)
    reply = await ask(client, stream=True)
    events = events_of(reply)
    assert [event["type"] for event in events[2:]] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event["delta"] for event in only(events, "response.output_text.delta")) == "Hello you there"
    assert only(events, "response.output_text.done")[0]["text"] == "Hello you there"
    final = events[-1]["response"]
    assert text_of(final) == "Hello you there" and final["usage"]["output_tokens"] == 3
    assert final["gateway"]["model"] == "m1" and reply.headers["x-gateway-model"] == "m1"
    assert b"[DONE]" not in reply.body
    assert (
        reply.writes[0].startswith(b"event: response.created\n") and b"event: response.in_progress" in reply.writes[0]
    )


async def test_streamed_and_whole_say_the_same(serve: Serve) -> None:
    client = await serve(CALLS, default=SINGLE)
    whole = (await ask(client, tools=FUNCTIONS)).json
    events = events_of(await ask(client, tools=FUNCTIONS, stream=True))
    assert_valid(RESPONSE, whole)

    def bare(response: Json) -> list[Json]:
        return [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in response["output"]]

    assert bare(whole) == bare(events[-1]["response"])
    thought, message, plain, inner, custom = whole["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "let me see"}] and thought["summary"] == []
    assert text_of(whole) == "One moment" and message["type"] == "message"
    assert (plain["name"], plain["arguments"], plain["status"]) == ("look_up", '{"city":"Paris"}', "completed")
    assert (inner["namespace"], inner["name"]) == ("files", "read")
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "patch", "*** Begin\n")
    deltas = only(events, "response.function_call_arguments.delta")
    assert "".join(event["delta"] for event in deltas if event["output_index"] == 2) == '{"city":"Paris"}'
    assert only(events, "response.custom_tool_call_input.done")[0]["input"] == "*** Begin\n"
    assert "".join(e["delta"] for e in only(events, "response.reasoning_text.delta")) == "let me see"


async def test_reasoning_is_a_summary_for_those_who_ask_for_one(serve: Serve) -> None:
    client = await serve(models("{text: Hi, reasoning: let me see}"), default=SINGLE)
    events = events_of(await ask(client, stream=True, reasoning={"summary": "auto"}))
    assert events[-1]["response"]["output"][0]["summary"] == [{"type": "summary_text", "text": "let me see"}]
    assert "".join(e["delta"] for e in only(events, "response.reasoning_summary_text.delta")) == "let me see"
    assert [e["type"] for e in events if "reasoning_summary" in e["type"]][0::5] == [
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done",
    ]


async def test_logprobs_where_they_are_asked_for(serve: Serve) -> None:
    client = await serve(models("{text: Hi you, logprobs: -0.5}"), default=SINGLE)
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    whole = (await ask(client, **asked)).json
    assert_valid(RESPONSE, whole)
    tokens = whole["output"][0]["content"][0]["logprobs"]
    assert [token["token"] for token in tokens] == ["Hi", " you"] and tokens[0]["bytes"] == [72, 105]
    deltas = only(events_of(await ask(client, stream=True, **asked)), "response.output_text.delta")
    assert [event["logprobs"][0]["logprob"] for event in deltas] == [-0.5, -0.5]
    assert (await ask(client)).json["output"][0]["content"][0]["logprobs"] == []


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_that_is_cut_short_is_incomplete(serve: Serve, finish: str, reason: str) -> None:
    client = await serve(models(f"{{text: Once upon, finish_reason: {finish}}}"), default=SINGLE)
    whole = (await ask(client, max_output_tokens=2)).json
    assert_valid(RESPONSE, whole)
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert whole["output"][0]["status"] == "incomplete"
    last = events_of(await ask(client, stream=True, max_output_tokens=2))[-1]
    assert last["type"] == "response.incomplete" and last["response"]["incomplete_details"] == {"reason": reason}


async def test_an_empty_answer_is_an_empty_message(serve: Serve) -> None:
    client = await serve(models("{text: ''}"), default=SINGLE)
    assert [item["type"] for item in (await ask(client)).json["output"]] == ["message"]
    assert text_of(events_of(await ask(client, stream=True))[-1]["response"]) == ""


async def test_usage_that_the_upstream_does_not_tell_is_estimated(serve: Serve) -> None:
    client = await serve(models("{text: Hello you, usage: none}"), default=SINGLE)
    response = (await ask(client)).json
    assert response["usage"]["input_tokens"] > 0 and response["usage"]["output_tokens"] > 0
    assert response["gateway"]["usage"]["estimated"]


async def test_the_details_of_usage(serve: Serve) -> None:
    details = "prompt_tokens_details: {cached_tokens: 4}, completion_tokens_details: {reasoning_tokens: 2}"
    usage = f"{{prompt_tokens: 9, completion_tokens: 5, total_tokens: 14, {details}}}"
    client = await serve(models(f"{{text: Hi, usage: {usage}}}"), default=SINGLE)
    assert (await ask(client)).json["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }


async def test_a_draft_that_was_dropped_leaves_no_trace_in_the_events(serve: Serve) -> None:
    policy = SINGLE.replace(
        "{model: m1}", "{cascade: [{model: m1, checks: [{regex: {pattern: good}}], hold: all}, {model: m2}]}"
    )
    first = "{text: poor draft, reasoning: poor thought, tool_calls: [{name: poor_call, arguments: {}}]}"
    client = await serve(models(first, "{text: a good answer}"), default=policy)
    reply = await ask(client, stream=True)
    events = events_of(reply)
    assert b"poor" not in reply.body
    assert text_of(events[-1]["response"]) == "a good answer" and len(events[-1]["response"]["output"]) == 1
    assert {event["response"]["model"] for event in events if "response" in event} == {"m2"}
    assert events[-1]["response"]["gateway"]["path"] == "m1!regex,m2"
    whole = await ask(client)
    assert b"poor" not in whole.body and whole.headers["x-gateway-path"] == "m1!regex,m2"


async def test_a_failure_after_the_start_is_told_and_nothing_after_it(serve: Serve) -> None:
    async with upstream({"text": "one two three four", "error_after": 3}) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        reply = await ask(client, stream=True)
    blocks = [block for block in reply.body.decode().split("\n\n") if block]
    last = orjson.loads(blocks[-1].split("data: ", 1)[1])
    assert_valid(RESPONSE_EVENT, last)
    assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert "response.completed" not in reply.body.decode() and last["response"]["usage"] is None


async def test_a_failure_before_the_start_is_a_status(serve: Serve) -> None:
    async with upstream({"error": {"status": 429, "message": "slow down", "headers": {"retry-after": "2"}}}) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        reply = await ask(client, stream=True)
    assert reply.status == 429 and reply.headers["retry-after"] == "2"
    assert_valid(ERROR, reply.json)


async def test_a_cascade_moves_on_when_a_model_fails(serve: Serve) -> None:
    client = await serve(models("{error: {status: 500}}", "{text: saved}"), default=CASCADE)
    assert text_of(events_of(await ask(client, stream=True))[-1]["response"]) == "saved"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": "hi"}, 400, "model"),
        ({"model": "nobody", "input": "hi"}, 404, "model"),
        ({"model": "auto"}, 400, "input"),
        ({"model": "auto", "input": "hi", "temperature": 9}, 400, "temperature"),
        ({"model": "auto", "input": "hi", "metadata": []}, 400, "metadata"),
        ({"model": "auto", "input": "hi", "top_logprobs": 99}, 400, "top_logprobs"),
        ({"model": "auto", "input": "hi", "previous_response_id": 5}, 400, "previous_response_id"),
        ({"model": "auto", "input": [{"type": "item_reference", "id": "x"}]}, 400, "input[0].id"),
        ({"model": "auto", "input": [{"type": "item_reference", "id": 5}]}, 400, "input[0].id"),
    ],
)
async def test_errors(serve: Serve, body: Json, status: int, param: str) -> None:
    client = await serve(models("{text: hi}"), default=SINGLE)
    reply = await client.call("POST", "/v1/responses", body)
    assert (reply.status, reply.error["param"]) == (status, param)
    assert_valid(ERROR, reply.json)


async def test_what_is_nested_too_deeply_is_refused(serve: Serve) -> None:
    client = await serve(models("{text: hi}"), default=SINGLE)
    for depth in (200, 248, 252, 254, 300, 1000):
        schema = b'{"a":' * depth + b"1" + b"}" * depth
        tools = b'[{"type":"function","name":"f","parameters":' + schema + b"}]"
        body = b'{"model":"auto","input":"hi","stream":true,"tools":' + tools + b"}"
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            reply = await client.call("POST", path, body)
            assert reply.status == (200 if depth == 200 else 400), (depth, path)


async def test_what_codex_sends(serve: Serve) -> None:
    client = await serve(models("{text: done}"), default=SINGLE)
    sent = {
        "model": "auto",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "fix it"}]},
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAA", "content": None},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look"}]},
            {"type": "function_call", "name": "shell", "arguments": '{"cmd":"ls"}', "call_id": "c1", "namespace": "sh"},
            {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
        ],
        "tools": [
            {"type": "namespace", "name": "sh", "description": "", "tools": [{"type": "function", "name": "shell"}]},
            {"type": "web_search", "external_web_access": False},
            {
                "type": "custom",
                "name": "apply_patch",
                "format": {"type": "grammar", "syntax": "lark", "definition": ""},
            },
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "thread",
        "client_metadata": {"x-codex-installation-id": "1"},
    }
    headers = {"accept": "text/event-stream", "originator": "codex_cli_rs", "session-id": "s"}
    reply = await client.call("POST", "/v1/responses", sent, headers)
    final = events_of(reply)[-1]["response"]
    assert reply.headers["x-gateway-dropped"] == "tools[].namespace,tools[].web_search,tools[].format"
    assert final["store"] is False and text_of(final) == "done"
    asked = script_of(client).requests[-1]["messages"]
    assert [message["role"] for message in asked] == ["developer", "user", "assistant", "tool"]
    assert asked[2]["content"] == "I look" and asked[2]["tool_calls"][0]["function"]["name"] == "sh__shell"
    assert (await client.call("GET", f"/v1/responses/{final['id']}")).status == 404


async def test_a_body_of_this_shape_on_the_chat_route_is_a_chat(serve: Serve) -> None:
    client = await serve(models("{text: Hi you}"), default=SINGLE)
    body = {
        "model": "auto",
        "input": [{"role": "system", "content": "rules"}, {"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "name": "read", "parameters": {"type": "object"}}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "store": False,
    }
    reply = await client.call("POST", "/v1/chat/completions", body)
    assert reply.text == "Hi you" and reply.events[-1] == "[DONE]" and reply.events[-2]["usage"]
    assert script_of(client).requests[-1]["tools"][0]["function"]["name"] == "read"
    whole = await client.call("POST", "/v1/chat/completions", {"model": "auto", "input": "hi"})
    assert whole.json["object"] == "chat.completion" and whole.text == "Hi you"
    bad = await client.call("POST", "/v1/chat/completions", {**body, "previous_response_id": "resp_1"})
    assert (bad.status, bad.error["param"]) == (400, "previous_response_id")


async def test_other_methods_are_refused(serve: Serve) -> None:
    client = await serve(models("{text: hi}"), default=SINGLE)
    assert (await client.call("GET", "/v1/responses")).status == 405
    assert (await client.call("PUT", "/v1/responses/resp_1")).status == 405


async def test_a_rating_can_name_the_response(serve: Serve) -> None:
    client = await serve(models("{text: hi}"), default=SINGLE)
    response = (await ask(client)).json
    rated = await client.call("POST", "/v1/feedback", {"id": response["id"], "value": True})
    assert rated.status == 201


def script_of(client: Client) -> Any:
    return client.gateway.models["m1"].responder.client.script  # type: ignore[union-attr]
