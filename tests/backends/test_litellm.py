"""Anthropic and Gemini through real litellm, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.backends import litellm
from gateway.config.files import read_config
from gateway.errors import ConfigError
from tests.conftest import Serve, write_config
from tests.upstream import CASCADE, SINGLE
from tests.vendors import Anthropic, Gemini, Say, Vendor, vendor

KEY = "sk-very-secret"
VENDORS = [Anthropic, Gemini]
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
EACH_VENDOR = pytest.mark.parametrize("kind", VENDORS, ids=[kind.name for kind in VENDORS])
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = ("weather", {"city": "Paris"})
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PRICED = "price: {input_usd_per_mtok: 100, output_usd_per_mtok: 1000}"
FIRST_WORD = {"anthropic": 4, "gemini": 1}  # events up to the one that holds it
pytestmark = pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")


@pytest.fixture(autouse=True)
async def connections_end_with_their_loop() -> AsyncIterator[None]:
    yield
    await litellm.close()


def pointing_at(*servers: Vendor, extra: str = "") -> str:
    lines = ["models:"]
    for number, server in enumerate(servers, 1):
        at = f"model: {server.model}, base_url: '{server.url}', api_key: {KEY}"
        lines.append(f"  m{number}: {{engine: litellm, {at}, retries: 0, {extra}}}")
    return "\n".join(lines) + "\n"


def image(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@EACH_VENDOR
@BOTH_WAYS
async def test_an_answer_with_its_usage_and_price(serve: Serve, kind: type[Vendor], stream: bool) -> None:
    async with vendor(kind, Say(usage=(12, 7), cached=5)) as up:
        client = await serve(
            pointing_at(up, extra=PRICED.replace("}", ", cached_input_usd_per_mtok: 10}")), default=SINGLE
        )
        reply = await client.chat("bonjour", stream=stream)
        assert reply.status == 200
        assert reply.text == "Hello there"
        assert reply.headers["x-gateway-model"] == "m1" and reply.headers["x-gateway-path"] == "m1"
        assert "x-gateway-dropped" not in reply.headers
        assert reply.gateway["usage"] == {"input_tokens": 12, "output_tokens": 7, "estimated": False}
        assert reply.gateway["cost_usd"] == pytest.approx((7 * 100 + 5 * 10 + 7 * 1000) / 1e6)
        assert "bonjour" in str(up.requests) and len(up.requests) == 1
        assert KEY in (up.headers[0].get("x-api-key"), up.headers[0].get("x-goog-api-key"))


@EACH_VENDOR
@BOTH_WAYS
async def test_a_key_that_is_refused_is_not_used_again(serve: Serve, kind: type[Vendor], stream: bool) -> None:
    refused = Say(error=(401, "authentication_error", "no such key", {}))
    async with vendor(kind, refused, Say()) as up:
        entry = pointing_at(up).replace(f"api_key: {KEY}", f"api_key: [{KEY}-old, {KEY}]")
        client = await serve(entry, default=SINGLE)
        for number in range(3):
            reply = await client.chat(f"question {number}", stream=stream)
            assert reply.text == "Hello there"
            assert reply.gateway["path"] == ("m1" if number else "m1!bad_reply,m1")
        sent = [headers.get("x-api-key") or headers.get("x-goog-api-key") for headers in up.headers]
        assert sent == [f"{KEY}-old", KEY, KEY, KEY]


@EACH_VENDOR
@BOTH_WAYS
async def test_a_provider_that_fails_once_is_tried_again(serve: Serve, kind: type[Vendor], stream: bool) -> None:
    async with vendor(kind, Say(error=(500, "api_error", "oops", {})), Say()) as up:
        entry = pointing_at(up).replace("retries: 0", "retries: 1")
        reply = await (await serve(entry, default=SINGLE)).chat(stream=stream)
        assert (reply.text, reply.gateway["path"]) == ("Hello there", "m1!http_500,m1")


@EACH_VENDOR
async def test_a_stream_has_openais_shape(serve: Serve, kind: type[Vendor]) -> None:
    async with vendor(kind, Say(thinking="let me see", stop="length")) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=True, stream_options={"include_usage": True})
        assert reply.events[-1] == "[DONE]"
        *chunks, usage = reply.events[:-1]
        assert {chunk["model"] for chunk in reply.events[:-1]} == {"m1"}
        assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert "".join(c["choices"][0]["delta"].get("reasoning_content", "") for c in chunks) == "let me see"
        assert usage["choices"] == [] and usage["usage"]["total_tokens"] == 19
        assert "cost" not in usage["usage"]


@EACH_VENDOR
async def test_one_chunk_in_is_one_chunk_out(serve: Serve, kind: type[Vendor]) -> None:
    async with vendor(kind, Say(ends="stall", after=FIRST_WORD[kind.name])) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        call = client.start_chat(stream=True)
        await asyncio.wait_for(call.wrote.wait(), 20)
        assert call.response.text == "Hello", "before the vendor says more"
        call.leave()
        await call.done()


@EACH_VENDOR
@BOTH_WAYS
async def test_a_tool_call(serve: Serve, kind: type[Vendor], stream: bool) -> None:
    async with vendor(kind, Say(words=(), call=CALL)) as up:
        client = await serve(
            pointing_at(up), default=SINGLE.replace("model: m1", "model: m1, checks: [tool_arguments]")
        )
        reply = await client.chat(stream=stream, tools=[TOOL], tool_choice="auto")
        assert reply.status == 200
        if stream:
            choices = [event["choices"][0] for event in reply.events[:-1]]
            pieces = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
            assert {piece["index"] for piece in pieces} == {0}
            name, finish = pieces[0]["function"]["name"], choices[-1]["finish_reason"]
            arguments = "".join(piece["function"]["arguments"] for piece in pieces)
        else:
            choice = reply.json["choices"][0]
            (call,) = choice["message"]["tool_calls"]
            name, arguments, finish = call["function"]["name"], call["function"]["arguments"], choice["finish_reason"]
            assert "index" not in call and call["id"]
        assert (name, orjson.loads(arguments), finish) == ("weather", CALL[1], "tool_calls")
        assert "weather" in str(up.requests[0]["tools"])


@EACH_VENDOR
async def test_the_result_of_a_tool_goes_back(serve: Serve, kind: type[Vendor]) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "it rains"},
    ]
    async with vendor(kind) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        assert (await client.chat(messages=messages, tools=[TOOL])).text == "Hello there"
        assert "it rains" in str(up.requests[0])


@EACH_VENDOR
@BOTH_WAYS
async def test_a_json_schema_reaches_the_vendor(serve: Serve, kind: type[Vendor], stream: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    async with vendor(kind, Say(words=('{"city": ', '"Paris"}'))) as up:
        client = await serve(pointing_at(up), default=SINGLE.replace("model: m1", "model: m1, checks: [json_schema]"))
        reply = await client.chat(stream=stream, response_format=wanted)
        assert orjson.loads(reply.text) == {"city": "Paris"}
        assert "checks_failed" not in reply.gateway and "x-gateway-dropped" not in reply.headers
        assert '"city"' in orjson.dumps(up.requests[0]).decode()


@EACH_VENDOR
async def test_an_image_arrives_as_base64(serve: Serve, kind: type[Vendor]) -> None:
    async with vendor(kind) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(messages=image(f"data:image/png;base64,{PIXEL}"))
        assert reply.status == 200, "the list of models says that it takes images"
        assert PIXEL in str(up.requests[0]) and "image/png" in str(up.requests[0])


@EACH_VENDOR
async def test_no_address_that_a_request_names_is_fetched(serve: Serve, kind: type[Vendor]) -> None:
    async with vendor(kind) as up, vendor(Gemini) as web:
        client = await serve(pointing_at(up), default=SINGLE)
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": f"{web.url}/cat.png"}},
            {"type": "image_url", "image_url": f"{web.url}/cat.png"},
            {"type": "image_url", "image_url": {"url": "gs://bucket/cat"}},
            {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
            {"type": "file", "file": {"file_id": f"{web.url}/paper.pdf"}},
            {"type": "file", "file": {"file_data": f"{web.url}/paper.pdf"}},
        ]
        for part in parts:
            reply = await client.chat(messages=[{"role": "user", "content": [part]}])
            assert (reply.status, reply.error["code"]) == (400, "unsupported_content"), part
        assert up.requests == web.requests == [] and web.paths == []


async def test_an_image_by_address_moves_outward(serve: Serve) -> None:
    async with vendor(Anthropic) as up:
        models = pointing_at(up) + "  m2: {engine: scripted, replies: [{text: I looked}]}\n"
        client = await serve(models, default=CASCADE)
        reply = await client.chat(messages=image("https://example.com/cat.png"))
        assert reply.text == "I looked"
        assert reply.headers["x-gateway-path"] == "m1!modality,m2"


@BOTH_WAYS
async def test_what_the_vendor_does_not_take_is_left_out_and_named(serve: Serve, stream: bool) -> None:
    odd = {"logit_bias": {"50256": -100}, "seed": 1, "n": 2, "metadata": {"a": "b"}, "made_up": True}
    async with vendor(Anthropic) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        fields = {"temperature": 0.5, "top_k": 3, "presence_penalty": 0, "max_completion_tokens": 9, **odd}
        reply = await client.chat(stream=stream, **fields)
        assert reply.status == 200
        assert set(reply.headers["x-gateway-dropped"].split(",")) == set(odd) == set(reply.gateway["dropped"])
        sent = up.requests[0]
        assert (sent["temperature"], sent["top_k"], sent["max_tokens"]) == (0.5, 3, 9)
        assert not {"seed", "logit_bias", "presence_penalty", "made_up"} & set(sent)


@pytest.mark.parametrize(("older", "dropped"), [(10, ["max_tokens"]), (5, None)])
async def test_of_two_limits_the_newer_one_counts(serve: Serve, older: int, dropped: list[str] | None) -> None:
    async with vendor(Anthropic) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(max_completion_tokens=5, max_tokens=older)
        assert up.requests[0]["max_tokens"] == 5 and reply.gateway.get("dropped") == dropped


async def test_a_client_cannot_turn_litellms_own_switches(serve: Serve) -> None:
    async with vendor(Anthropic) as up, vendor(Anthropic) as other:
        client = await serve(pointing_at(up), default=SINGLE)
        switches = {
            "api_base": other.url,
            "base_url": other.url,
            "api_key": "theirs",
            "extra_headers": {"x-api-key": "theirs"},
            "mock_response": "ha",
            "fallbacks": [{"model": "anthropic/other", "api_base": other.url}],
            "custom_llm_provider": "openai",
            "aws_sts_endpoint": other.url,
            "drop_params": True,
            "timeout": 0.001,
        }
        reply = await client.chat(**switches)
        assert reply.text == "Hello there" and other.requests == []
        assert up.headers[0]["x-api-key"] == KEY
        assert set(reply.gateway["dropped"]) == set(switches)


async def test_several_choices_come_as_one_chunk(serve: Serve) -> None:
    async with vendor(Gemini, Say(choices=2)) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=True, n=2)
        assert reply.events[-1] == "[DONE]"
        choices = [choice for event in reply.events[:-1] for choice in event["choices"]]
        assert [(c["index"], c["delta"]["content"], c["finish_reason"]) for c in choices] == [
            (0, "Hello there", "stop"),
            (1, "Hello there", "stop"),
        ]
        assert up.requests[0]["generationConfig"]["candidate_count"] == 2


async def test_headers_and_options_of_the_entry_go_along(serve: Serve) -> None:
    async with vendor(Anthropic) as up:
        extra = "headers: {x-team: lab}, options: {top_k: 5}, defaults: {temperature: 0.1}"
        client = await serve(pointing_at(up, extra=extra), default=SINGLE)
        await client.chat()
        assert up.headers[0]["x-team"] == "lab"
        assert (up.requests[0]["top_k"], up.requests[0]["temperature"]) == (5, 0.1)


@pytest.mark.parametrize("field", ["tools", "response_format", "stop"])
async def test_what_an_answer_would_be_none_without_is_refused_not_left_out(serve: Serve, field: str) -> None:
    wanted = {"tools": [TOOL], "response_format": {"type": "json_object"}, "stop": ["."]}[field]
    async with vendor(Anthropic) as up:
        entry = f"{{engine: litellm, model: petals/any, base_url: '{up.url}', api_key: k}}"
        client = await serve(f"models: {{m1: {entry}}}", default=SINGLE)
        reply = await client.chat(**{field: wanted})
        assert reply.status == 400
        assert field in reply.error["message"] and "litellm" not in reply.error["message"]
        assert up.requests == []


async def test_a_key_written_out_is_warned_of_and_odd_entries_are_refused(tmp_path: Path) -> None:
    def problems(entry: str) -> str:
        models, policies = write_config(tmp_path, f"models:\n  m1: {{engine: litellm, {entry}}}\n", default=SINGLE)
        try:
            return "\n".join(map(str, read_config(models, policies).warnings))
        except ConfigError as exc:
            return str(exc)

    assert "m1.api_key" in problems("model: anthropic/x, api_key: sk-1")
    assert problems("model: anthropic/x") == ""
    assert "m1.model" in problems("model: claude")
    assert "'stream' is not for the file to set" in problems("model: anthropic/x, options: {stream: true}")
    assert "'api_base'" in problems("model: anthropic/x, options: {api_base: 'http://x'}")
    assert "m1.base_url" in problems("model: anthropic/x, base_url: nowhere")
