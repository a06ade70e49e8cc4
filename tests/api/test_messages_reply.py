"""Anthropic's Messages API, written: one message, or events that come to the same."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.messages_blocks import NOT_JSON, BlockStream, content_of
from gateway.backends import litellm
from tests.asgi import Client, Response
from tests.conftest import Serve
from tests.messages_shaped import TOOL, blocks_of, body, frames, message_of
from tests.openai_shaped import OpenAIShaped
from tests.upstream import CASCADE, SINGLE, pointing_at, upstream
from tests.vendors import Anthropic, Event, Json, Say, vendor

BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


async def ask(client: Client, *, stream: bool, **fields: Any) -> tuple[Response, Json]:
    """The reply, and the message that it is or comes to."""
    reply = await client.call("POST", "/v1/messages", body(stream=stream, **fields))
    assert reply.status == 200, reply.body
    return reply, message_of(reply) if stream else reply.json


async def answer(serve: Serve, *, stream: bool, fields: Json | None = None, **said: Any) -> Json:
    """The message that a scripted upstream's reply comes to."""
    async with upstream(said) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        return (await ask(client, stream=stream, **(fields or {})))[1]


@BOTH_WAYS
async def test_a_message(serve: Serve, stream: bool) -> None:
    async with upstream({"text": "one two three", "usage": USAGE}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply, message = await ask(client, stream=stream)
    gateway = message.pop("gateway")
    assert message == {
        "id": f"msg_{reply.headers['x-gateway-trace']}",
        "type": "message",
        "role": "assistant",
        "model": "m1",
        "content": [{"type": "text", "text": "one two three"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 20,
            "output_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }
    assert gateway["model"] == reply.headers["x-gateway-model"] == "m1"
    assert (gateway["policy"], gateway["route"], gateway["path"]) == ("default", "all", "m1")


async def test_words_are_streamed_as_they_come(serve: Serve) -> None:
    async with upstream({"text": "one two three", "between_ms": 20}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.call("POST", "/v1/messages", body(stream=True))
    words = [event["delta"]["text"] for event in frames(reply) if event["type"] == "content_block_delta"]
    assert words == ["one", " two", " three"]
    assert b"[DONE]" not in reply.body and len(reply.writes) >= 5
    assert 0 < frames(reply)[0]["message"]["usage"]["input_tokens"] < 20, "estimated, until it is known"


@BOTH_WAYS
async def test_what_a_cache_held_is_not_part_of_the_input(serve: Serve, stream: bool) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 12}, "completion_tokens_details": {"reasoning_tokens": 3}}
    message = await answer(
        serve, stream=stream, text="hi", usage={**USAGE, **details, "cache_creation_input_tokens": 2}
    )
    assert message["usage"] == {
        "input_tokens": 6,
        "cache_read_input_tokens": 12,
        "cache_creation_input_tokens": 2,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 3},
    }


@BOTH_WAYS
async def test_usage_that_nobody_told_is_estimated(serve: Serve, stream: bool) -> None:
    message = await answer(serve, stream=stream, text="one two three", usage="none")
    assert message["usage"]["input_tokens"] > 0 and message["usage"]["output_tokens"] == 4
    assert message["gateway"]["usage"]["estimated"] is True


@BOTH_WAYS
async def test_tool_calls(serve: Serve, stream: bool) -> None:
    calls = [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": ""}]
    message = await answer(serve, stream=stream, text="I look.", tool_calls=calls, fields={"tools": [TOOL]})
    assert message["stop_reason"] == "tool_use"
    assert message["content"] == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_1_0", "name": "weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "call_1_1", "name": "now", "input": {}},
    ]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"text": "hi", "finish_reason": "length"}, "max_tokens"),
        ({"text": "hi", "finish_reason": "content_filter"}, "refusal"),
        ({"text": "hi", "finish_reason": "tool_calls"}, "end_turn"),
        ({"tool_calls": [{"name": "weather"}], "finish_reason": "stop"}, "tool_use"),
        ({"tool_calls": [{"name": "weather"}], "finish_reason": "length"}, "max_tokens"),
    ],
)
async def test_why_it_ended(serve: Serve, stream: bool, said: Json, reason: str) -> None:
    assert (await answer(serve, stream=stream, **said))["stop_reason"] == reason


