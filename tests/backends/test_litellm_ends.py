"""How calls through litellm end: refused, cut, late, or left by the client."""

from __future__ import annotations

import asyncio
import importlib
import socket
import time

import pytest

from gateway.backends import litellm
from gateway.backends.litellm_replies import refusal_of
from gateway.errors import BadBackendReply
from tests.api.test_disconnect import journal_rows
from tests.backends.test_litellm import (
    BOTH_WAYS,
    EACH_VENDOR,
    FIRST_WORD,
    KEY,
    PRICED,
    connections_end_with_their_loop,
    pointing_at,
)
from tests.conftest import Serve
from tests.upstream import CASCADE, SINGLE
from tests.vendors import Anthropic, Gemini, Say, Vendor, vendor

__all__ = ["connections_end_with_their_loop"]
pytestmark = pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")
SHORT = "timeouts: {connect_s: 0.5, first_token_s: 0.4, between_tokens_s: 0.4, total_s: 1}"
REFUSALS = [
    (400, "invalid_request_error", "bad thing", 400, None),
    (400, "invalid_request_error", "prompt is too long: 300 tokens > 200 maximum", 400, "context_length_exceeded"),
    (404, "not_found_error", "model: x", 404, None),
    (413, "request_too_large", "too much", 413, None),
    (422, "invalid_request_error", "odd", 422, None),
    (500, "api_error", "oops", 500, None),
    (503, "unavailable", "later", 503, None),
    (529, "overloaded_error", "Overloaded", 529, None),
]


@BOTH_WAYS
@pytest.mark.parametrize(("status", "type_", "message", "seen", "code"), REFUSALS)
@EACH_VENDOR
async def test_a_vendors_error_keeps_its_status_and_words(
    serve: Serve, kind: type[Vendor], status: int, type_: str, message: str, seen: int, code: str | None, stream: bool
) -> None:
    async with vendor(kind, Say(error=(status, type_, message, {}))) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=stream)
        assert reply.status == seen
        assert reply.error["message"] == f"model 'm1': {message}"
        if kind is Anthropic:  # Gemini's own words for a full context are others
            assert (reply.error["type"], reply.error["code"]) == (type_, code)
        assert len(up.requests) == 1, "nothing is asked twice"


@BOTH_WAYS
@EACH_VENDOR
async def test_a_rate_limit_says_when_to_come_back(serve: Serve, kind: type[Vendor], stream: bool) -> None:
    async with vendor(kind, Say(error=(429, "rate_limit_error", "slow down", {"retry-after": "7"}))) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=stream)
        assert (reply.status, reply.headers["retry-after"]) == (429, "7")
        assert reply.error["message"] == "model 'm1': slow down"
        assert len(up.requests) == 1


@BOTH_WAYS
@pytest.mark.parametrize("status", [401, 403])
@EACH_VENDOR
async def test_refused_credentials_are_not_the_clients(
    serve: Serve, kind: type[Vendor], status: int, stream: bool
) -> None:
    async with vendor(kind, Say(error=(status, "authentication_error", f"bad key {KEY}", {}))) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=stream)
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")
        assert "refused the gateway's credentials" in reply.error["message"]


