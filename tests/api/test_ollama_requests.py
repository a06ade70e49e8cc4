"""What a model is asked, where it is asked over Ollama's API; and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from gateway.api.ollama import OllamaDialect
from gateway.chat import ChatRequest
from gateway.trace import RequestTrace
from tests.api.test_ollama import HI, TOOL, Json, ask, lines, scripted
from tests.asgi import Client, Response
from tests.conftest import SHARED, Serve
from tests.upstream import SINGLE, pointing_at, upstream

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n rest of it").decode()
WEBP = base64.b64encode(b"RIFF\x00\x00\x00\x00WEBPVP8 ").decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0 rest").decode()
GIF = base64.b64encode(b"GIF89a rest").decode()


async def asked(serve: Serve, path: str = "/api/chat", extra: str = "", **fields: Any) -> tuple[Json, Response]:
    """What arrives at the model, and the reply."""
    async with upstream({"text": "fine"}) as server:
        client = await serve(pointing_at(server, extra=extra), default=SINGLE)
        reply = await ask(client, path, stream=False, **fields)
        assert reply.status == 200, reply.body
        return server.script.requests[-1], reply


async def read(client: Client, *, generates: bool = False, **fields: Any) -> ChatRequest:
    """As the dialect reads it, before any model's leaf has mended the conversation."""
    scope: Json = {"gateway": {"headers": {}, "key": None, "id": "1", "model": None}}
    dialect = OllamaDialect(client.live, generates=generates)
    request, _ = await dialect.read(orjson.dumps({"model": "auto", **fields}), scope, RequestTrace())
    return request


async def test_names_that_a_client_made_up_are_fit_for_a_header(serve: Serve) -> None:
    made_up = {"evil\r\nx-evil: 1": 1, "\u20ac,\x00": 1, "n" * 5000: 1, **{f"f{i}": 1 for i in range(5000)}}
    _, reply = await asked(serve, **made_up)
    header = reply.headers["x-gateway-dropped"]
    assert header.startswith("evil__x-evil:_1,___,nnnn") and header.isprintable() and len(header) < 4000
    assert reply.json["gateway"]["dropped"][0] == "evil\r\nx-evil: 1"


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_ours(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve(scripted({"text": "hi"}), default=SINGLE)
    call = client.start("POST", "/api/chat", b"")
    call._body.clear()  # not even an empty end has come
    call.leave()
    await call.done()
    assert call.response.status == 0 and not caplog.records


async def test_options_become_fields_of_the_chat(serve: Serve) -> None:
    options: Json = {
        "temperature": 0.3,
        "top_p": 0.8,
        "top_k": 20.0,
        "min_p": 0.05,
        "seed": 7,
        "num_predict": 64,
        "stop": ["END"],
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.1,
        "num_ctx": 4096,
        "mirostat": None,
        "num_gpu": 1,
    }
    body, reply = await asked(serve, options=options, keep_alive="5m", truncate=True)
    kept = ("temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "presence_penalty", "frequency_penalty")
    assert {name: body[name] for name in kept} == {name: options[name] for name in kept}
    assert (body["max_tokens"], body["stop"]) == (64, ["END"])
    assert not body.keys() & {"options", "num_ctx", "num_predict", "keep_alive", "truncate", "num_gpu"}
    dropped = ["keep_alive", "options.num_ctx", "options.num_gpu", "truncate"]
    assert sorted(reply.headers["x-gateway-dropped"].split(",")) == dropped
    assert sorted(reply.json["gateway"]["dropped"]) == dropped


async def test_what_says_nothing_is_not_sent(serve: Serve) -> None:
    options = {"num_predict": -1, "seed": -1, "temperature": None}
    body, reply = await asked(serve, options=options, format="", think=None, tools=[], keep_alive=None)
    assert body.keys() == {"model", "messages", "stream"}
    assert "x-gateway-dropped" not in reply.headers


@pytest.mark.parametrize("none", [-2, 0])
async def test_an_answer_without_a_limit_has_none(serve: Serve, none: int) -> None:
    body, _ = await asked(serve, options={"num_predict": none})
    assert "max_tokens" not in body


async def test_formats(serve: Serve) -> None:
    body, _ = await asked(serve, format="json")
    assert body["response_format"] == {"type": "json_object"}
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    body, _ = await asked(serve, "/api/generate", format=schema)
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "format", "schema": schema}}