@BOTH_WAYS
async def test_the_stop_sequence_that_was_met(serve: Serve, stream: bool) -> None:
    class Vllm(OpenAIShaped):
        def whole(self, say: Say) -> Json:
            whole = super().whole(say)
            whole["choices"][0]["stop_reason"] = "END"
            return whole

        def events(self, say: Say) -> list[Event]:
            events = super().events(say)
            events[-2][1]["choices"][0]["stop_reason"] = "END"
            return events

    async with vendor(Vllm) as server:
        models = f"models: {{m1: {{engine: openai, base_url: '{server.url}/v1', model: up}}}}"
        client = await serve(models, default=SINGLE)
        _, message = await ask(client, stream=stream, stop_sequences=["END", "STOP"])
        assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
        _, message = await ask(client, stream=stream)
        assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)


@BOTH_WAYS
async def test_reasoning_is_thinking_unless_none_is_wanted(serve: Serve, stream: bool) -> None:
    message = await answer(serve, stream=stream, reasoning="let me see", text="hi")
    assert message["content"] == [
        {"type": "thinking", "thinking": "let me see", "signature": ""},
        {"type": "text", "text": "hi"},
    ]
    unwanted = {"thinking": {"type": "disabled"}}
    message = await answer(serve, stream=stream, reasoning="let me see", text="hi", fields=unwanted)
    assert message["content"] == [{"type": "text", "text": "hi"}]


@BOTH_WAYS
async def test_an_empty_answer_has_no_blocks(serve: Serve, stream: bool) -> None:
    message = await answer(serve, stream=stream, text="")
    assert message["content"] == [] and message["stop_reason"] == "end_turn"


@BOTH_WAYS
@pytest.mark.parametrize(
    "entry", ["litellm, model: anthropic/claude-sonnet-4-5", "openai, speaks: messages, model: up"]
)
@pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")
async def test_thinking_of_anthropics_own_comes_back_as_it_was(serve: Serve, stream: bool, entry: str) -> None:
    say = Say(words=("Hello", " there"), thinking="let me see", call=("weather", {"city": "Paris"}), cached=4)
    async with vendor(Anthropic, say) as server:
        models = f"models: {{m1: {{engine: {entry}, base_url: '{server.url}', api_key: k}}}}"
        client = await serve(models, default=SINGLE)
        _, message = await ask(client, stream=stream, tools=[TOOL])
    assert message["content"] == [
        {"type": "thinking", "thinking": "let me see", "signature": "sig"},
        {"type": "text", "text": "Hello there"},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
    ]
    assert (message["usage"]["input_tokens"], message["usage"]["cache_read_input_tokens"]) == (8, 4)


# -- the gateway's own -----------------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_a_dropped_draft_leaves_no_trace(serve: Serve, stream: bool) -> None:
    draft = {"reasoning": "secret plan", "text": "I'm sorry, I can't", "tool_calls": [{"name": "wrong"}]}
    policy = CASCADE.replace("not_empty", "{regex: good}")
    async with upstream(draft) as bad, upstream({"text": "a good answer"}) as good:
        client = await serve(pointing_at(bad, good), default=policy)
        reply, message = await ask(client, stream=stream)
    assert message["content"] == [{"type": "text", "text": "a good answer"}]
    assert (message["model"], message["stop_reason"]) == ("m2", "end_turn")
    assert reply.headers["x-gateway-path"] == message["gateway"]["path"] == "m1!regex,m2"
    assert not any(word in reply.body for word in (b"secret", b"sorry", b"wrong"))