@EACH_VENDOR
async def test_no_secret_and_no_address_gets_out(
    serve: Serve, kind: type[Vendor], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with vendor(kind) as up:
        message = f"key {KEY} at {up.url} is odd: " + "x" * 5000
        up.replies = [Say(error=(400, "invalid_request_error", message, {})), Say(), Say(ends="cut", after=0)]
        client = await serve(pointing_at(up), default=SINGLE)
        said = (await client.chat("my diary")).error["message"]
        assert KEY not in said and up.url not in said and "odd" in said and len(said) < 2100
        await client.chat("my diary")
        await client.chat("my diary")
    refused = await client.chat("my diary")
    assert (refused.status, refused.error["code"]) == (503, "upstream_unavailable")
    assert refused.error["message"] == "model 'm1' cannot be reached"
    written = "".join(capfd.readouterr()) + caplog.text
    assert not any(word in written for word in (KEY, "diary", "Hello there"))


@BOTH_WAYS
async def test_a_model_that_fails_moves_outward(serve: Serve, stream: bool) -> None:
    async with vendor(Anthropic, Say(error=(529, "overloaded_error", "Overloaded", {}))) as bad, vendor(Gemini) as good:
        client = await serve(pointing_at(bad, good), default=CASCADE)
        reply = await client.chat(stream=stream)
        assert reply.text == "Hello there"
        assert reply.headers["x-gateway-path"] == "m1!http_529,m2"


@pytest.mark.parametrize("ends", ["cut", "short", "error"])
@EACH_VENDOR
async def test_a_stream_that_does_not_end_well_ends_loudly(serve: Serve, kind: type[Vendor], ends: str) -> None:
    async with vendor(kind, Say(ends=ends, after=FIRST_WORD[kind.name])) as up:
        client = await serve(pointing_at(up, extra=PRICED), default=SINGLE)
        reply = await client.chat(stream=True)
        assert reply.status == 200 and "Hello" in reply.body.decode()
        assert "error" in reply.events[-1] and "[DONE]" not in reply.events
        assert not any(c.get("finish_reason") for e in reply.events for c in e.get("choices", ()))
        if ends == "error":
            assert "Overloaded" in reply.events[-1]["error"]["message"]
        (row,) = await journal_rows(client)
        assert row.cost_usd > 0, "what was said until then is counted"


@pytest.mark.parametrize("ends", ["cut", "short", "error"])
@EACH_VENDOR
async def test_before_the_first_word_it_moves_outward(serve: Serve, kind: type[Vendor], ends: str) -> None:
    async with vendor(kind, Say(ends=ends, after=0)) as bad, vendor(Gemini) as good:
        client = await serve(pointing_at(bad, good), default=CASCADE)
        reply = await client.chat(stream=True)
        assert reply.status == 200 and reply.text == "Hello there"
        assert reply.headers["x-gateway-path"].startswith("m1!")
        assert len(bad.requests) == 1


@EACH_VENDOR
async def test_a_whole_answer_that_is_cut_is_an_error(serve: Serve, kind: type[Vendor]) -> None:
    async with vendor(kind, Say(ends="cut")) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat()
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")
        assert len(up.requests) == 1


@pytest.fixture
async def imported() -> None:
    """litellm is there, so that a short deadline is not spent on it."""
    await litellm.load()


@EACH_VENDOR
@BOTH_WAYS
async def test_silence_ends_in_504(serve: Serve, imported: None, kind: type[Vendor], stream: bool) -> None:
    async with vendor(kind, Say(ends="stall")) as up:
        client = await serve(pointing_at(up, extra=f"{SHORT}, {PRICED}"), default=SINGLE)
        started = time.monotonic()
        reply = await client.chat(stream=stream)
        assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
        assert time.monotonic() - started < 3
        assert float(reply.headers["x-gateway-cost-usd"]) > 0, "nobody knows how far it got"
        await asyncio.wait_for(up.gone.wait(), 3)


@EACH_VENDOR
async def test_a_stream_that_stalls_ends_loudly(serve: Serve, imported: None, kind: type[Vendor]) -> None:
    async with vendor(kind, Say(ends="stall", after=FIRST_WORD[kind.name])) as up:
        client = await serve(pointing_at(up, extra=SHORT), default=SINGLE)
        reply = await client.chat(stream=True)
        assert reply.events[-1]["error"]["code"] == "upstream_timeout"
        await asyncio.wait_for(up.gone.wait(), 3)


async def test_the_requests_deadline_holds(serve: Serve, imported: None) -> None:
    async with vendor(Anthropic, Say(ends="stall")) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        started = time.monotonic()
        assert (await client.chat(headers={"x-gateway-deadline-s": "0.3"})).status == 504
        assert time.monotonic() - started < 2


async def test_a_host_that_takes_no_connections_is_not_waited_for(serve: Serve, imported: None) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # its queue is full now
            at = f"model: anthropic/x, base_url: 'http://127.0.0.1:{port}', api_key: k"
            client = await serve(f"models: {{m1: {{engine: litellm, {at}, {SHORT}}}}}", default=SINGLE)
            assert (await client.chat()).status == 504


@pytest.mark.parametrize("after", [0, 1])
@EACH_VENDOR
@BOTH_WAYS
async def test_a_client_that_leaves_ends_the_call(
    serve: Serve, imported: None, kind: type[Vendor], stream: bool, after: int
) -> None:
    """Also while the vendor is silent, and between two words of it."""
    async with vendor(kind, Say(ends="stall", after=after * FIRST_WORD[kind.name])) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        took_s = []
        for _ in range(3):  # the best of three: the machine may be busy with something else
            up.asked.clear()
            up.gone.clear()
            call = client.start_chat(stream=stream)
            await asyncio.wait_for(up.asked.wait(), 10)
            if stream and after:
                await asyncio.wait_for(call.wrote.wait(), 10)
            left_at = time.monotonic()
            call.leave()
            await asyncio.wait_for(up.gone.wait(), 5)
            took_s.append(time.monotonic() - left_at)
            await call.done()
        assert min(took_s) < 0.3
        assert len(up.requests) == 3
        for row in await journal_rows(client):
            assert (row.status, row.error) == (499, "client_closed")
            assert row.input_tokens > 0, "counted, if only estimated"


@EACH_VENDOR
async def test_a_client_that_stops_reading_and_leaves_ends_the_call(
    serve: Serve, imported: None, kind: type[Vendor]
) -> None:
    """The leaf waits to hand on a word then, not for the next one."""
    async with vendor(kind, Say(ends="stall", words=("word ",) * 40, after=30)) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        call = client.start_chat(stream=True)
        call.pause()
        await asyncio.wait_for(up.asked.wait(), 10)
        await asyncio.sleep(0.1)  # until the leaf has read a word: nothing outside it tells
        call.leave()
        await asyncio.wait_for(up.gone.wait(), 3)
        call.read_on()
        await call.done()


async def test_a_check_that_fails_early_ends_the_call(serve: Serve, imported: None) -> None:
    say = Say(words=("I'm sorry, but I can't help with that. ",) * 40, ends="stall", after=40)
    async with vendor(Anthropic, say) as refuser, vendor(Gemini) as good:
        policy = CASCADE.replace("checks: [not_empty]", "checks: [not_refusal], hold: 30")
        client = await serve(pointing_at(refuser, good), default=policy)
        reply = await client.chat(stream=True)
        assert reply.headers["x-gateway-path"] == "m1!not_refusal,m2"
        await asyncio.wait_for(refuser.gone.wait(), 3)


async def test_a_reply_that_litellm_cannot_read_is_a_bad_reply_and_counted(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with vendor(Anthropic, Say(usage=None)) as up:  # litellm insists on usage
        client = await serve(pointing_at(up, extra=PRICED), default=SINGLE)
        reply = await client.chat("my diary")
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")
        assert float(reply.headers["x-gateway-cost-usd"]) > 0
        assert "KeyError" in caplog.text and "diary" not in caplog.text and "Hello" not in caplog.text


@EACH_VENDOR
async def test_usage_that_the_vendor_did_not_send_is_marked_as_estimated(serve: Serve, kind: type[Vendor]) -> None:
    async with vendor(kind, Say(usage=None)) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=True, stream_options={"include_usage": True})
        assert reply.events[-1] == "[DONE]" and reply.text == "Hello there"
        assert reply.gateway["usage"]["estimated"] is True, "litellm counts by itself, and does not say so"


async def test_an_error_that_nobody_thought_of_is_a_bad_reply() -> None:
    class Novel(Exception):
        pass

    with pytest.raises(BadBackendReply, match="^model 'm': litellm cannot translate"):
        refusal_of(Novel("private"), "m", ())


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("litellm.BadRequestError: AnthropicException - no such tool", "no such tool"),
        ("litellm.UnsupportedParamsError: x is odd. To drop these, set `litellm.drop_params=True`", "x is odd"),
        ("litellm.InternalServerError: GeminiException InternalServerError - oops. Handle with `litellm.X`.", "oops"),
        ("litellm.BadRequestError: no\nTraceback (most recent call last):\n  File x", "no"),
        ("litellm.BadRequestError: key sk-1234 is odd", "key [hidden] is odd"),
    ],
)
async def test_messages_are_litellms_without_its_noise(said: str, shown: str) -> None:
    class Raised(Exception):
        status_code = 400
        message = said

    Raised.__module__ = "litellm.exceptions"
    status, _, body = refusal_of(Raised(), "m", ("sk-1234",))
    assert status == 400
    assert f'"message":"{shown}"' in body.decode()


@EACH_VENDOR
@BOTH_WAYS
async def test_a_request_is_not_sent_twice(serve: Serve, kind: type[Vendor], stream: bool) -> None:
    """Whoever hangs up without a word may have worked on it, and asking again would pay twice."""
    async with vendor(kind, Say(ends="hang up")) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.chat(stream=stream)
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")
        assert len(up.requests) == 1


async def test_what_litellm_does_on_the_side_is_done_before_its_loop_ends(imported: None) -> None:
    worker = importlib.import_module(litellm.WORKER_MODULE).GLOBAL_LOGGING_WORKER
    done = asyncio.Event()

    async def note() -> None:
        done.set()

    worker.ensure_initialized_and_enqueue(async_coroutine=note())
    await litellm.close()
    assert done.is_set()
