"""Bad input, bad upstreams: the right status, OpenAI's envelope, the field at fault, no secret."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.api.asgi import error_headers
from gateway.errors import UpstreamRefused
from tests.api.test_failures import SINGLE
from tests.asgi import Client, chat_body
from tests.conftest import SHARED, Serve

MODELS = "models: {m1: {engine: scripted, replies: [{text: hi}]}}"
USER = {"role": "user", "content": "hi"}


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(MODELS, default=SINGLE)


@SHARED
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b'"text"',
        b"null",
        b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "temperature": Infinity}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "temperature": 1e400}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "auto", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "auto", "seed": ' + b"9" * 10_000 + b"}",
    ],
)
async def test_what_is_not_a_json_object_is_400(shared: Serve, raw: bytes) -> None:
    client = await shared(MODELS, default=SINGLE)
    reply = await client.call("POST", "/v1/chat/completions", raw)
    assert reply.status == 400
    assert set(reply.error) == {"message", "type", "param", "code"}
    assert reply.error["type"] == "invalid_request_error"
    assert "x-request-id" in reply.headers


@SHARED
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "robot", "content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": []}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"metadata": []}, "metadata"),
        ({"logit_bias": []}, "logit_bias"),
        ({"stream_options": []}, "stream_options"),
    ],
)
async def test_wrong_fields_are_400_and_named(shared: Serve, fields: dict[str, Any], param: str) -> None:
    client = await shared(MODELS, default=SINGLE)
    reply = await client.call("POST", "/v1/chat/completions", chat_body(**fields))
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_a_model_that_is_not_there_is_called_so_in_lists_too(client: Client) -> None:
    reply = await client.call("GET", "/v1/models/org/nobody")
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
    assert (await client.call("HEAD", "/v1/models")).status == 200


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("/v1/chat/completions", b'"metadata":', b""),
        ("/v1/messages", b'"max_tokens":9,"tools":[{"name":"f","input_schema":', b"}]"),
        ("/v1/messages/count_tokens", b'"output_format":{"type":"json_schema","schema":', b"}"),
        ("/api/chat", b'"format":', b""),
    ],
)
async def test_what_can_just_be_written_can_be_written_as_a_chat(
    client: Client, path: str, before: bytes, after: bytes
) -> None:
    turn = b'{"model":"auto","messages":[{"role":"user","content":"hi"}],'
    for depth in range(235, 258):
        schema = b'{"type":"object","x":' + b"[" * depth + b"]" * depth + b"}"
        reply = await client.call("POST", path, turn + before + schema + after + b"}")
        assert reply.status == (200 if depth < 240 else reply.status if depth < 250 else 400)
        assert reply.status in (200, 400)


async def test_what_can_be_read_but_not_written_again_is_400(client: Client) -> None:
    for depth in (200, 300, 900):
        raw = b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "metadata": {"x": '
        raw += b"[" * depth + b"]" * depth + b"}}"
        reply = await client.call("POST", "/v1/chat/completions", raw)
        assert reply.status == (200 if depth == 200 else 400)


async def test_a_broken_route_of_the_framework_is_500_in_the_envelope(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("gateway.store.journal.Journal.find", broken)
    reply = await client.call("POST", "/v1/feedback", {"trace": "0" * 32, "value": True})
    assert reply.status == 500 and reply.error["message"] == "internal error"


async def test_explicit_nulls_and_unknown_fields_are_fine(client: Client) -> None:
    names = ("temperature", "stop", "tools", "response_format", "stream_options", "n", "max_tokens", "seed", "user")
    reply = await client.chat(**{name: None for name in names}, frobnicate={"x": 1})
    assert reply.status == 200


@pytest.mark.parametrize(
    ("header", "value"),
    [("x-gateway-deadline-s", "soon"), ("x-gateway-max-cost-usd", "-1"), ("x-gateway-max-cost-usd", "nan")],
)
async def test_wrong_gateway_headers_are_400(client: Client, header: str, value: str) -> None:
    reply = await client.chat(headers={header: value})
    assert (reply.status, reply.error["param"]) == (400, header)


async def test_an_unknown_policy_in_the_header_is_400(client: Client) -> None:
    reply = await client.chat(headers={"x-gateway-policy": "nobody"})
    assert (reply.status, reply.error["param"]) == (400, "x-gateway-policy")


async def test_routes_and_methods_that_do_not_exist(client: Client) -> None:
    missing = await client.call("GET", "/v1/nothing")
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    wrong = await client.call("GET", "/v1/chat/completions")
    assert (wrong.status, wrong.error["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert (await client.call("DELETE", "/v1/models")).status == 405


async def test_bodies_over_the_limit_are_413(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    client.live.body_limit_bytes = 1000
    reply = await client.chat("x" * 2000)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    declared = await client.call("POST", "/v1/chat/completions", b"{}", {"content-length": "999999999999"})
    assert declared.status == 413
    client.live.body_limit_bytes = 32 << 20
    assert (await client.chat("x" * 10_000_000)).status == 200


async def test_the_clients_request_id_is_kept_if_it_is_sane(client: Client) -> None:
    assert (await client.chat(headers={"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
    for bad in ("", "x" * 129, "a\x07b"):
        assert (await client.chat(headers={"x-request-id": bad})).headers["x-request-id"] != bad


async def test_too_many_gateways_is_a_loop(client: Client) -> None:
    assert (await client.chat(headers={"x-gateway-hops": "3"})).status == 200
    assert (await client.chat(headers={"x-gateway-hops": "8"})).error["code"] == "loop_detected"


async def test_an_exception_of_ours_is_500_without_its_text(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("gateway.backends.openai.admit", broken)
    reply = await client.chat()
    assert reply.status == 500
    assert b"secret" not in reply.body and b"Traceback" not in reply.body


@SHARED
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "trace"),
        ({"trace": "xyz", "value": True}, "trace"),
        ({"id": "chatcmpl-…", "value": True}, "id"),
        ({"trace": "0" * 32, "value": None}, "value"),
        ({"trace": "0" * 32, "value": True, "metric": 5}, "metric"),
        ({"trace": "0" * 32, "value": True, "comment": 5}, "comment"),
    ],
)
async def test_wrong_feedback_is_400(shared: Serve, body: dict[str, Any], param: str) -> None:
    client = await shared(MODELS, default=SINGLE)
    reply = await client.call("POST", "/v1/feedback", body)
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_feedback_on_nothing_is_404(client: Client) -> None:
    reply = await client.call("POST", "/v1/feedback", {"trace": "0" * 32, "value": True})
    assert reply.status == 404


async def test_a_request_cut_off_by_the_servers_end_is_told(serve: Serve) -> None:
    client = await serve("models: {m1: {engine: scripted, replies: [{silent: true}]}}", default=SINGLE)
    call = client.start_chat()
    await asyncio.sleep(0.05)
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert call.response.status == 503
    assert call.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("value", ["1\r\nset-cookie: a=b", "1\x00", "\u00e9", "\u4e2d"])
def test_a_header_that_an_upstream_wrote_cannot_end_ours(value: str) -> None:
    error = UpstreamRefused("no", status=429, headers={"retry-after": value, "x-ratelimit-limit-requests": "5"})
    assert error_headers(error) == [(b"x-ratelimit-limit-requests", b"5")]
