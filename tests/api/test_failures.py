"""Upstreams that refuse, break off, talk nonsense or go silent, over real HTTP."""

from __future__ import annotations

import socket
import time

import pytest

from tests.conftest import Serve
from tests.upstream import CASCADE, SINGLE, pointing_at, upstream

GOOD = {"text": "a good answer"}
FAULTS = {
    "503": {"error": {"status": 503, "message": "try later"}},
    "400": {"error": {"status": 400, "message": "no"}},
    "401": {"error": {"status": 401, "message": "bad key k1"}},
    "html": {"error": {"status": 500, "body": "<html>oops</html>"}},
    "cut before the first word": {"text": "one two three", "cut_after": 1},
    "cut at once": {"text": "one two three", "cut_after": 0},
    "malformed": {"text": "one two three", "malformed_after": 0},
    "error event": {"text": "one two three", "error_after": 1},
    "empty": {"text": ""},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_before_the_first_word_every_fault_moves_outward(serve: Serve, fault: dict, stream: bool) -> None:  # type: ignore[type-arg]
    async with upstream(fault) as bad, upstream(GOOD) as good:
        client = await serve(pointing_at(bad, good), default=CASCADE)
        reply = await client.chat(stream=stream)
        assert reply.status == 200
        assert reply.text == "a good answer"
        assert reply.headers["x-gateway-model"] == "m2"
        assert reply.headers["x-gateway-path"].startswith("m1!")


MID_STREAM = {
    "cut": {"text": "one two three", "cut_after": 3},
    "malformed": {"text": "one two three", "malformed_after": 3},
    "error event": {"text": "one two three", "error_after": 3},
    "no finish": {"text": "one two three", "cut_after": 4},
}


@pytest.mark.parametrize("fault", MID_STREAM.values(), ids=MID_STREAM.keys())
async def test_after_the_first_word_an_error_is_loud_and_in_band(serve: Serve, fault: dict) -> None:  # type: ignore[type-arg]
    async with upstream(fault) as bad, upstream(GOOD) as good:
        policy = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: m1}, {model: m2}]}}]\n"
        client = await serve(pointing_at(bad, good), default=policy)
        reply = await client.chat(stream=True)
        assert reply.status == 200
        assert "error" in reply.events[-1], "an error event ends the stream"
        assert "[DONE]" not in reply.events
        assert not any(c.get("finish_reason") for e in reply.events for c in e.get("choices", ()))
        assert "good" not in reply.text, "never a second answer glued to the first"
        assert good.script.requests == []


async def test_a_finish_without_done_is_a_success(serve: Serve) -> None:
    async with upstream({"text": "one two", "omit_done": True}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=True)
        assert reply.events[-1] == "[DONE]"
        assert reply.text == "one two"


async def test_a_cut_after_the_finish_is_a_success(serve: Serve) -> None:
    # role, two words, finish, then the cut instead of usage
    async with upstream({"text": "one two", "cut_after": 4}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=True, stream_options={"include_usage": True})
        assert reply.text == "one two"
        assert reply.events[-1] == "[DONE]"
        assert reply.gateway["usage"]["estimated"] is True


