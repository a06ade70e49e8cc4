"""Ollama's chats, line by line: what the client reads."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
import pytest

from tests.asgi import Client, Response
from tests.conftest import Serve
from tests.upstream import SINGLE, pointing_at, upstream

Json = dict[str, Any]
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
COUNTS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def lines(reply: Response) -> list[Json]:
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.body.endswith(b"\n")
    return [orjson.loads(line) for line in reply.body.decode().splitlines()]


async def ask(client: Client, path: str = "/api/chat", **fields: Any) -> Response:
    body = {"model": "auto", **({"messages": HI} if path == "/api/chat" else {"prompt": "hi"}), **fields}
    return await client.call("POST", path, body)


def scripted(*replies: Json) -> str:
    return "models: {m1: {engine: scripted, replies: " + orjson.dumps(list(replies)).decode() + "}}\n"


# -- replies


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_stream_is_lines_and_the_last_has_counts(serve: Serve, path: str) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    client = await serve(scripted({"text": "one two three", "usage": usage, "first_token_ms": 5}), default=SINGLE)
    reply = await ask(client, path)
    got = lines(reply)
    said = [line["message"]["content"] if path == "/api/chat" else line["response"] for line in got]
    assert said == ["one", " two", " three", ""]
    assert all(list(line)[:2] == ["model", "created_at"] for line in got)
    assert [line["done"] for line in got] == [False, False, False, True]
    assert {line["model"] for line in got} == {"auto"}, "as the client called it"
    assert all(line["created_at"].endswith("Z") and datetime.fromisoformat(line["created_at"]) for line in got)
    last = got[-1]
    assert last["done_reason"] == "stop"
    assert (last["prompt_eval_count"], last["eval_count"]) == (11, 3)
    assert all(isinstance(last[name], int) for name in COUNTS)
    assert last["total_duration"] >= last["prompt_eval_duration"] + last["eval_duration"]
    assert last["prompt_eval_duration"] >= 5_000_000
    assert last["gateway"]["model"] == "m1" and last["gateway"]["path"] == "m1"
    assert reply.headers["x-gateway-model"] == "m1"
    assert len(reply.writes) >= 4, "each line goes out when it is there"


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_whole_reply_is_one_object(serve: Serve, path: str) -> None:
    client = await serve(scripted({"text": "one two", "reasoning": "well", "finish_reason": "length"}), default=SINGLE)
    reply = await ask(client, path, stream=False)
    assert reply.headers["content-type"] == "application/json"
    body = reply.json
    said = {"role": "assistant", "content": "one two", "thinking": "well"}
    if path == "/api/chat":
        assert body["message"] == said and "response" not in body
    else:
        assert (body["response"], body["thinking"]) == ("one two", "well") and "message" not in body
    assert body["done"] is True and body["done_reason"] == "length"
    assert body["eval_duration"] > 0 and body["gateway"]["model"] == "m1"


async def test_thoughts_come_apart_and_not_at_all_where_they_are_not_wanted(serve: Serve) -> None:
    client = await serve(scripted({"text": "yes", "reasoning": "let me see"}), default=SINGLE)
    got = lines(await ask(client))
    assert [line["message"].get("thinking") for line in got] == ["let", " me", " see", None, None]
    assert [line["message"]["content"] for line in got] == ["", "", "", "yes", ""]
    got = lines(await ask(client, think=False))
    assert [line["message"] for line in got][0] == {"role": "assistant", "content": "yes"}
    assert "thinking" not in (await ask(client, think=False, stream=False)).json["message"]


async def test_calls_come_whole_before_the_last_line_with_objects_as_arguments(serve: Serve) -> None:
    calls: list[Json] = [
        {"name": "look_up", "arguments": {"city": "Paris", "days": [1, 2, 3]}},
        {"name": "now", "arguments": ""},
    ]
    client = await serve(scripted({"text": "wait", "tool_calls": calls}), default=SINGLE)
    got = lines(await ask(client, tools=[TOOL]))
    assert [bool(line["message"].get("tool_calls")) for line in got] == [False, True, False]
    wanted = [
        {"id": "call_1_0", "function": {"index": 0, "name": "look_up", "arguments": calls[0]["arguments"]}},
        {"id": "call_1_1", "function": {"index": 1, "name": "now", "arguments": {}}},
    ]
    assert got[1]["message"] == {"role": "assistant", "content": "", "tool_calls": wanted}
    assert got[1]["done"] is False
    assert got[2]["done_reason"] == "stop"
    whole = (await ask(client, tools=[TOOL], stream=False)).json
    for call, number in zip(wanted, (0, 1), strict=True):
        call["id"] = f"call_2_{number}"  # of the second request
    assert whole["message"] == {"role": "assistant", "content": "wait", "tool_calls": wanted}


async def test_arguments_that_are_no_object_are_an_error(serve: Serve) -> None:
    calls = [{"name": "look_up", "arguments": '{"city": '}]
    client = await serve(scripted({"text": "so", "tool_calls": calls}), default=SINGLE)
    got = lines(await ask(client, tools=[TOOL]))
    assert "look_up" in got[-1]["error"] and not any(line.get("done") for line in got)
    whole = await ask(client, tools=[TOOL], stream=False)
    assert whole.status == 502 and list(whole.json) == ["error"]


async def test_logprobs_are_shown_where_asked_for(serve: Serve) -> None:
    client = await serve(scripted({"text": "a b", "logprobs": -0.5}), default=SINGLE)
    got = lines(await ask(client, logprobs=True, top_logprobs=2))
    assert [line.get("logprobs") for line in got] == [
        [{"token": "a", "logprob": -0.5, "top_logprobs": []}],
        [{"token": " b", "logprob": -0.5, "top_logprobs": []}],
        None,
    ]
    assert len((await ask(client, logprobs=True, stream=False)).json["logprobs"]) == 2
    assert "logprobs" not in (await ask(client, stream=False)).json


async def test_where_the_model_does_not_count_an_estimate_stands_in(serve: Serve) -> None:
    client = await serve(scripted({"text": "one two three", "usage": "none"}), default=SINGLE)
    last = lines(await ask(client))[-1]
    assert last["eval_count"] > 0 and last["prompt_eval_count"] > 0
    assert last["gateway"]["usage"]["estimated"] is True


async def test_no_word_of_a_rejected_draft_goes_out(serve: Serve) -> None:
    models = """
    models:
      m1: {engine: scripted, replies: [{text: the draft, reasoning: hm, tool_calls: [{name: look_up}]}]}
      m2: {engine: scripted, replies: [{text: the answer}]}
    """
    policy = """
    policy: default
    routes: [{name: all, answer: {cascade: [{model: m1, checks: [{one_of: [nothing]}]}, {model: m2}]}}]
    """
    client = await serve(models, default=policy)
    for stream in (True, False):
        reply = await ask(client, stream=stream, tools=[TOOL])
        assert b"draft" not in reply.body and b"hm" not in reply.body and b"look_up" not in reply.body
        last = lines(reply)[-1] if stream else reply.json
        assert last["gateway"]["path"] == "m1!one_of,m2"
        assert reply.headers["x-gateway-model"] == "m2"


async def test_an_error_in_a_stream_is_a_line_and_no_end(serve: Serve) -> None:
    client = await serve(scripted({"text": "one two three", "error_after": 3}), default=SINGLE)
    got = lines(await ask(client))
    assert got[0]["message"]["content"] == "one"
    assert list(got[-1]) == ["error"] and isinstance(got[-1]["error"], str)
    assert not any(line.get("done") for line in got)


async def test_an_error_before_it_is_a_status(serve: Serve) -> None:
    client = await serve(scripted({"error": {"status": 429, "message": "slow down"}}), default=SINGLE)
    for stream in (True, False):
        reply = await ask(client, stream=stream)
        assert reply.status == 429
        assert reply.json == {"error": "model 'm1': slow down"}


async def test_silence_is_filled_with_blanks_that_every_reader_passes_over(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.api.reply.KEEP_ALIVE_S", 0.05)
    client = await serve(scripted({"text": "hi", "first_token_ms": 200}), default=SINGLE)
    reply = await ask(client)
    assert reply.writes[0] == b" "
    assert [line["message"]["content"] for line in lines(reply)] == ["hi", ""]


async def test_a_client_that_leaves_ends_the_work(serve: Serve) -> None:
    client = await serve(scripted({"text": "one two", "first_token_ms": 60_000}), default=SINGLE)
    call = client.start("POST", "/api/chat", {"model": "auto", "messages": HI})
    call.leave()
    await call.done()
    assert call.response.writes == []


# -- names, and who is only to be loaded


async def test_names_are_found_with_a_tag_too(serve: Serve) -> None:
    async with upstream({"text": "hi"}) as server:
        models = pointing_at(server) + f"  org/m:7b: {{engine: openai, base_url: '{server.url}', model: up}}\n"
        client = await serve(models, default=SINGLE)
        for name in ("m1", "m1:latest", "auto:latest", "org/m:7b", "org/m:7b:latest"):
            reply = await ask(client, model=name, stream=False)
            assert reply.status == 200, name
            assert reply.json["model"] == name
        for name in ("m1:7b", "nobody", "latest", ":latest", "m1:latest:latest"):
            reply = await ask(client, model=name)
            assert reply.status == 404 and list(reply.json) == ["error"]
        chat = await client.chat(model="m1:latest")
        assert chat.status == 200, "those who list models as Ollama's and chat as OpenAI's"
        assert chat.json["model"] == "m1"


@pytest.mark.parametrize(
    "path, empty",
    [
        ("/api/chat", {"messages": []}),
        ("/api/chat", {"messages": None}),
        ("/api/generate", {"prompt": ""}),
        ("/api/generate", {"prompt": None, "system": "s"}),
    ],
)
async def test_a_request_without_a_word_loads_a_model_and_asks_none(serve: Serve, path: str, empty: Json) -> None:
    async with upstream({"text": "hi"}) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        for keep_alive, reason in ((None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"), ("0s", "unload")):
            reply = await ask(client, path, **empty, keep_alive=keep_alive)
            body = reply.json
            assert (body["model"], body["done"], body["done_reason"]) == ("auto", True, reason)
            if path == "/api/chat":
                assert body["message"] == {"role": "assistant", "content": ""}
            else:
                assert body["response"] == ""
        assert (await ask(client, path, **empty, model="nobody")).status == 404
        assert (await ask(client, path, **empty, model=3)).status == 400
        assert server.script.requests == []


async def test_other_methods_are_405(serve: Serve) -> None:
    client = await serve(scripted({"text": "hi"}), default=SINGLE)
    reply = await client.call("GET", "/api/chat")
    assert reply.status == 405 and isinstance(reply.json["error"], str)
