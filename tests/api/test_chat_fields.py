"""What a client sends reaches the upstream as it was sent; what comes back reaches the client as it was said."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.conftest import SHARED, Serve
from tests.openai_shaped import OpenAIShaped
from tests.upstream import SINGLE
from tests.vendors import Say, vendor

MODELS = "models: {{m1: {{engine: openai, base_url: '{0}', model: up, api_key: k}}}}"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
FIELDS: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "cache_control": {"type": "ephemeral"},
    "chat_template_kwargs": {"enable_thinking": False},
    "frequency_penalty": -0.5,
    "function_call": "auto",
    "functions": [{"name": "f", "parameters": {"type": "object"}}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 77,
    "max_tokens": 77,
    "metadata": {"a": "b"},
    "min_p": 0.05,
    "modalities": ["text", "audio"],
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 2,
    "prompt_cache_key": "pck",
    "reasoning_effort": "low",
    "response_format": SCHEMA,
    "safety_identifier": "sid",
    "seed": -(2**40),
    "service_tier": "flex",
    "stop": ["a", "b", "c", "d", "e", "f"],
    "store": False,
    "temperature": 0,
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "tools": [TOOL, {"type": "custom", "custom": {"name": "c"}}],
    "top_k": 40,
    "top_logprobs": 20,
    "top_p": 1,
    "user": "u",
    "vendor_extra": {"x": [1, None, {"y": 1.5}]},
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
PARTS = [
    {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
    {"type": "file", "file": {"file_id": "file-1"}},
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
HISTORY = [
    {"role": "developer", "content": "Be brief.", "name": "dev"},
    {"role": "user", "content": PARTS, "name": "me"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "42"}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "function", "name": "f", "content": "1"},
    {"role": "user", "content": "\u0000 \U0001f600 e\u0301 \u202e \\u0041"},
]
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@BOTH_WAYS
async def test_every_field_reaches_the_upstream_unchanged(serve: Serve, stream: bool) -> None:
    async with vendor(OpenAIShaped, Say()) as up:
        client = await serve(MODELS.format(up.url), default=SINGLE)
        sent = {"model": "auto", "messages": HISTORY, "stream": stream, **FIELDS}
        reply = await client.call("POST", "/v1/chat/completions", sent)
    assert reply.status == 200 and "x-gateway-dropped" not in reply.headers
    expected = {**sent, "model": "up"} | ({"stream_options": {"include_usage": True}} if stream else {})
    assert up.requests == [expected]


@pytest.mark.parametrize("name", sorted(FIELDS))
async def test_an_explicit_null_is_as_good_as_nothing(serve: Serve, name: str) -> None:
    async with vendor(OpenAIShaped, Say()) as up:
        client = await serve(MODELS.format(up.url), default=SINGLE)
        assert (await client.chat(**{name: None})).status == 200
    assert up.requests[0][name] is None


@SHARED
@pytest.mark.parametrize(
    "name",
    sorted(set(FIELDS) - {"cache_control", "chat_template_kwargs", "min_p", "top_k", "vendor_extra"}),
)
async def test_a_wrong_type_is_named(shared: Serve, name: str) -> None:
    client = await shared("models: {m1: {engine: scripted, replies: [{text: hi}]}}", default=SINGLE)
    wrong = "yes" if isinstance(FIELDS[name], bool) else True
    reply = await client.chat(**{name: wrong})
    assert (reply.status, reply.error["param"], reply.error["type"]) == (400, name, "invalid_request_error")


async def test_stream_options_without_a_stream_are_not_sent(serve: Serve) -> None:
    async with vendor(OpenAIShaped, Say()) as up:
        client = await serve(MODELS.format(up.url), default=SINGLE)
        assert (await client.chat(stream=False, stream_options={"include_usage": True})).status == 200
    assert "stream_options" not in up.requests[0]


@pytest.mark.parametrize(
    ("what", "messages", "fields"),
    [
        ("a prompt of 1 MB", [{"role": "user", "content": "wörd " * 200_000}], {}),
        (
            "an image of 10 MB",
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {
                                "url": "data:image/png;base64," + base64.b64encode(bytes(10 * 1024 * 1024)).decode()
                            },
                        }
                    ],
                }
            ],
            {},
        ),
        (
            "a hundred tools",
            [{"role": "user", "content": "hi"}],
            {"tools": [{**TOOL, "function": {**TOOL["function"], "name": f"f{i}"}} for i in range(100)]},  # type: ignore[dict-item]
        ),
        (
            "two hundred turns",
            [
                message
                for i in range(100)
                for message in (
                    {"role": "user", "content": f"question {i}"},
                    {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": f"call_{i}"}]},
                    {"role": "tool", "tool_call_id": f"call_{i}", "content": "42"},
                )
            ],
            {},
        ),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
async def test_large_requests_arrive_whole(serve: Serve, what: str, messages: Any, fields: Any) -> None:
    async with vendor(OpenAIShaped, Say()) as up:
        client = await serve(MODELS.format(up.url), default=SINGLE)
        body = {"model": "auto", "messages": messages, **fields}
        reply = await client.start("POST", "/v1/chat/completions", body).done(30)
        assert reply.status == 200
    assert up.requests[0]["messages"] == messages and up.requests[0].get("tools") == fields.get("tools")


ODD_TEXT = (
    'naïve \U0001f468\u200d\U0001f469\u200d\U0001f467 日本語 \u2028\u2029 \\n "quoted" \u0000\u001f </s> '
    "data: [DONE]\r\n\r\n: x"
)


def _raw_events(text: str) -> bytes:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "up"}
    said = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    said += [{"index": 0, "delta": {"content": letter}, "finish_reason": None} for letter in text]
    said += [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    return (
        b"".join(b"data: " + orjson.dumps({**head, "choices": [one]}) + b"\n\n" for one in said) + b"data: [DONE]\n\n"
    )


@pytest.mark.parametrize("line_end", ["lf", "crlf"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_text_is_exact_however_the_bytes_come(serve: Serve, size: int, line_end: str) -> None:
    raw = _raw_events(ODD_TEXT)
    raw = raw.replace(b"\n", b"\r\n") if line_end == "crlf" else raw

    class Chopping(OpenAIShaped):
        async def _stream(self, request: web.Request, say: Say) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for at in range(0, len(raw), size):
                await response.write(raw[at : at + size])
            return response

    async with vendor(Chopping, Say()) as up:
        client = await serve(MODELS.format(up.url), default=SINGLE)
        reply = await client.start_chat(stream=True).done(30)
    assert reply.text == ODD_TEXT and reply.events[-1] == "[DONE]"


async def test_an_event_of_a_megabyte_arrives_whole(serve: Serve) -> None:
    text = "Ω" * 500_000
    async with vendor(OpenAIShaped, Say(words=(text,))) as up:
        client = await serve(MODELS.format(up.url), default=SINGLE)
        reply = await client.start_chat(stream=True).done(30)
        assert reply.text == text
        assert (await client.start_chat().done(30)).text == text
