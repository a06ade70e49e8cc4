"""Streams and answers in upstreams' own shapes, over real sockets: what the client gets is OpenAI's."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.asgi import Response
from tests.backends.odd import CASCADE, SINGLE, ask, models
from tests.conftest import Serve
from tests.servers import DONE, Json, Reply, chunk, plain, serving, usage, whole


def strictly(reply: Response) -> list[ChatCompletionChunk]:
    """The stream's chunks, each as OpenAI's own types have it."""
    assert reply.events[-1] == "[DONE]"
    for event in reply.events[:-1]:
        assert isinstance(event["choices"], list) and event["id"] and event["model"] == "m"
        for choice in event["choices"]:
            assert isinstance(choice["delta"], dict) and choice["finish_reason"] != ""
            for call in choice["delta"].get("tool_calls") or ():
                assert isinstance(call["index"], int) and isinstance(call.get("function", {}).get("arguments", ""), str)
    return [ChatCompletionChunk.model_validate(event) for event in reply.events[:-1]]


END = (chunk({}, "stop"), usage(), DONE)
AZURE_FIRST = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
}
STREAMS: dict[str, tuple[Json | bytes, ...]] = {
    "azure": (
        AZURE_FIRST,
        chunk({"content": "Hi", "role": "assistant"}),
        {**chunk({}), "choices": [{"index": 0, "delta": {}, "finish_reason": None, "content_filter_offsets": {}}]},
        *END,
    ),
    "no finish": (chunk({"content": "Hi"}), usage(), DONE),
    "finish is empty": (chunk({"content": "Hi"}, ""), chunk({"content": ""}, "eos"), usage(), DONE),
    "delta is null": (chunk(None), chunk({"content": "Hi"}), chunk(None, "stop"), DONE),
    "delta is missing": (chunk({"content": "Hi"}), {"choices": [{"index": 0, "finish_reason": "stop"}]}, DONE),
    "index is missing": (
        {"choices": [{"delta": {"content": "Hi"}}]},
        {"choices": [{"index": None, "delta": {}, "finish_reason": "stop"}]},
        DONE,
    ),
    "created is a float": ({**chunk({"content": "Hi"}), "created": 1763720000.123}, *END),
    "comments": (b": OPENROUTER PROCESSING\n\n", chunk({"content": "Hi"}), b": OPENROUTER PROCESSING\n\n", *END),
    "usage in every chunk": (
        chunk({"content": "H"}, usage={"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}),
        chunk({"content": "i"}, usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}),
        chunk({}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}),
        DONE,
    ),
    "choices is null": ({"id": "x", "choices": None, "usage": None}, chunk({"content": "Hi"}), *END),
    "content is parts": (
        chunk({"role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        chunk({"content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}),
        *END,
    ),
    "reasoning": (
        chunk({"reasoning": "hm", "content": ""}),
        chunk({"reasoning_content": "so"}),
        chunk({"content": "Hi"}),
        *END,
    ),
    "windows": (b"data: " + orjson.dumps(chunk({"content": "Hi"})) + b"\r\n\r\n", *END),
    "event names": (b"event: message\n", chunk({"content": "Hi"}), *END),
}


@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS.keys())
async def test_odd_streams_come_out_in_openais_shape(serve: Serve, chunks: tuple[Json | bytes, ...]) -> None:
    reply = await ask(serve, Reply(chunks), stream=True, stream_options={"include_usage": True})
    events = strictly(reply)
    assert reply.text == "Hi"
    finishes = [choice.finish_reason for event in events for choice in event.choices if choice.finish_reason]
    assert finishes == ["stop"]
    spent = reply.gateway["usage"]
    assert spent["estimated"] or spent["input_tokens"] == 9 and spent["output_tokens"] == 3


async def test_thinking_in_parts_is_shown_as_reasoning(serve: Serve) -> None:
    reply = await ask(serve, Reply(STREAMS["content is parts"]), stream=True)
    assert "hm" in [c["delta"].get("reasoning_content") for e in reply.events[:-1] for c in e["choices"]]
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hi"}]
    message = (await ask(serve, Reply(whole=whole(None, message={"content": parts})))).json["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Hi", "hm")


def call(name: str | None, arguments: Any, **more: Any) -> Json:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"function": function, **more}


A, B = '{"city":"Paris"}', '{"city":"Rome"}'
CALLS: dict[str, tuple[list[Json], ...]] = {
    "openai": (
        [call("f", "", index=0, id="a", type="function")],
        [call(None, '{"city":', index=0)],
        [call(None, '"Paris"}', index=0)],
        [call("g", "", index=1, id="b", type="function")],
        [call(None, B, index=1)],
    ),
    "ollama": ([call("f", A, index=0, id="a", type="function"), call("g", B, index=1, id="b", type="function")],),
    "no index": ([call("f", A, id="a")], [call("g", B, id="b")]),
    "no index, in pieces": ([call("f", '{"city":', id="a")], [call(None, '"Paris"}')], [call("g", B, id="b")]),
    "index always 0": (
        [call("f", A, index=0, id="a", type="function")],
        [call("g", B, index=0, id="b", type="function")],
    ),
    "no ids, index always 0": (
        [call("f", A, index=0, id="", type="function")],
        [call("g", B, index=0, id="", type="function")],
    ),
    "neither id nor type": ([call("f", A, index=0), call("g", B, index=1)],),
    "id in each piece": (
        [call("f", '{"city":', index=0, id="a")],
        [call("f", '"Paris"}', index=0, id="a")],
        [call("g", B, index=1, id="b")],
    ),
    "name in each piece": (
        [call("f", '{"city":', index=0, id="a")],
        [call("f", '"Paris"}', index=0, id=None)],
        [call("g", B, index=1, id="b")],
    ),
    "arguments as an object": (
        [call("f", {"city": "Paris"}, index=0, id="a")],
        [call("g", {"city": "Rome"}, index=1, id="b")],
    ),
    "null arguments first": (
        [call("f", None, index=0, id="a")],
        [call(None, A, index=0)],
        [call("g", B, index=1, id="b")],
    ),
}


def put_together(reply: Response) -> list[tuple[str, Any]]:
    """The calls as a client's SDK puts them together: by index."""
    calls: dict[int, Json] = {}
    for event in strictly(reply):
        for choice in event.choices:
            for piece in choice.delta.tool_calls or ():
                found = calls.setdefault(piece.index, {"name": "", "arguments": ""})
                if "id" not in found:
                    assert piece.id and piece.type == "function" and piece.function is not None
                    found |= {"id": piece.id, "name": piece.function.name}
                found["arguments"] += (piece.function.arguments if piece.function else None) or ""
    assert len({found["id"] for found in calls.values()}) == len(calls)
    return [(calls[index]["name"], orjson.loads(calls[index]["arguments"])) for index in sorted(calls)]