async def test_a_level_of_thinking_is_an_effort_and_a_yes_or_no_is_lost(serve: Serve) -> None:
    body, reply = await asked(serve, think="low")
    assert body["reasoning_effort"] == "low" and "x-gateway-dropped" not in reply.headers
    body, reply = await asked(serve, think=True)
    assert "reasoning_effort" not in body and reply.headers["x-gateway-dropped"] == "think"


async def test_images_say_what_they_are(serve: Serve) -> None:
    wrapped = PNG[:8] + "\n" + PNG[8:]
    messages = [{"role": "user", "content": "what?", "images": [PNG, JPEG, WEBP, GIF, wrapped]}]
    body, _ = await asked(serve, messages=messages)
    parts = body["messages"][0]["content"]
    assert parts[0] == {"type": "text", "text": "what?"}
    urls = [part["image_url"]["url"] for part in parts[1:]]
    kinds = [("png", PNG), ("jpeg", JPEG), ("webp", WEBP), ("gif", GIF), ("png", PNG)]
    assert urls == [f"data:image/{kind};base64,{data}" for kind, data in kinds]
    body, _ = await asked(serve, "/api/generate", prompt="look", suffix=None, raw=False, images=[f"data:x,{PNG}"])
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "look"}, image]}]


async def test_results_of_tools_find_their_calls(serve: Serve) -> None:
    def call(name: str, **more: Any) -> Json:
        return {"function": {"name": name, "arguments": {"of": name}}, **more}

    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call("a"), call("b"), call("a")]},
        {"role": "tool", "content": "B", "tool_name": "b"},
        {"role": "tool", "content": "A1", "name": "a"},
        {"role": "tool", "content": "A2"},
        {"role": "assistant", "content": "so", "tool_calls": [call("c", id="own")]},
        {"role": "tool", "content": "C", "tool_call_id": "own"},
        {"role": "tool", "content": "nobody asked"},
    ]
    client = await serve(scripted({"text": "hi"}), default=SINGLE)
    request = await read(client, messages=messages, tools=[{"function": TOOL["function"]}])
    sent = request.messages
    assert sent[1]["reasoning_content"] == "hm" and sent[1]["content"] is None
    assert [c["id"] for c in sent[1]["tool_calls"]] == ["call_1", "call_2", "call_3"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "a", "arguments": '{"of":"a"}'}
    assert sent[1]["tool_calls"][0]["type"] == "function"
    assert [(m["tool_call_id"], m["content"]) for m in sent if m["role"] == "tool"] == [
        ("call_2", "B"),
        ("call_1", "A1"),
        ("call_3", "A2"),
        ("own", "C"),
        ("call_4", "nobody asked"),
    ]
    assert request.body["tools"] == [TOOL]
    assert (await read(client, messages=messages)).messages == sent, "the same ids each time"


async def test_fields_of_messages_that_nobody_knows_are_named(serve: Serve) -> None:
    body, reply = await asked(serve, messages=[{"role": "user", "content": "hi", "colour": "red", "thinking": ""}])
    assert body["messages"] == HI
    assert reply.headers["x-gateway-dropped"] == "messages[].colour"


async def test_generate_is_a_chat_of_one_turn(serve: Serve) -> None:
    fields: Json = {"prompt": "Why?", "system": "Be brief.", "template": "{{ .Prompt }}", "context": [1, 2]}
    body, reply = await asked(serve, "/api/generate", **fields)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert reply.headers["x-gateway-dropped"] == "template,context"