@BOTH_WAYS
async def test_before_the_first_word_a_failure_is_a_status(serve: Serve, stream: bool) -> None:
    error = {"error": {"status": 429, "message": "slow down", "headers": {"retry-after": "7"}}}
    async with upstream(error) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.call("POST", "/v1/messages", body(stream=stream))
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")
    assert reply.json == {"type": "error", "error": {"type": "rate_limit_error", "message": "model 'm1': slow down"}}


@pytest.mark.parametrize("fault", ["cut_after", "malformed_after", "error_after"])
async def test_after_the_first_word_it_is_an_event_and_no_end(serve: Serve, fault: str) -> None:
    async with upstream({"text": "one two three", fault: 3}) as up:
        client = await serve(pointing_at(up), default=SINGLE)
        reply = await client.call("POST", "/v1/messages", body(stream=True))
    events = frames(reply)
    assert events[0]["type"] == "message_start" and events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error" and events[-1]["error"]["message"]
    assert not {"message_delta", "message_stop"} & {event["type"] for event in events}


async def test_silence_is_filled_with_pings(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.reply.KEEP_ALIVE_S", 0.05)
    models = "models: {m1: {engine: scripted, replies: [{text: hi there, first_token_ms: 200}]}}"
    client = await serve(models, default=SINGLE)
    reply = await client.call("POST", "/v1/messages", body(stream=True))
    assert frames(reply)[0] == {"type": "ping"} and message_of(reply)["content"][0]["text"] == "hi there"
    assert b": keep-alive" not in reply.body


async def test_a_client_that_leaves_ends_the_call(serve: Serve) -> None:
    async with vendor(OpenAIShaped, Say(ends="stall", after=2)) as server:
        models = f"models: {{m1: {{engine: openai, base_url: '{server.url}/v1', model: up}}}}"
        client = await serve(models, default=SINGLE)
        call = client.start("POST", "/v1/messages", body(stream=True))
        await asyncio.wait_for(call.wrote.wait(), 5)
        call.leave()
        await call.done()
        await asyncio.wait_for(server.gone.wait(), 3)


async def test_a_message_can_be_rated(serve: Serve) -> None:
    client = await serve("models: {m1: {engine: scripted, replies: [{text: hi}]}}", default=SINGLE)
    reply, message = await ask(client, stream=False)
    rated = await client.call("POST", "/v1/feedback", {"id": message["id"], "value": True})
    assert rated.status == 201 and rated.json["trace"] == reply.headers["x-gateway-trace"]


# -- blocks ----------------------------------------------------------------------------------------------------------


def call(index: int, arguments: str = "", name: str | None = None) -> Json:
    head: Json = {"id": f"call_{index}", "type": "function"} if name else {}
    return {"tool_calls": [{"index": index, **head, "function": {"name": name, "arguments": arguments}}]}


def streamed(*deltas: Json) -> list[Json]:
    """The blocks that these deltas come to."""
    blocks, events = BlockStream(), []
    for delta in deltas:
        blocks.take(delta)
        events += blocks.drain()
    return blocks_of(events + blocks.drain(to_the_end=True))


def test_calls_that_interleave_come_one_after_the_other() -> None:
    blocks = streamed(
        call(0, name="a"), call(1, name="b"), call(0, '{"x"'), call(1, '{"y": '), call(0, ": 1}"), call(1, "2}")
    )
    assert [(block["name"], block["input"]) for block in blocks] == [("a", {"x": 1}), ("b", {"y": 2})]


def test_a_whole_call_does_not_hold_up_the_next() -> None:
    blocks = BlockStream()
    blocks.take(call(0, '{"x": 1}', "a"))
    assert [event["type"] for event in blocks.drain()] == ["content_block_start", "content_block_delta"]
    blocks.take(call(1, '{"y"', "b"))
    events = blocks.drain()
    assert [event["type"] for event in events] == [
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
    ]
    blocks.take(call(0, " "))
    assert blocks.drain() == [], "nothing is added to what is over"


def test_a_name_that_comes_late_is_waited_for() -> None:
    (block,) = streamed(call(0, '{"x"'), call(0, ": 1}", "a"))
    assert (block["name"], block["id"], block["input"]) == ("a", "call_0", {"x": 1})


def test_words_after_a_call_are_a_block_of_their_own() -> None:
    blocks = streamed({"content": "I "}, {"content": "look."}, call(0, "{}", "a"), {"content": "Done."})
    assert [block.get("text") or block["name"] for block in blocks] == ["I look.", "a", "Done."]


SIGNED = {"type": "thinking", "thinking": "let me see", "signature": "sig"}


@pytest.mark.parametrize(
    "deltas",
    [
        [{"thinking_blocks": [SIGNED]}],
        [{"reasoning_content": "let me see", "thinking_blocks": [SIGNED]}],
        [{"reasoning_content": "let me "}, {"reasoning_content": "see"}, {"thinking_blocks": [SIGNED]}],
        [{"reasoning_content": "let me "}, {"thinking_blocks": [SIGNED]}],
        [
            {"reasoning_content": word, "thinking_blocks": [{"type": "thinking", "thinking": word}]}
            for word in ("let me ", "see")
        ]
        + [{"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "sig"}]}],
    ],
    ids=["whole block", "both at once", "words, then the block", "half the words, then the block", "litellm's"],
)
def test_thinking_is_said_once_whichever_way_it_comes(deltas: list[Json]) -> None:
    assert streamed(*deltas, {"content": "hi"}) == [SIGNED, {"type": "text", "text": "hi"}]


def test_several_thoughts_stay_apart() -> None:
    second = {**SIGNED, "thinking": "and then", "signature": "sig2"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    whole = {"reasoning_content": "let me seeand then", "thinking_blocks": [SIGNED, hidden, second], "content": "hi"}
    assert content_of(whole, BlockStream())[:3] == [SIGNED, hidden, second]
    assert streamed(whole)[:3] == [SIGNED, hidden, second]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        (" ", {}),
        ('{"x": 1}', {"x": 1}),
        ('"{\\"x\\": 1}"', {"x": 1}),
        ('{"x": ', {NOT_JSON: '{"x": '}),
        ("[1]", {NOT_JSON: "[1]"}),
        ("rm -rf", {NOT_JSON: "rm -rf"}),
    ],
)
def test_arguments_of_a_whole_answer(arguments: str, given: Json) -> None:
    (block,) = content_of({"content": None, **call(0, arguments, "a")}, BlockStream())
    assert block["input"] == given


pieces = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.text(min_size=1, max_size=3)),
        st.tuples(st.just("thought"), st.text(min_size=1, max_size=3)),
        st.tuples(st.integers(0, 3), st.just("")),
    ),
    max_size=30,
)


