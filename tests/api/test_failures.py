"""Upstreams that refuse, break off, talk nonsense or go silent, over real HTTP."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from aiohttp import web

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
        (pool,) = client.runtime.client._pools.values()  # type: ignore[attr-defined]
        assert len(pool._open) == 1


async def test_an_upstream_that_comes_back_is_used_again(serve: Serve) -> None:
    async with upstream(GOOD) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        assert (await client.chat()).status == 200
    assert (await client.chat()).status == 503
    async with upstream(GOOD, port=up.port):
        assert (await client.chat()).status == 200


async def raw_upstream(respond):  # type: ignore[no-untyped-def]
    """An upstream of which a test writes every byte; (runner, url)."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


def saying(*events: str, status: int = 200, kind: str = "text/event-stream"):  # type: ignore[no-untyped-def]
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"content-type": kind})
        await response.prepare(request)
        for event in events:
            await response.write(event.encode() if kind != "text/event-stream" else f"data: {event}\n\n".encode())
        return response

    return respond


def says(text: str, index: object = 0, finish: str = "null") -> str:
    return f'{{"choices": [{{"index": {index}, "delta": {{"content": "{text}"}}, "finish_reason": {finish}}}]}}'


ODD = {
    "thinking parts": '{"choices": [{"index": 0, "delta": {"content": 5}}]}',
    "odd index": says("x", "[1]"),
    "text index": says("x", '"0"'),
    "odd logprobs": '{"choices": [{"index": 0, "delta": {}, "logprobs": {"content": 3}}]}',
    "odd finish": says("x", 0, "[1]"),
    "odd calls": '{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": "f"}]}}]}',
    "no object": "[1]",
    "choices are none": '{"choices": 5}',
}


@pytest.mark.parametrize("event", ODD.values(), ids=ODD.keys())
async def test_shapes_that_nobody_expects_move_outward(serve: Serve, event: str) -> None:
    runner, url = await raw_upstream(saying(event, "[DONE]"))
    async with upstream(GOOD) as good:
        models = pointing_at(good, good).replace(good.url, url, 1)
        client = await serve(models, default=CASCADE)
        reply = await client.chat(stream=True)
        assert reply.status == 200
        assert reply.text == "a good answer" or reply.headers["x-gateway-model"] == "m1"
        assert "error" not in reply.events[-2]
    await runner.cleanup()


async def streamed(serve: Serve, *events: str, **fields: object):  # type: ignore[no-untyped-def]
    runner, url = await raw_upstream(saying(*events))
    client = await serve(f"models: {{m1: {{engine: openai, base_url: '{url}', model: x}}}}", default=SINGLE)
    reply = await client.chat(stream=True, **fields)
    await runner.cleanup()
    return reply


async def test_done_without_a_reason_is_given_one(serve: Serve) -> None:
    reply = await streamed(serve, says("hi"), "[DONE]")
    assert reply.events[-1] == "[DONE]"
    assert reply.events[-2]["choices"][0]["finish_reason"] == "stop"
    assert reply.gateway["model"] == "m1"


async def test_a_choice_ends_once_whatever_the_upstream_sends_after(serve: Serve) -> None:
    end = says("", 0, '"stop"')
    reply = await streamed(serve, says("hi"), end, says(""), end, "[DONE]")
    ends = [c for e in reply.events[:-1] for c in e["choices"] if c["finish_reason"]]
    assert len(ends) == 1
    assert "gateway" in reply.events[-2]


async def test_a_finish_twice_is_not_two_choices(serve: Serve) -> None:
    end = says("", 0, '"stop"')
    reply = await streamed(serve, says("one"), says("two", 1), end, end, n=2)
    assert "error" in reply.events[-1], "choice 1 never ended"


async def test_a_stream_that_just_stops_is_an_error(serve: Serve) -> None:
    reply = await streamed(serve, says("hi"))
    assert "error" in reply.events[-1]


@pytest.mark.parametrize(
    ("status", "kind", "body", "seen"),
    [
        (400, "application/json", '{"detail": "no such thing"}', 400),
        (429, "text/plain", "slow down", 429),
        (404, "text/html", "<html>not here</html>", 502),
        (500, "text/plain", "oops", 502),
        (599, "application/json", '{"error": {"message": "x"}}', 599),
        (999, "application/json", '{"error": {"message": "x"}}', 502),
        (302, "text/html", "", 502),
    ],
)
async def test_odd_statuses(serve: Serve, status: int, kind: str, body: str, seen: int) -> None:
    runner, url = await raw_upstream(saying(body, status=status, kind=kind))
    client = await serve(f"models: {{m1: {{engine: openai, base_url: '{url}', model: x}}}}", default=SINGLE)
    reply = await client.chat()
    assert reply.status == seen and reply.error["message"]
    assert ("x-should-retry" in reply.headers) == (status in (404, 500, 302)), "only of errors that are our own word"
    await runner.cleanup()