async def test_upstream_errors_keep_status_code_and_retry_headers(serve: Serve) -> None:
    error = {
        "status": 429,
        "message": "slow down",
        "type": "tokens",
        "code": "rate_limit_exceeded",
        "headers": {"retry-after": "7", "x-ratelimit-remaining-requests": "0", "set-cookie": "a=b"},
    }
    async with upstream({"error": error}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        for stream in (True, False):
            reply = await client.chat(stream=stream)
            assert reply.status == 429
            assert reply.error["code"] == "rate_limit_exceeded" and reply.error["type"] == "tokens"
            assert "slow down" in reply.error["message"]
            assert reply.headers["retry-after"] == "7"
            assert reply.headers["x-ratelimit-remaining-requests"] == "0"
            assert "set-cookie" not in reply.headers


async def test_a_key_that_the_upstream_refuses_is_not_the_clients_fault(serve: Serve) -> None:
    async with upstream(GOOD, key="right") as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat()
        assert reply.status == 502
        assert "credentials" in reply.error["message"]


async def test_no_secret_or_address_of_the_upstream_gets_out(serve: Serve) -> None:
    async with upstream({"error": {"status": 400, "message": "key k1 at {url} is odd"}}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        assert "k1" not in (await client.chat()).error["message"]
    refused = await client.chat()  # nobody listens there any more
    assert refused.status == 503
    assert str(up.port) not in refused.body.decode()
    assert refused.headers["x-should-retry"] == "true"


async def test_a_full_context_is_told_in_openais_word(serve: Serve) -> None:
    error = {"status": 400, "message": "exceeds the context", "type": "exceed_context_size_error"}
    async with upstream({"error": error}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        assert (await client.chat()).error["code"] == "context_length_exceeded"


SHORT = "timeouts: {connect_s: 0.3, first_token_s: 0.3, between_tokens_s: 0.3, total_s: 1}"


async def test_a_silent_upstream_times_out_with_504(serve: Serve) -> None:
    async with upstream({"silent": True}) as up:
        client = await serve(pointing_at(up, extra=SHORT), default=SINGLE)
        for stream in (True, False):
            started = time.monotonic()
            reply = await client.chat(stream=stream)
            assert reply.status == 504
            assert time.monotonic() - started < 3


async def test_a_stream_that_stalls_between_tokens_ends_loudly(serve: Serve) -> None:
    async with upstream({"text": "one two three", "between_ms": 900}) as up:
        client = await serve(
            pointing_at(up, extra=SHORT.replace("first_token_s: 0.3", "first_token_s: 5")), default=SINGLE
        )
        reply = await client.chat(stream=True)
        assert reply.events[-1]["error"]["code"] == "upstream_timeout"


async def test_a_host_that_takes_no_connections_times_out(serve: Serve) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # its queue is full now
            models = f"models: {{m1: {{engine: openai, base_url: 'http://127.0.0.1:{port}/v1', model: x, {SHORT}}}}}"
            client = await serve(models, default=SINGLE)
            assert (await client.chat()).status == 504


async def test_the_deadline_spans_the_chain_and_the_draft_at_hand_is_the_answer(serve: Serve) -> None:
    policy = CASCADE.replace("checks: [not_empty]", "checks: [{regex: never}]")
    async with upstream({"text": "a draft"}) as up, upstream({"silent": True}) as slow:
        client = await serve(pointing_at(up, slow), default=policy)
        started = time.monotonic()
        reply = await client.chat(headers={"x-gateway-deadline-s": "0.4"})
        assert time.monotonic() - started < 2
        assert reply.text == "a draft"
        assert reply.gateway["checks_failed"] == ["regex"]
        assert reply.gateway["path"] == "m1!regex,m2!timeout"
        late = await client.chat(headers={"x-gateway-deadline-s": "0"})
        assert late.status == 504


async def test_the_cost_cap_spans_the_chain(serve: Serve) -> None:
    priced = "price: {input_usd_per_mtok: 100, output_usd_per_mtok: 100}"
    policy = CASCADE.replace("checks: [not_empty]", "checks: [{regex: never}]")
    async with upstream({"text": "a draft"}) as one, upstream(GOOD) as two:
        client = await serve(pointing_at(one, two, extra=priced), default=policy)
        # enough for the first model, not for both
        reply = await client.chat(headers={"x-gateway-max-cost-usd": "0.0165"}, max_tokens=150)
        assert reply.text == "a draft"
        assert reply.gateway["path"] == "m1!regex,m2!max_cost"
        assert two.script.requests == []
        poor = await client.chat(headers={"x-gateway-max-cost-usd": "0"}, max_tokens=150)
        assert (poor.status, poor.error["code"]) == (402, "max_cost_exceeded")


async def test_under_a_cost_cap_a_model_of_unknown_price_is_not_used(serve: Serve) -> None:
    async with upstream(GOOD) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        assert (await client.chat(headers={"x-gateway-max-cost-usd": "1"})).status == 402
        reply = await client.chat()
        assert reply.gateway["cost_usd"] is None, "unknown is null, not 0"
        assert "x-gateway-cost-usd" not in reply.headers


async def test_connections_are_used_again(serve: Serve) -> None:
    async with upstream(GOOD) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        for _ in range(5):
            await client.chat()
            await client.chat(stream=True)
        connector = client.runtime.client._session.connector  # type: ignore[attr-defined]
        assert sum(len(found) for found in connector._conns.values()) == 1


async def test_an_upstream_that_comes_back_is_used_again(serve: Serve) -> None:
    async with upstream(GOOD) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        assert (await client.chat()).status == 200
    assert (await client.chat()).status == 503
    async with upstream(GOOD, port=up.port):
        assert (await client.chat()).status == 200
