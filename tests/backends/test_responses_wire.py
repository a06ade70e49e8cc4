"""Upstreams that speak OpenAI's Responses API: what they are sent, and what comes back of what they say."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from gateway.api.responses_chat import as_chat
from gateway.api.responses_input import items_of
from gateway.backends.responses import ResponsesWire
from gateway.chat import ChatRequest
from tests.backends.wires import asked, meeting
from tests.conftest import Serve
from tests.responses_shaped import ResponsesShaped
from tests.vendors import Json, Say

WIRE = ResponsesWire()
ENTRY = "speaks: responses, model: gpt-5-mini"
PLAIN, THINKER = "gpt-4o", "gpt-5-mini"
SEALED = "reasoning.encrypted_content"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
THOUGHT = {"id": "rs_9", "type": "reasoning", "summary": [], "encrypted_content": "sealed"}
SHAPE = TypeAdapter(ResponseCreateParamsNonStreaming)


def sent(model: str = PLAIN, **chat: Any) -> Json:
    """What is sent for a chat; it has the shape that OpenAI's own library gives it."""
    body, _ = asked(WIRE, model, **chat)
    SHAPE.validate_python(body)
    return body


def said(text: str, role: str = "user") -> Json:
    return {"role": role, "content": text}


def message(content: Any, role: str = "user") -> Json:
    return {"type": "message", "role": role, "content": content}


def output(text: str) -> Json:
    return message(text, "assistant")


# -- a chat, asked -------------------------------------------------------------------------------------------------


def test_a_conversation_with_tools() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,x", "detail": "low"}}
    messages = [
        said("be brief", "system"),
        said("and kind", "developer"),
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "reasoning_items": [THOUGHT, {"type": "reasoning", "id": "rs_0", "summary": []}],
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            "tool_calls": [CALL],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": None, "refusal": "no!"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "rain"}]},
    ]
    body = sent(THINKER, messages=messages, tools=[TOOL])
    assert body["input"] == [
        message("be brief", "system"),
        message("and kind", "developer"),
        message(
            [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "data:image/png;base64,x", "detail": "low"},
            ]
        ),
        THOUGHT,
        output("I look."),
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        output("no"),
        output("no!"),
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "rain"}]},
    ]
    assert body["tools"] == [{"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}]
    assert (body["store"], body["include"]) == (False, [SEALED]) and "stream" not in body


def test_a_custom_tools_call_is_told_as_a_functions() -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": 'say "é"'}}
    (told,) = sent(messages=[{"role": "assistant", "content": None, "tool_calls": [call]}])["input"]
    assert told["type"] == "function_call" and orjson.loads(told["arguments"]) == {"input": 'say "é"'}


def test_other_parts() -> None:
    parts = [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,x"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
    ]
    assert sent(messages=[{"role": "user", "content": parts}])["input"][0]["content"] == [
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,x"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
    ]


def test_the_fields_of_a_chat_in_its_words() -> None:
    schema = {"name": "place", "schema": {"type": "object"}, "strict": True}
    body, lost = asked(
        WIRE,
        THINKER,
        max_completion_tokens=100,
        reasoning_effort="low",
        verbosity="high",
        response_format={"type": "json_schema", "json_schema": schema},
        parallel_tool_calls=False,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        logprobs=True,
        top_logprobs=2,
        temperature=0.1,
        top_p=0.2,
        user="u",
        metadata={"a": "b"},
        service_tier="flex",
        safety_identifier="s",
        prompt_cache_key="k",
        stream=True,
        stream_options={"include_usage": True},
    )
    assert lost == ()
    assert {name: value for name, value in body.items() if name not in ("input", "tools", "model")} == {
        "max_output_tokens": 100,
        "reasoning": {"effort": "low"},
        "text": {"verbosity": "high", "format": {"type": "json_schema", **schema}},
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "name": "weather"},
        "include": ["message.output_text.logprobs", SEALED],
        "top_logprobs": 2,
        "temperature": 0.1,
        "top_p": 0.2,
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "store": False,
        "stream": True,
    }
    assert sent(response_format={"type": "json_object"})["text"] == {"format": {"type": "json_object"}}
    assert sent(max_tokens=1)["max_output_tokens"] == 16, "fewer are refused"


def test_what_a_response_has_no_place_for_is_named() -> None:
    gone: Json = {
        "n": 2,
        "stop": "END",
        "seed": 7,
        "presence_penalty": 1,
        "frequency_penalty": 1,
        "logit_bias": {"5": 1},
        "prediction": {"type": "content", "content": "x"},
        "functions": [{"name": "f"}],
        "min_p": 0.1,
        "modalities": ["text", "audio"],
        "web_search_options": {},
    }
    body, lost = asked(WIRE, PLAIN, **gone)
    assert set(lost) == set(gone) and set(body) == {"model", "input", "store"}
    assert asked(WIRE, PLAIN, n=1, stop=None, presence_penalty=0, modalities=["text"])[1] == ()


def test_tools_and_choices_of_other_kinds() -> None:
    strict = {"type": "function", "function": {"name": "f", "parameters": None, "strict": True, "description": "d"}}
    body, lost = asked(WIRE, PLAIN, tools=[strict, {"type": "web_search"}, {"type": "custom", "custom": {"name": "p"}}])
    no_parameters = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {"type": "function", "name": "f", "parameters": no_parameters, "strict": True, "description": "d"},
        {"type": "web_search"},
    ]
    assert lost == ("tools[].custom",)
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}}
    chosen = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    assert sent(tools=[TOOL], tool_choice=allowed)["tool_choice"] == chosen
    assert sent(tools=[TOOL], tool_choice="required")["tool_choice"] == "required"
    assert not {"tools", "parallel_tool_calls", "tool_choice"} & sent(parallel_tool_calls=False, tools=[]).keys()


