"""`engine: llama-cpp-python`: how its server is told what to do, and what the real one does with it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.engines.llama_cpp_python import LlamaCppPythonSettings
from gateway.errors import ConfigError, EngineError
from tests.asgi import Client, Response
from tests.conftest import Serve, build_from, running
from tests.engines import environments
from tests.engines.fake_programs import program
from tests.engines.fakes import is_alive

POLICY = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def entry(model: Path, **keys: Any) -> str:
    more = "".join(f"\n    {name}: {value}" for name, value in keys.items())
    return f"models:\n  m:\n    engine: llama-cpp-python\n    source: 'file:{model}'{more}\n"


async def test_it_is_told_everything_and_the_key_by_the_environment(
    serve: Serve, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")  # it would listen there: these come before its options
    monkeypatch.setenv("CONFIG_FILE", "/nowhere")
    python = program(tmp_path / "python", "API_KEY")
    client = await serve(entry(model, python=python.path, context=512, threads=3, gpu_layers=7), default=POLICY)
    assert (await client.chat("hi")).status == 200
    assert python.argv[:2] == ["-m", "llama_cpp.server"]
    options = {
        "--model": str(model),
        "--model_alias": "m",
        "--n_ctx": "512",
        "--n_threads": "3",
        "--n_gpu_layers": "7",
        "--logits_all": "False",
        "--interrupt_requests": "False",
    }
    assert {name: python.option(name) for name in options} == options
    assert python.env["HOST"] == "127.0.0.1" and "CONFIG_FILE" not in python.env
    key = python.env["API_KEY"]
    assert len(key) >= 32 and key not in " ".join(python.argv)
    await client.runtime.pool.close()
    assert not any(is_alive(pid) for pid in python.pids)


def test_a_projector_goes_with_the_name_of_its_kind(model: Path) -> None:
    settings = LlamaCppPythonSettings("m", model, mmproj=model, chat_format="qwen2.5-vl", python="python3")
    argv = settings.launch().settings["argv"]
    assert argv[argv.index("--clip_model_path") + 1] == str(model)
    assert argv[argv.index("--chat_format") + 1] == "qwen2.5-vl"


def test_without_it_one_is_told_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.engines.llama_cpp_python.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install 'llama-cpp-python\[server\]'"):
        LlamaCppPythonSettings("m", model).launch()
    with pytest.raises(EngineError, match="key python"):
        LlamaCppPythonSettings("m", model, python="/nowhere/python").launch()


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"slots": 2}, "slots: llama-cpp-python answers one request at a time"),
        ({"mmproj": "'file:/m'"}, "'mmproj' wants 'chat_format' too"),
        ({"pyton": "python3"}, "python"),
    ],
)
def test_faults_are_found_before_anything_starts(tmp_path: Path, model: Path, keys: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, entry(model, **keys), default=POLICY)
    assert fault in str(caught.value.problems[0])


real = [pytest.mark.slow, pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


def on_the_real_one(test: Any) -> Any:
    for mark in real:
        test = mark(test)
    return test


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real_client(core_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    python = environments.llama_cpp_python() / "bin" / "python"
    folder = tmp_path_factory.mktemp("real")
    text = entry(core_model_path, python=python, context=1024, logprobs="true", price="{input_usd_per_mtok: 1}")
    async with running(folder, text, default=POLICY) as client:
        yield client
        children = [pid for pid in Path("/proc").iterdir() if pid.name.isdigit() and is_of(pid, core_model_path)]
        assert children, "or the next line would prove nothing"
    assert not any(is_alive(int(pid.name)) for pid in children)


def is_of(process: Path, model: Path) -> bool:
    try:
        return b"llama_cpp.server" in (words := (process / "cmdline").read_bytes()) and str(model).encode() in words
    except OSError:
        return False


async def finished(client: Client, content: str, **fields: Any) -> Response:
    return await client.start_chat(content, temperature=0, **fields).done(timeout_s=120)


@on_the_real_one
async def test_a_whole_answer_and_a_stream(real_client: Client) -> None:
    whole = await finished(real_client, "Say hello.", max_completion_tokens=8)
    assert whole.status == 200 and whole.json["choices"][0]["message"]["content"]
    assert whole.json["choices"][0]["finish_reason"] == "length"
    streamed = await finished(real_client, "Say hello.", max_tokens=8, stream=True)
    assert len([event for event in streamed.events if isinstance(event, dict)]) > 3
    assert streamed.text == whole.json["choices"][0]["message"]["content"]


@on_the_real_one
async def test_a_json_schema_is_kept_to(real_client: Client) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    said = await finished(real_client, "Name a city.", response_format=wanted, max_tokens=64)
    assert json.loads(said.json["choices"][0]["message"]["content"])["city"] in ("Oslo", "Rome")


@on_the_real_one
async def test_a_named_tool_is_called(real_client: Client) -> None:
    function = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"enum": ["sky", "sea"]}}}}
    function["parameters"]["required"] = ["at"]  # type: ignore[index]
    choice = {"type": "function", "function": {"name": "look"}}
    said = await finished(
        real_client,
        "Look at the sky.",
        tools=[{"type": "function", "function": function}],
        tool_choice=choice,
        max_tokens=64,
    )
    (call,) = said.json["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "look"
    assert json.loads(call["function"]["arguments"])["at"] in ("sky", "sea")


@on_the_real_one
async def test_a_request_that_is_too_long_is_refused(real_client: Client) -> None:
    said = await finished(real_client, "word " * 5000)
    assert said.status == 400 and said.error["code"] == "context_length_exceeded"


@on_the_real_one
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_work(real_client: Client, stream: bool) -> None:
    call = real_client.start_chat("Tell a long story.", stream=stream, max_tokens=900, temperature=0)
    async with asyncio.timeout(20):
        if stream:
            await call.wrote.wait()
        while not real_client.runtime.pool.states()["m"].busy:
            await asyncio.sleep(0.01)
    call.leave()
    await asyncio.wait({call.task}, timeout=10)
    started = time.monotonic()
    assert (await finished(real_client, "Hello", max_tokens=1)).status == 200
    assert time.monotonic() - started < 3, "900 tokens take three times that"