@pytest.mark.parametrize("pieces", CALLS.values(), ids=CALLS.keys())
async def test_tool_calls_can_be_put_together(serve: Serve, pieces: tuple[list[Json], ...]) -> None:
    chunks = (*(chunk({"tool_calls": piece}) for piece in pieces), chunk({}, "tool_calls"), usage(), DONE)
    expected = [("f", {"city": "Paris"}), ("g", {"city": "Rome"})]
    tools = [{"type": "function", "function": {"name": "f"}}]
    reply = await ask(serve, Reply(chunks), stream=True, tools=tools)
    assert put_together(reply) == expected
    judged = await ask(serve, Reply(chunks), CASCADE, tools=tools, stream=True)
    assert put_together(judged) == expected


@pytest.mark.parametrize("pieces", CALLS.values(), ids=CALLS.keys())
async def test_an_answer_that_is_wanted_whole_has_them_too(serve: Serve, pieces: tuple[list[Json], ...]) -> None:
    chunks = (*(chunk({"tool_calls": piece}) for piece in pieces), chunk({}, "tool_calls"), usage(), DONE)
    async with serving(plain(say=lambda body: Reply(chunks))) as server:
        client = await serve(models(server).replace("model: up", "model: up, provider: llama-server"), default=SINGLE)
        reply = await client.chat()
    calls = reply.json["choices"][0]["message"]["tool_calls"]
    said = [(c["function"]["name"], orjson.loads(c["function"]["arguments"])) for c in calls]
    assert said == [("f", {"city": "Paris"}), ("g", {"city": "Rome"})]


async def test_whole_answers_come_out_in_openais_shape(serve: Serve) -> None:
    calls = [{"function": {"name": "f", "arguments": {"city": "Paris"}}}, {"id": "", "function": {"name": "g"}}]
    odd = whole(None, message={"tool_calls": calls}, finish_reason="", created=1.5)
    del odd["choices"][0]["index"]
    reply = await ask(serve, Reply(whole=odd))
    answer = ChatCompletion.model_validate(reply.json)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.index == 0
    assert choice.message.tool_calls is not None
    assert [c.function.arguments for c in choice.message.tool_calls if c.type == "function"] == ['{"city":"Paris"}', ""]
    assert len({c.id for c in choice.message.tool_calls} - {""}) == 2


async def test_a_stream_that_ends_without_a_word_is_an_error(serve: Serve) -> None:
    reply = await ask(serve, Reply((AZURE_FIRST, chunk({"content": "Hi"}))), stream=True)
    assert "error" in reply.events[-1]


async def test_calls_of_a_whole_answer_that_share_an_index_stay_apart(serve: Serve) -> None:
    calls = [
        {"id": name, "index": 0, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in "fg"
    ]
    tools = [{"type": "function", "function": {"name": name}} for name in "fg"]
    both = Reply(whole=whole(None, message={"tool_calls": calls}, finish_reason="tool_calls"))
    judged = await ask(serve, both, CASCADE.replace("not_empty", "tool_arguments"), tools=tools)
    assert judged.gateway["path"] == "m"
    assert [call["id"] for call in judged.json["choices"][0]["message"]["tool_calls"]] == ["f", "g"]
    assert put_together(await ask(serve, both, tools=tools, stream=True)) == [("f", {}), ("g", {})]


async def test_one_answer_is_whole_where_the_server_gives_one_whatever_is_wanted(serve: Serve) -> None:
    said = Reply((chunk({"content": "Hi"}), chunk({}, "stop")))  # and no [DONE]
    async with serving(plain(say=lambda body: said)) as server:
        client = await serve(models(server).replace("model: up", "model: up, provider: ollama"), default=SINGLE)
        reply = await client.chat(stream=True, n=2)
    assert reply.events[-1] == "[DONE]" and reply.gateway["dropped"] == ["n"]


@pytest.mark.parametrize("usage", [None, "many", [1], {}, {"prompt_tokens": -9, "completion_tokens": 1}])
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_that_is_none_is_estimated(serve: Serve, usage: Any, stream: bool) -> None:
    chunks = (chunk({"content": "Hi"}), chunk({}, "stop"), {**chunk({}), "choices": [], "usage": usage}, DONE)
    reply = await ask(serve, Reply(chunks) if stream else Reply(whole=whole(usage=usage)), stream=stream)
    assert reply.status == 200
    assert reply.gateway["usage"]["estimated"] is True and reply.gateway["usage"]["input_tokens"] > 0


async def test_a_message_with_nothing_in_it_has_its_keys(serve: Serve) -> None:
    reply = await ask(serve, Reply(whole={"choices": [{"message": None, "finish_reason": "stop"}]}))
    assert reply.json["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": None}