@given(pieces)
def test_any_order_of_deltas_comes_to_blocks_in_order(said: list[tuple[Any, str]]) -> None:
    arguments = {index: orjson.dumps({"n": index, "text": "abc"}).decode() for index in range(4)}
    sent = dict.fromkeys(range(4), 0)
    deltas: list[Json] = []
    for kind, piece in said:
        if kind == "text":
            deltas.append({"content": piece})
        elif kind == "thought":
            deltas.append({"reasoning_content": piece})
        else:
            first = sent[kind] == 0
            deltas.append(call(kind, arguments[kind][sent[kind] : sent[kind] + 5], f"tool{kind}" if first else None))
            sent[kind] += 5
    for index, size in sent.items():
        if size:
            deltas.append(call(index, arguments[index][size:]))
    blocks = streamed(*deltas)
    used = {block["name"]: block["input"] for block in blocks if block["type"] == "tool_use"}
    assert used == {f"tool{n}": {"n": n, "text": "abc"} for n, size in sent.items() if size}
    for kind, field in (("text", "text"), ("thinking", "thinking")):
        name = "thought" if kind == "thinking" else kind
        whole = "".join(piece for given_kind, piece in said if given_kind == name)
        assert "".join(block[field] for block in blocks if block["type"] == kind) == whole