@pytest.mark.parametrize(
    ("model", "reasons"),
    [(PLAIN, False), ("gpt-4.1-mini", False), ("openai/gpt-5-chat-latest", False), ("o3", True), ("qwen3", True)],
)
def test_reasoning_is_asked_for_in_its_seal_of_models_that_may_reason(model: str, reasons: bool) -> None:
    assert (sent(model).get("include") == [SEALED]) is reasons


def test_an_answer_is_kept_there_only_where_a_chat_asks_for_it() -> None:
    assert sent(THINKER, store=True)["store"] is True and "include" not in sent(THINKER, store=True)
    assert sent(THINKER, store=False)["store"] is False


def test_what_the_entry_sets_is_sent_as_it_stands_there() -> None:
    defaults = {"reasoning": {"summary": "auto"}, "new_field": 1, "seed": 1, "max_tokens": 99}
    body, lost = asked(WIRE, THINKER, defaults=defaults, reasoning_effort="low")
    assert (body["reasoning"], body["new_field"]) == ({"effort": "low", "summary": "auto"}, 1)
    assert body["max_output_tokens"] == 99 and lost == ("seed",)


# -- its own dialect -----------------------------------------------------------------------------------------------

READ = {"type": "function", "name": "read", "description": "a file", "parameters": PARAMETERS, "strict": False}
LIKE_CODEX: Json = {
    "model": "auto",
    "instructions": "You are a coder.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "look", "odd": 1}]},
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "gAAAA+/="},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}], "phase": "x"},
        {"type": "function_call", "name": "read", "namespace": "fs", "arguments": '{ "a" :1}', "call_id": "call_1"},
        {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin\n", "call_id": "call_2"},
        {"type": "function_call_output", "call_id": "call_1", "output": "é\u2028"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "done"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "message", "role": "user", "content": "so?"},
    ],
    "tools": [
        {"type": "function", "name": "shell", "parameters": PARAMETERS, "strict": False},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "namespace", "name": "fs", "description": "files", "tools": [READ]},
        {"type": "web_search"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": [SEALED],
    "prompt_cache_key": "k",
    "client_metadata": {"x": "y"},
    "text": {"verbosity": "low"},
    "never_heard_of": {"a": [1, 2]},
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_in_its_own_dialect_goes_through_unchanged(serve: Serve, stream: bool) -> None:
    async with meeting(serve, ResponsesShaped, ENTRY) as (client, server):
        body = {**LIKE_CODEX, "stream": stream}
        reply = await client.call("POST", "/v1/responses", body, {"authorization": "Bearer sk-of-the-client"})
        assert reply.status == 200, reply.body
        assert "x-gateway-dropped" not in reply.headers
        assert server.requests[0] == {**body, "model": "gpt-5-mini"}
        assert orjson.dumps(server.requests[0]["input"]) == orjson.dumps(body["input"])
        assert server.paths == ["/v1/responses"] and "sk-of-the-client" not in str(server.headers)


async def test_a_conversation_that_the_gateway_keeps_is_sent_whole(serve: Serve) -> None:
    async with meeting(serve, ResponsesShaped, ENTRY, Say(thinking="hm")) as (client, server):
        first = await client.call("POST", "/v1/responses", {"model": "auto", "input": "hi"})
        assert first.json["status"] == "completed", first.body
        more = {"model": "auto", "input": "more", "previous_response_id": first.json["id"]}
        assert (await client.call("POST", "/v1/responses", more)).status == 200
        once, again = server.requests
        assert once["store"] is False and once["include"] == [SEALED], "it is kept here, and not there"
        assert "previous_response_id" not in again
        kinds = [item.get("role") or item["type"] for item in again["input"]]
        assert kinds == ["user", "reasoning", "assistant", "user"]
        assert again["input"][1]["encrypted_content"] == "sealed" and again["input"][1]["id"] == "rs_1"


def native(body: Json) -> ChatRequest:
    chat = as_chat(dict(body), items_of(body["input"]))
    return ChatRequest(chat.body, extra=chat.extra)


def test_messages_that_were_added_leave_the_others_as_they_came() -> None:
    request = native(LIKE_CODEX)
    first, *rest = request.messages
    facts = {"role": "system", "content": f"{first['content']}\n\nParis is in France."}
    example = [said("2+2?"), said("4", "assistant")]
    changed = request.with_body(messages=[facts, *example, *rest])
    body, lost = WIRE.ask({**changed.body, "model": "up"}, changed)
    kept = [item for item in LIKE_CODEX["input"] if item["type"] != "web_search_call"]
    assert body["instructions"] == "You are a coder.\n\nParis is in France."
    assert body["input"] == [message("2+2?"), output("4"), *kept]
    others = LIKE_CODEX.keys() - {"input", "instructions", "model"}
    assert {name: body[name] for name in others} == {name: LIKE_CODEX[name] for name in others} and lost == ()


def test_instructions_that_were_left_out_or_stay() -> None:
    request = native(LIKE_CODEX)
    changed = request.with_body(messages=request.messages[1:])
    assert "instructions" not in WIRE.ask({**changed.body, "model": "up"}, changed)[0]
    changed = request.with_body(messages=[*request.messages, said("one more")])
    body, _ = WIRE.ask({**changed.body, "model": "up"}, changed)
    assert body["instructions"] == "You are a coder." and body["input"][-1] == message("one more")
    assert not any("You are a coder." in str(item) for item in body["input"])


def test_ids_and_unsealed_reasoning_are_not_sent_anew() -> None:
    items: list[Json] = [
        {"type": "message", "role": "user", "content": "a"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {**THOUGHT},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "message", "role": "user", "content": "c"},
    ]
    request = native({"model": "auto", "input": items})
    changed = request.with_body(messages=[*request.messages, said("d")])
    told = WIRE.ask({**changed.body, "model": "up"}, changed)[0]["input"]
    kept = {name: value for name, value in items[3].items() if name != "id"}
    assert told == [items[0], THOUGHT, kept, items[4], message("d")]


def test_defaults_fill_in_what_a_body_leaves_out() -> None:
    request = native({"model": "auto", "input": "hi", "reasoning": {"summary": "auto"}, "temperature": 0.1})
    chat = {**request.body, "reasoning_effort": "low", "max_tokens": 99, "model": "up", "top_p": 0.5}
    body, _ = WIRE.ask(chat, request)
    assert body["reasoning"] == {"effort": "low", "summary": "auto"} and body["max_output_tokens"] == 99
    assert (body["temperature"], body["top_p"], body["input"]) == (0.1, 0.5, "hi")


def test_logprobs_that_a_check_wants_are_asked_for() -> None:
    request = native({"model": "auto", "input": "hi", "store": False}).with_body(logprobs=True)
    assert WIRE.ask({**request.body, "model": "up"}, request)[0]["include"] == ["message.output_text.logprobs"]


async def test_what_its_provider_refuses_is_left_out_of_its_own_dialect_too(serve: Serve) -> None:
    async with meeting(serve, ResponsesShaped, f"provider: openai, {ENTRY}, drop: [metadata]") as (client, server):
        include = ["message.output_text.logprobs", SEALED]
        body = {"model": "auto", "input": "hi", "store": False, "temperature": 0.2, "metadata": {"a": "b"}}
        reply = await client.call("POST", "/v1/responses", {**body, "include": include})
        assert set(reply.headers["x-gateway-dropped"].split(",")) >= {"temperature", "metadata", "logprobs"}
        assert set(server.requests[0]) == {"model", "input", "store", "include"}
        assert server.requests[0]["include"] == [SEALED]


async def test_models_that_never_reason_are_not_told_how_to_in_their_own_dialect_either(serve: Serve) -> None:
    entry = "provider: openai, speaks: responses, model: gpt-4.1"
    async with meeting(serve, ResponsesShaped, entry) as (client, server):
        body = {
            "model": "auto",
            "input": "hi",
            "store": False,
            "text": {"verbosity": "low", "format": {"type": "text"}},
        }
        reply = await client.call("POST", "/v1/responses", {**body, "reasoning": {"effort": "low", "summary": "auto"}})
        assert set(reply.headers["x-gateway-dropped"].split(",")) == {"reasoning_effort", "verbosity"}
        assert server.requests[0]["text"] == {"format": {"type": "text"}} and "reasoning" not in server.requests[0]
        reply = await client.call("POST", "/v1/responses", {**body, "reasoning": {"summary": "auto"}, "text": {}})
        assert reply.headers["x-gateway-dropped"] == "reasoning" and "reasoning" not in server.requests[1]
