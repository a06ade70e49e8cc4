"""The package `ollama`, unmodified, against a server that was started by its command."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import ollama
import pytest

from tests.test_serve import Served, start_serving, stop

MODELS = """
models:
  core:
    engine: scripted
    context: 8192
    accepts: [text, image]
    replies:
      - when: {contains: weather}
        tool_calls: [{name: get_weather, arguments: {city: Paris, days: 2}}]
      - {when: {contains: think}, text: "four", reasoning: "two and two"}
      - {when: {contains: break}, text: "one two three", error_after: 3}
      - {when: {contains: refuse}, error: {status: 400, message: "no such thing"}}
      - {when: {contains: log}, text: "a b", logprobs: -0.5}
      - text: Hello from the core
  big: {engine: scripted, replies: [{text: The large one}]}
  vectors: {engine: openai, base_url: "BASE_URL", model: up, api_key: k}
"""
POLICY = """
policy: default
routes:
  - {name: hard, when: {keywords: [hard]}, answer: {cascade: [{model: core, checks: [{one_of: [x]}]}, {model: big}]}}
  - {name: rest, answer: {model: core}}
"""
HELLO = "Hello from the core"


class Vectors(BaseHTTPRequestHandler):
    """OpenAI's `/embeddings`: the vector of a text is its length."""

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        data = [{"object": "embedding", "index": i, "embedding": [len(text)]} for i, text in enumerate(texts)]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        body = json.dumps({"object": "list", "model": "up", "data": data, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def vectors_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Vectors) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, vectors_url: str) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ollama")
    (folder / "policies").mkdir()
    (folder / "policies" / "default.yaml").write_text(POLICY)
    (folder / "models.yaml").write_text(MODELS.replace("BASE_URL", vectors_url))
    served = start_serving(folder, folder / "home")
    yield served
    assert stop(served) == 0


@pytest.fixture
def client(served: Served) -> Iterator[ollama.Client]:
    with ollama.Client(host=served.url) as client:
        yield client


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def get_weather(city: str, days: int) -> str:
    """What the weather will be.

    Args:
        city: where
        days: for how many days
    """
    return f"{days} days of sun in {city}"


def test_chat_whole(client: ollama.Client) -> None:
    answer = client.chat("auto", said("hi"), options={"temperature": 0.1, "num_ctx": 2048}, keep_alive="5m")
    assert answer.message.content == HELLO and answer.message.role == "assistant"
    assert answer.model == "auto" and answer.done is True and answer.done_reason == "stop"
    assert answer.created_at is not None and answer.created_at.endswith("Z")
    assert answer.prompt_eval_count and answer.eval_count and answer.eval_duration and answer.total_duration


def test_chat_streamed(client: ollama.Client) -> None:
    parts = list(client.chat("core:latest", said("hi"), stream=True))
    assert "".join(part.message.content or "" for part in parts) == HELLO
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) == 5 and parts[-1].eval_count == 4


def test_the_cascade_is_the_same_for_all(client: ollama.Client) -> None:
    parts = list(client.chat("auto", said("a hard one"), stream=True))
    assert "".join(part.message.content or "" for part in parts) == "The large one"


