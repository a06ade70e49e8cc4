"""Clients that cannot be run here: the requests that they send, byte for byte over a socket, and what they need back.

`transcripts/NAME.json` has the requests, and says where they were read. What a client needs is said in its tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.clients.gateway_process import CONTEXT, Json, Served, serving

TRANSCRIPTS = Path(__file__).parent / "transcripts"
TEXT = "Paris is lovely; so is Málaga ✓ 🌍."
USAGE = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29, "cache_read_input_tokens": 12}
CALLS = [{"name": "read_file", "arguments": {"path": path}} for path in ("a", "b")]
REPLIES: dict[str, list[Json]] = {
    "words": [{"text": TEXT}],
    "calls": [{"tool_calls": CALLS}],
    "thinker": [{"text": TEXT, "reasoning": "I have been there.", "usage": "none"}],
    "roo": [{"text": TEXT, "usage": USAGE}],
    "failing": [{"text": TEXT, "error_after": 3}],
}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, minilm_home: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("keyed")
    with serving(folder, REPLIES, models_home=minilm_home, wants_key=True) as served:
        yield served


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("open"), REPLIES) as served:
        yield served


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        assert self.status == 200, self.body
        return json.loads(self.body)

    def lines(self) -> list[str]:
        """Without the empty ones."""
        assert self.status == 200, self.body
        assert self.body.endswith(b"\n\n"), "whole events"
        return [line for line in self.body.decode().split("\n") if line]

    def objects(self) -> list[Json]:
        """Of a stream that has nothing but data, and ends as it should."""
        assert self.headers["content-type"].startswith("text/event-stream")
        assert all(line.startswith("data: ") for line in self.lines()), self.body
        *data, done = [line.removeprefix("data: ") for line in self.lines()]
        assert done == "[DONE]"
        return [json.loads(one) for one in data]

    def ndjson(self) -> list[Json]:
        assert self.status == 200, self.body
        return [json.loads(line) for line in self.body.splitlines()]


def send(served: Served, client: str, name: str, *, model: str | None = None, key: str | None = None) -> Reply:
    """Args: `model`, `key`: others than the transcript's and the served one's."""
    request = json.loads((TRANSCRIPTS / f"{client}.json").read_text())["requests"][name]
    headers = {"Host": urlsplit(served.url).netloc, **request["headers"]}
    body = request.get("body")
    if model is not None:
        body = {**body, "model": model}
    raw = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    with closing(HTTPConnection(urlsplit(served.url).netloc, timeout=30)) as connection:
        connection.putrequest(request["method"], request["path"], skip_host=True, skip_accept_encoding=True)
        for header, value in headers.items():
            connection.putheader(header, value.replace("$KEY", key or served.key or "unused"))
        if raw:
            connection.putheader("Content-Length", str(len(raw)))
        connection.endheaders(raw)
        response = connection.getresponse()
        got = {header.lower(): value for header, value in response.getheaders()}
        return Reply(response.status, got, response.read())


def text_of(chunks: list[Json]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def calls_of(chunks: list[Json]) -> list[Json]:
    return [call for chunk in chunks for one in chunk["choices"] for call in one["delta"].get("tool_calls") or ()]


# --- Zed


def is_whole_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def assert_zed_reads(chunk: Json) -> None:
    """As its Rust structures have it: a field of the wrong type is an error, and ends the turn."""
    assert isinstance(chunk["choices"], list)
    for choice in chunk["choices"]:
        assert is_whole_number(choice["index"])
        assert isinstance(choice.get("finish_reason"), str | None)
        delta = choice.get("delta") or {}
        assert delta.get("role") in (None, "assistant")
        assert isinstance(delta.get("content"), str | None)
        assert isinstance(delta.get("reasoning_content"), str | None)
        for call in delta.get("tool_calls") or ():
            assert is_whole_number(call["index"])
            assert isinstance(call.get("id"), str | None)
            function = call.get("function") or {}
            assert all(isinstance(function.get(name), str | None) for name in ("name", "arguments"))
    usage = chunk.get("usage")
    if usage is not None:
        assert all(is_whole_number(usage[name]) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    assert all(chunk.get(name) for name in ("id", "object", "created", "model"))


@pytest.mark.parametrize("model", ["words", "calls", "thinker", "roo"])
def test_zed_reads_every_chunk(keyed: Served, model: str) -> None:
    chunks = send(keyed, "zed", "turn", model=model).objects()
    for chunk in chunks:
        assert_zed_reads(chunk)
    assert len({chunk["id"] for chunk in chunks}) == 1
    calls = calls_of(chunks)
    assert text_of(chunks) == ("" if calls else TEXT)
    ids = [call["id"] for call in calls if call.get("id")]
    assert all(isinstance(one, str) for one in ids) and len(set(ids)) == len(ids) == (2 if calls else 0)
    assert {call["index"] for call in calls} == ({0, 1} if calls else set())


def test_zed_gets_its_fields_through(keyed: Served) -> None:
    send(keyed, "zed", "turn").objects()
    sent = keyed.asked["words"][-1]
    assert sent["prompt_cache_key"] and sent["parallel_tool_calls"] is False
    assert sent["max_completion_tokens"] == 4096
    roles = ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert [message["role"] for message in sent["messages"]] == roles


def test_zed_is_told_of_an_error_in_a_stream(keyed: Served) -> None:
    *_, last = send(keyed, "zed", "turn", model="failing").lines()
    assert isinstance(json.loads(last.removeprefix("data: "))["error"]["message"], str)


# --- VS Code Copilot


def test_copilot_finds_models_as_with_ollama(open_to_all: Served) -> None:
    version = send(open_to_all, "copilot", "version").json()["version"]
    assert tuple(int(part) for part in version.split(".")) >= (0, 6, 4)
    models = send(open_to_all, "copilot", "tags").json()["models"]
    assert "words:latest" in {model["model"] for model in models}
    shown = send(open_to_all, "copilot", "show").json()
    info = shown["model_info"]
    assert info["general.basename"], "the name in its list"
    assert info[f"{info['general.architecture']}.context_length"] == CONTEXT
    assert {"completion", "tools"} <= set(shown["capabilities"])


@pytest.mark.parametrize("model", ["words:latest", "calls:latest", "thinker:latest"])
def test_copilot_reads_every_line(open_to_all: Served, model: str) -> None:
    chunks = send(open_to_all, "copilot", "chat", model=model).objects()
    assert all(isinstance(chunk["choices"], list) for chunk in chunks)
    assert all(chunk["created"] for chunk in chunks)
    calls = calls_of(chunks)
    assert [call["function"]["name"] for call in calls if call.get("id")] == ["read_file"] * (2 if calls else 0)
    assert text_of(chunks) == ("" if calls else TEXT)


def test_copilot_is_told_of_an_error_in_a_stream(open_to_all: Served) -> None:
    last = json.loads(send(open_to_all, "copilot", "chat", model="failing").lines()[-1].removeprefix("data: "))
    assert "choices" not in last and last["error"]["message"]


def test_copilot_goes_on_from_a_stored_response(open_to_all: Served) -> None:
    lines = send(open_to_all, "copilot", "responses").lines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [line.removeprefix("event: ") for line in lines if line.startswith("event: ")] == [e["type"] for e in events]
    response = events[-1]["response"]
    assert response["status"] == "completed" and response["store"] is True
    assert response["output"][-1]["content"][0]["text"] == TEXT


# --- JetBrains AI Assistant


def test_jetbrains_takes_it_for_ollama_and_for_lm_studio(open_to_all: Served) -> None:
    assert send(open_to_all, "jetbrains", "root").body == b"Ollama is running"
    assert all(model["model"] and model["name"] for model in send(open_to_all, "jetbrains", "tags").json()["models"])
    assert send(open_to_all, "jetbrains", "show").json()["capabilities"]
    listed = send(open_to_all, "jetbrains", "lm_studio").json()["data"]
    assert {"id", "object", "type", "state"} <= listed[0].keys()
    lines = send(open_to_all, "jetbrains", "ollama_chat").ndjson()
    assert "".join(line["message"]["content"] for line in lines) == TEXT
    assert [line["done"] for line in lines].index(True) == len(lines) - 1


def test_jetbrains_by_the_openai_api(keyed: Served) -> None:
    models = send(keyed, "jetbrains", "models").json()
    assert models["object"] == "list" and "words" in {model["id"] for model in models["data"]}
    assert text_of(send(keyed, "jetbrains", "chat").objects()) == TEXT
    assert send(keyed, "jetbrains", "models", key="wrong").status == 401


# --- Cursor


def test_cursor_asks_first_and_checks_the_key(keyed: Served) -> None:
    told = send(keyed, "cursor", "preflight")
    assert told.status in (200, 204)
    assert told.headers["access-control-allow-origin"] in ("*", "https://cursor.com")
    assert "authorization" in told.headers["access-control-allow-headers"].lower()
    assert send(keyed, "cursor", "models").json()["data"]
    assert send(keyed, "cursor", "key_check").json()["choices"][0]["message"]["content"] == TEXT
    refused = send(keyed, "cursor", "key_check", key="wrong")
    assert refused.status == 401
    assert json.loads(refused.body)["error"]["code"] == "invalid_api_key"


def test_cursor_sends_a_responses_body_to_the_chat_path(keyed: Served) -> None:
    chunks = send(keyed, "cursor", "agent").objects()
    assert text_of(chunks) == TEXT
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    sent = keyed.asked["words"][-1]
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "tool"]
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["read_file", "apply_patch"]
    assert sent["reasoning_effort"] == "medium"


# --- Cline and Roo Code


def test_cline_with_a_slash_too_many(keyed: Served) -> None:
    assert "words" in {model["id"] for model in send(keyed, "cline", "models").json()["data"]}
    for name in ("turn", "reasoning"):
        chunks = send(keyed, "cline", name).objects()
        assert text_of(chunks) == TEXT
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["prompt_tokens"] > 0
    assert keyed.asked["words"][-1]["messages"][0]["role"] == "developer"


def test_roo_marks_what_is_to_be_cached(keyed: Served) -> None:
    chunks = send(keyed, "roo", "turn").objects()
    assert text_of(chunks) == TEXT
    assert chunks[-1]["usage"]["cache_read_input_tokens"] == 12
    sent = keyed.asked["roo"][-1]
    marks = [part.get("cache_control") for message in sent["messages"] for part in message["content"]]
    assert marks == [{"type": "ephemeral"}] * 2
    assert sent["parallel_tool_calls"] is False


# --- Continue


def test_continue_reads_what_it_asks_for(keyed: Served) -> None:
    assert text_of(send(keyed, "continue", "chat").objects()) == TEXT
    assert text_of(send(keyed, "continue", "fim").objects()) == TEXT
    completed = send(keyed, "continue", "completion").objects()
    assert "".join(chunk["choices"][0]["text"] for chunk in completed) == TEXT
    assert len(keyed.asked["words"][-1]["stop"]) == 6
    vectors = send(keyed, "continue", "embed").json()["data"]
    assert [len(one["embedding"]) for one in vectors] == [384, 384]
    ranked = send(keyed, "continue", "rerank").json()
    assert (ranked.get("data") or ranked["results"])[0]["index"] == 1
    assert "words" in {model["id"] for model in send(keyed, "continue", "models").json()["data"]}


def test_continue_as_with_ollama(keyed: Served) -> None:
    shown = send(keyed, "continue", "ollama_show").json()
    assert isinstance(shown["template"], str)
    assert re.fullmatch(r"num_ctx\s+(\S+)", shown["parameters"]), "it fails at a line of another form"
    lines = send(keyed, "continue", "ollama_generate").ndjson()
    assert "".join(line["response"] for line in lines) == TEXT
    assert keyed.asked["words"][-1]["suffix"] == "    return 1\n"
    assert [len(one) for one in send(keyed, "continue", "ollama_embed").json()["embeddings"]] == [384, 384]


# --- Open WebUI


def test_open_webui_from_a_browser(keyed: Served) -> None:
    told = send(keyed, "open_webui", "preflight")
    assert told.status in (200, 204)
    assert told.headers["access-control-allow-private-network"] == "true"
    assert {"authorization", "content-type"} <= set(told.headers["access-control-allow-headers"].lower().split(","))
    assert "POST" in told.headers["access-control-allow-methods"]
    for name in ("models", "chat", "unknown"):
        reply = send(keyed, "open_webui", name)
        assert reply.headers["access-control-allow-origin"] in ("*", "https://chat.example.com"), name
    assert text_of(send(keyed, "open_webui", "chat").objects()) == TEXT
    assert reply.status == 404
    refused = send(keyed, "open_webui", "models", key="wrong")
    assert refused.status == 401 and "access-control-allow-origin" in refused.headers


def test_open_webui_from_its_server(keyed: Served) -> None:
    assert send(keyed, "open_webui", "ollama_version").json()["version"]
    assert send(keyed, "open_webui", "ollama_ps").json() == {"models": []}
    assert all({"name", "model", "digest", "details"} <= model.keys() for model in _tags(keyed))
    lines = send(keyed, "open_webui", "ollama_chat").ndjson()
    assert "".join(line["message"]["content"] for line in lines) == TEXT
    assert lines[-1]["done"] and lines[-1]["eval_count"] > 0
    assert len(send(keyed, "open_webui", "embeddings").json()["data"]) == 2


def _tags(served: Served) -> list[Json]:
    return list(send(served, "open_webui", "ollama_tags").json()["models"])