async def test_a_call_is_put_together_from_pieces_that_repeat_its_name_as_null(serve: Serve) -> None:
    def call(piece: str) -> str:
        return f'{{"choices": [{{"index": 0, "delta": {{"tool_calls": [{piece}]}}}}]}}'

    events = (
        call('{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}'),
        call('{"index": 0, "id": "", "type": null, "function": {"name": null, "arguments": "{}"}}'),
        says("", 0, '"tool_calls"'),
        "[DONE]",
    )
    runner, url = await raw_upstream(saying(*events))
    models = f"models: {{m1: {{engine: openai, base_url: '{url}', model: x}}}}"
    policy = SINGLE.replace("model: m1", "model: m1, checks: [tool_arguments], on_exhausted: error")
    client = await serve(models, default=policy)
    reply = await client.chat(stream=True, tools=[{"type": "function", "function": {"name": "f"}}])
    assert reply.status == 200 and reply.events[-1] == "[DONE]"
    await runner.cleanup()


async def test_several_choices_cost_several_answers(serve: Serve) -> None:
    priced = "price: {output_usd_per_mtok: 100}"
    async with upstream(GOOD) as up:
        client = await serve(pointing_at(up, extra=priced), default=SINGLE)
        cap = {"x-gateway-max-cost-usd": "0.002"}
        assert (await client.chat(headers=cap, max_tokens=10)).status == 200
        assert (await client.chat(headers=cap, max_tokens=10, n=100)).status == 402


async def test_a_timed_out_call_is_counted(serve: Serve) -> None:
    async with upstream({"silent": True}) as up:
        client = await serve(pointing_at(up, extra=SHORT + ", price: {input_usd_per_mtok: 100}"), default=SINGLE)
        reply = await client.chat()
        assert reply.status == 504
        assert float(reply.headers["x-gateway-cost-usd"]) > 0


async def test_silence_before_the_headers_counts_towards_the_first_token(serve: Serve) -> None:
    short = "timeouts: {first_token_s: 0.3, total_s: 20}"
    async with upstream({"text": "late", "first_token_ms": 3000}) as up:
        client = await serve(pointing_at(up, extra=short), default=SINGLE)
        started = time.monotonic()
        assert (await client.chat(stream=True)).status == 504
        assert time.monotonic() - started < 2


async def test_the_clients_length_limit_replaces_the_default_one(serve: Serve) -> None:
    async with upstream(GOOD) as up:
        client = await serve(pointing_at(up, extra="defaults: {max_completion_tokens: 500}"), default=SINGLE)
        await client.chat(max_tokens=10)
        assert up.script.requests[-1]["max_tokens"] == 10
        assert "max_completion_tokens" not in up.script.requests[-1]
        await client.chat()
        assert up.script.requests[-1]["max_completion_tokens"] == 500


async def test_a_request_is_not_sent_twice_over_a_fresh_connection(serve: Serve) -> None:
    seen = 0

    async def drop(request: web.Request) -> web.StreamResponse:
        nonlocal seen
        seen += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    runner, url = await raw_upstream(drop)
    client = await serve(f"models: {{m1: {{engine: openai, base_url: '{url}', model: x, retries: 0}}}}", default=SINGLE)
    assert (await client.chat()).status == 502
    assert seen == 1
    await runner.cleanup()


async def test_nothing_a_user_wrote_is_in_the_journal(serve: Serve, tmp_path: Path) -> None:
    policy = """
    policy: default
    routes:
      - name: all
        when: {any: [{metadata: {note: x}}, {header: {x-note: y}}, {turns: 1}]}
        answer: {model: m1, checks: [json_schema]}
    """
    schema = {"type": "object", "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    async with upstream({"text": '{"private-diary": 1}'}) as up:
        client = await serve(pointing_at(up), default=policy)
        reply = await client.chat(
            "private-question",
            metadata={"note": "private-note"},
            headers={"x-note": "private-header"},
            response_format=wanted,
            user="private-user",
        )
        assert reply.gateway["checks_failed"] == ["json_schema"]
        assert client.runtime.journal is not None
        row = await client.runtime.journal.find(reply.headers["x-gateway-trace"])
        assert row is not None
        assert "private" not in str(row)
