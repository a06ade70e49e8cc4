"""`engine: llama.cpp` on a llama-server: which program serves a GGUF file, and how it is told.

A real one is used where $ONION_TEST_LLAMA_SERVER names it, or PATH has it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.engines.llama_cpp import SERVERS, LlamaCppSettings
from gateway.engines.server_command import executable
from gateway.errors import ConfigError, EngineError
from tests.asgi import Client
from tests.conftest import Serve, build_from
from tests.engines.fake_programs import program
from tests.engines.fakes import is_alive
from tests.engines.images import image_part
from tests.engines.projector import write_projector

POLICY = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def nothing_installed(monkeypatch: pytest.MonkeyPatch, *but: str) -> None:
    monkeypatch.setattr("gateway.engines.llama_cpp.find_spec", lambda name: name if name in but else None)
    monkeypatch.setattr("gateway.engines.llama_cpp_python.find_spec", lambda name: name if name in but else None)


def entry(model: Path, **keys: Any) -> str:
    more = "".join(f"\n    {name}: {value}" for name, value in keys.items())
    return f"models:\n  m:\n    engine: llama.cpp\n    source: 'file:{model}'{more}\n"


def test_the_first_that_is_here_serves(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    settings = LlamaCppSettings("m", model)
    nothing_installed(monkeypatch, "xllamacpp", "llama_cpp")
    assert settings.served_by == SERVERS[0] == "xllamacpp"
    assert "gateway.engines.llama_cpp_child" in settings.launch().argv
    nothing_installed(monkeypatch, "llama_cpp")
    assert settings.served_by == "llama-cpp-python"
    assert "llama_cpp.server" in settings.launch().settings["argv"]
    nothing_installed(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    llama_server = program(tmp_path / "llama-server", "LLAMA_API_KEY")
    assert settings.served_by == "llama-server"
    assert settings.launch().settings["argv"][0] == str(llama_server.path)


def test_where_nothing_is_here_all_ways_are_named(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    nothing_installed(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError) as caught:
        LlamaCppSettings("m", model).launch()
    assert caught.value.message == (
        "nothing here can serve a GGUF file: pip install xllamacpp; or pip install 'llama-cpp-python[server]'; "
        "or put llama.cpp's llama-server on PATH, or name it as `command`"
    )
    with pytest.raises(EngineError, match="^there is no llama-server here"):
        LlamaCppSettings("m", model, server="llama-server").launch()


def test_llama_cpp_python_is_passed_over_for_images(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    nothing_installed(monkeypatch, "llama_cpp")
    settings = LlamaCppSettings("m", model, mmproj=model, command="not-there")
    assert settings.served_by is None
    with pytest.raises(EngineError) as caught:
        settings.launch()
    assert "llama-cpp-python" not in caught.value.message
    with pytest.raises(EngineError, match="chat_format"):
        LlamaCppSettings("m", model, mmproj=model, server="llama-cpp-python").launch()


def test_an_entry_that_llama_cpp_python_serves_has_one_slot(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    nothing_installed(monkeypatch, "llama_cpp")
    gateway, _ = build_from(tmp_path, entry(model, slots=4, context=2048), default=POLICY)
    assert gateway.models["m"].card["slots"] == 1
    (engine,) = gateway.engines
    assert "2048" in engine.launch().settings["argv"] and engine.slots == 1  # type: ignore[attr-defined]


async def test_it_is_told_everything_and_the_key_by_the_environment(serve: Serve, model: Path, tmp_path: Path) -> None:
    llama_server = program(tmp_path / "llama-server", "LLAMA_API_KEY")
    projector = tmp_path / "mmproj.gguf"
    projector.write_bytes(b"GGUF")
    keys = {"mmproj": f"'file:{projector}'", "context": 512, "slots": 2, "threads": 3, "gpu_layers": 7}
    client = await serve(
        entry(model, server="llama-server", command=llama_server.path, **keys),
        default=POLICY,
    )
    said = await client.chat([{"type": "text", "text": "what is it?"}, image_part()])  # type: ignore[arg-type]
    assert said.status == 200
    assert "data:image/png" in said.json["choices"][0]["message"]["content"], "parts are passed on as they are"
    options = {
        "--host": "127.0.0.1",
        "--alias": "m",
        "--model": str(model),
        "--mmproj": str(projector),
        "--ctx-size": "1024",
        "--parallel": "2",
        "--threads": "3",
        "--gpu-layers": "7",
    }
    assert {name: llama_server.option(name) for name in options} == options
    assert "--no-context-shift" in llama_server.argv
    key = llama_server.env["LLAMA_API_KEY"]
    assert len(key) >= 32 and key not in " ".join(llama_server.argv)
    await client.runtime.pool.close()
    assert not any(is_alive(pid) for pid in llama_server.pids)


@pytest.mark.parametrize("content", [b"MZ", None], ids=["not GGUF", "missing"])
async def test_a_projector_that_is_none_is_named(serve: Serve, model: Path, tmp_path: Path, content: bytes) -> None:
    llama_server = program(tmp_path / "llama-server", "LLAMA_API_KEY")
    projector = tmp_path / "mmproj.gguf"
    if content is not None:
        projector.write_bytes(content)
    keys = {"server": "llama-server", "command": llama_server.path, "mmproj": f"'file:{projector}'"}
    said = await (await serve(entry(model, **keys), default=POLICY)).chat()
    what = "is not a GGUF file" if content else "is missing"
    assert said.status == 503 and said.error["message"] == f"model 'm' is not running: its projector file {what}"


async def test_without_a_projector_an_image_is_refused(serve: Serve, model: Path, tmp_path: Path) -> None:
    client = await serve(entry(model), default=POLICY)
    said = await client.chat([image_part()])  # type: ignore[arg-type]
    assert said.status == 400 and "does not take image content" in said.error["message"]


@pytest.mark.parametrize(
    ("keys", "accepts"),
    [
        ({}, ["text"]),
        ({"mmproj": "'file:/m'"}, ["text", "image"]),
        ({"mmproj": "'file:/m'", "accepts": "[text, audio]"}, ["text", "audio"]),
    ],
)
def test_a_projector_makes_it_accept_images(
    tmp_path: Path, model: Path, keys: dict[str, str], accepts: list[str]
) -> None:
    gateway, _ = build_from(tmp_path, entry(model, **keys), default=POLICY)
    assert gateway.models["m"].card["accepts"] == accepts


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"mmproj": "'ftp:/m'"}, "mmproj: unknown scheme"),
        ({"mmproj": "'file:/m'", "mmproj_sha256": "abc"}, "mmproj_sha256: "),
        ({"mmproj_sha256": f"'{'0' * 64}'"}, "there is none"),
        ({"server": "ollama"}, "server: is not one of"),
        ({"server": "llama-cpp-python", "mmproj": "'file:/m'"}, "engine: llama-cpp-python"),
        ({"command": "--verbose"}, "command: does not look right"),
        ({"gpu_layers": "-1"}, "gpu_layers: "),
    ],
)
def test_faults_are_found_before_anything_starts(tmp_path: Path, model: Path, keys: dict[str, str], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, entry(model, **keys), default=POLICY)
    assert re.search(re.escape(fault), str(caught.value.problems[0]))


def real_llama_server() -> str:
    found = executable(os.environ.get("ONION_TEST_LLAMA_SERVER", "llama-server"))
    if found is None:
        pytest.skip("there is no llama-server: put one on PATH, or name it in ONION_TEST_LLAMA_SERVER")
    return found


@pytest.mark.slow
@pytest.mark.model
async def test_a_real_llama_server_serves(serve: Serve, core_model_path: Path, tmp_path: Path) -> None:
    projector = write_projector(tmp_path / "mmproj.gguf")
    keys = {"server": "llama-server", "command": real_llama_server(), "context": 1024, "slots": 2}
    client = await serve(entry(core_model_path, mmproj=f"'file:{projector}'", **keys), default=POLICY)
    whole = await finished(client, "Say hello.", max_tokens=8)
    assert whole.json["choices"][0]["message"]["content"] and whole.json["usage"]["completion_tokens"] == 8
    pictured = await finished(client, [{"type": "text", "text": "Say hello."}, image_part()], max_tokens=8)
    assert pictured.json["usage"]["prompt_tokens"] == whole.json["usage"]["prompt_tokens"] + 4
    streamed = await finished(client, "Say hello.", max_tokens=8, stream=True)
    assert len(streamed.events) > 3
    long = await finished(client, "word " * 1100)
    assert long.status == 400 and long.error["code"] == "context_length_exceeded"


async def finished(client: Client, content: Any, **fields: Any) -> Any:
    return await client.start_chat(content, temperature=0, **fields).done(timeout_s=120)