async def test_generate_with_a_suffix_or_raw_is_a_prompt(serve: Serve) -> None:
    more: Json = {"suffix": "return x", "options": {"num_predict": 9}, "logprobs": True, "top_logprobs": 2}
    body, reply = await asked(serve, "/api/generate", prompt="def f(", **more)
    assert "messages" not in body
    wanted = {"prompt": "def f(", "suffix": "return x", "max_tokens": 9, "logprobs": 2}
    assert {name: body[name] for name in wanted} == wanted
    assert reply.json["response"] == "fine"
    body, _ = await asked(serve, "/api/generate", prompt="<s>as it is", raw=True, logprobs=True)
    assert (body["prompt"], body["logprobs"]) == ("<s>as it is", 0) and not body.keys() & {"suffix", "messages", "raw"}


async def test_what_a_prompt_cannot_say_is_lost(serve: Serve) -> None:
    client = await serve(scripted({"text": "hi"}), default=SINGLE)
    said: Json = {"prompt": "p", "suffix": "s", "system": "be brief", "think": "low", "keep_alive": 0}
    request = await read(client, generates=True, **said)
    assert request.body == {"model": "auto", "prompt": "p", "suffix": "s", "stream": True}
    assert request.extra is not None
    assert request.extra.dialect == "ollama" and request.extra.body == {"model": "auto", **said}
    assert request.extra.lost == ("system", "keep_alive", "think")


async def test_a_prompts_words_are_streamed_as_any(serve: Serve) -> None:
    async with upstream({"text": "one two"}) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        got = lines(await ask(client, "/api/generate", raw=True))
        assert [line["response"] for line in got] == ["one", " two", ""]
        assert got[-1]["eval_count"] == 2
        assert server.script.requests[-1]["prompt"] == "hi"


@SHARED
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize(
    "fields, at_fault",
    [
        ({"model": None}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"options": []}, "options"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": 9}}, "options.temperature"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"top_k": True}}, "options.top_k"),
        ({"options": {"stop": [1]}}, "options.stop"),
        ({"format": "xml"}, "format"),
        ({"think": 3}, "think"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
    ],
)
async def test_wrong_types_are_400_and_named(shared: Serve, path: str, fields: Json, at_fault: str) -> None:
    reply = await ask(await shared(scripted({"text": "hi"}), default=SINGLE), path, **fields)
    assert reply.status == 400
    assert list(reply.json) == ["error"] and reply.json["error"].startswith(f"{at_fault}: ")


@SHARED
@pytest.mark.parametrize(
    "fields, at_fault",
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": [], "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "images": "x"}]}, "messages[0].images"),
        ({"messages": [{"role": "user", "images": [1]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "images": ["?"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "images": ["é"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "images": ["AAAA"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "assistant", "thinking": 1}]}, "messages[0].thinking"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages[0].tool_calls[0].function"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": 1, "function": {"name": "f"}}]}]},
            "messages[0].tool_calls[0].id",
        ),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": 1}]}, "messages[0].tool_call_id"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ],
)
async def test_wrong_messages_and_tools_are_400_and_named(shared: Serve, fields: Json, at_fault: str) -> None:
    reply = await ask(await shared(scripted({"text": "hi"}), default=SINGLE), **fields)
    assert reply.status == 400
    assert reply.json["error"].startswith(f"{at_fault}: ")


@SHARED
@pytest.mark.parametrize(
    "fields, at_fault",
    [
        ({"prompt": ["hi"]}, "prompt"),
        ({"system": 1}, "system"),
        ({"raw": "yes"}, "raw"),
        ({"images": PNG}, "images"),
        ({"raw": True, "images": [PNG]}, "images"),
    ],
)
async def test_wrong_fields_of_generate_are_400_and_named(shared: Serve, fields: Json, at_fault: str) -> None:
    reply = await ask(await shared(scripted({"text": "hi"}), default=SINGLE), "/api/generate", **fields)
    assert reply.status == 400
    assert reply.json["error"].startswith(f"{at_fault}: ")


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"model": NaN}', b"[" * 100_000])
async def test_what_is_no_json_object_is_400(serve: Serve, raw: bytes) -> None:
    client = await serve(scripted({"text": "hi"}), default=SINGLE)
    reply = await client.call("POST", "/api/chat", raw)
    assert reply.status == 400 and isinstance(reply.json["error"], str)