def test_thoughts(client: ollama.Client) -> None:
    assert client.chat("core", said("think"), think=True).message.thinking == "two and two"
    parts = list(client.chat("core", said("think"), think="low", stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == "two and two"
    assert "".join(part.message.content or "" for part in parts) == "four"
    assert client.chat("core", said("think"), think=False).message.thinking is None


@pytest.mark.parametrize("stream", [True, False])
def test_tools_are_called_and_answered(client: ollama.Client, stream: bool) -> None:
    messages: list[Any] = [*said("the weather?")]
    if stream:
        parts = client.chat("auto", messages, tools=[get_weather], stream=True)
        message = next(part.message for part in parts if part.message.tool_calls)
    else:
        message = client.chat("auto", messages, tools=[get_weather]).message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.function.name == "get_weather"
    assert get_weather(**call.function.arguments) == "2 days of sun in Paris"
    messages += [message, {"role": "tool", "tool_name": "get_weather", "content": "sun"}, *said("thanks")]
    assert client.chat("auto", messages, tools=[get_weather]).message.content == HELLO


def test_formats_images_and_logprobs(client: ollama.Client) -> None:
    image = b"\x89PNG\r\n\x1a\n and more"
    messages = [{"role": "user", "content": "look", "images": [image, base64.b64encode(image).decode()]}]
    assert client.chat("core", messages, format={"type": "object"}).message.content == HELLO
    assert client.generate("core", "look", images=[image], format="json").response == HELLO
    answer = client.chat("core", said("log"), logprobs=True, top_logprobs=0)
    assert answer.logprobs is not None
    assert [(one.token, one.logprob) for one in answer.logprobs] == [("a", -0.5), (" b", -0.5)]


def test_generate(client: ollama.Client) -> None:
    whole = client.generate("auto", "hi", system="be brief")
    assert whole.response == HELLO and whole.done and whole.eval_count == 4
    parts = list(client.generate("auto", "hi", stream=True))
    assert "".join(part.response or "" for part in parts) == HELLO and parts[-1].done


@pytest.mark.parametrize("more", [{"raw": True}, {"suffix": "\n    return total"}])
def test_generate_from_a_bare_prompt(client: ollama.Client, more: dict[str, Any]) -> None:
    assert client.generate("core", "def add(a, b):", **more).response == HELLO
    parts = list(client.generate("core", "def add(a, b):", stream=True, **more))
    assert "".join(part.response or "" for part in parts) == HELLO and parts[-1].done


def test_loading(client: ollama.Client) -> None:
    assert client.generate("core").done_reason == "load"
    assert client.generate("core", keep_alive=0).done_reason == "unload"
    assert client.chat("core").done_reason == "load"
    assert list(client.chat("core", stream=True))[0].done_reason == "load"


def test_errors_have_their_class_and_status(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as unknown:
        client.chat("nobody", said("hi"))
    assert unknown.value.status_code == 404 and "nobody" in unknown.value.error
    with pytest.raises(ollama.ResponseError) as unknown:
        list(client.chat("nobody", said("hi"), stream=True))
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as refused:
        client.chat("core", said("refuse"))
    assert refused.value.status_code == 400 and "no such thing" in refused.value.error
    with pytest.raises(ollama.ResponseError) as wrong:
        client.chat("core", said("hi"), options={"temperature": 9})
    assert wrong.value.status_code == 400
    with pytest.raises(ollama.ResponseError) as managed:
        client.delete("core")
    assert managed.value.status_code == 405 and "models.yaml" in managed.value.error


def test_an_error_in_a_stream_is_raised_after_the_words(client: ollama.Client) -> None:
    words = []
    with pytest.raises(ollama.ResponseError, match="scripted error"):
        for part in client.chat("core", said("break"), stream=True):
            words.append(part.message.content)
    assert words == ["one", " two"]


def test_lists(client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == [
        "default:latest",
        "auto:latest",
        "core:latest",
        "big:latest",
        "vectors:latest",
    ]
    shown = client.show("core:latest")
    assert shown.capabilities == ["completion", "tools", "vision"]
    assert shown.modelinfo is not None and shown.modelinfo["onion.context_length"] == 8192
    assert client.ps().models == []
    assert client.pull("core").status == "success"
    assert [part.status for part in client.pull("core", stream=True)] == ["success"]


def test_embeddings(client: ollama.Client) -> None:
    many = client.embed("vectors", ["one", "three"])
    assert many.embeddings == [[3.0], [5.0]] and many.prompt_eval_count == 4
    assert client.embed("vectors:latest", "one").embeddings == [[3.0]]
    assert client.embeddings("vectors", "three").embedding == [5.0]
    with pytest.raises(ollama.ResponseError) as policy:
        client.embed("default", "one")
    assert policy.value.status_code == 400


async def test_the_async_client(served: Served) -> None:
    async with ollama.AsyncClient(host=served.url) as client:
        whole = await client.chat("auto", said("hi"))
        assert whole.message.content == HELLO
        parts = [part async for part in await client.chat("auto", said("hi"), stream=True)]
        assert "".join(part.message.content or "" for part in parts) == HELLO
        texts = [part.response async for part in await client.generate("auto", "hi", stream=True)]
        assert "".join(text or "" for text in texts) == HELLO
        called = await client.chat("auto", said("the weather?"), tools=[get_weather])
        assert called.message.tool_calls is not None
        assert called.message.tool_calls[0].function.arguments == {"city": "Paris", "days": 2}
        with pytest.raises(ollama.ResponseError):
            await client.show("nobody")
        assert (await client.ps()).models == []
        assert (await client.embed("vectors", "one")).embeddings == [[3.0]]


def test_the_root_over_a_socket(served: Served) -> None:
    assert httpx.get(served.url).text == "Ollama is running"
    head = httpx.head(served.url)
    assert head.status_code == 200 and head.content == b""
    assert httpx.head(f"{served.url}/api/tags").status_code == 200


def test_vs_code_finds_a_model_and_chats_with_it_over_openais_api(served: Served) -> None:
    listed = httpx.get(f"{served.url}/api/tags").json()["models"]
    names = [model["model"] for model in listed]
    assert "core:latest" in names
    shown = httpx.post(f"{served.url}/api/show", json={"model": "core:latest"}).json()
    assert "tools" in shown["capabilities"]
    assert shown["model_info"][shown["model_info"]["general.architecture"] + ".context_length"] == 8192
    body = {"model": "core:latest", "messages": said("hi"), "stream": True}
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body)
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == HELLO
