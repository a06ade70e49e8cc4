"""`engine: vllm`: how `vllm serve` is told what to do, that nothing of it is left behind, and the real one for CPUs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.engines.vllm import VllmSettings
from gateway.errors import ConfigError, EngineError
from tests.asgi import Client, Response
from tests.conftest import Serve, build_from, running
from tests.engines import environments
from tests.engines.fake_programs import Program, program
from tests.engines.fakes import is_alive
from tests.engines.test_orphans import REPOSITORY, wait_until

POLICY = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"


def entry(model: Path | str, **keys: Any) -> str:
    more = "".join(f"\n    {name}: {value}" for name, value in keys.items())
    return f"models:\n  m:\n    engine: vllm\n    model: '{model}'{more}\n"


async def test_it_is_told_everything_and_the_key_by_the_environment(serve: Serve, tmp_path: Path) -> None:
    vllm = program(tmp_path / "vllm", "VLLM_API_KEY", "has children")
    keys = {
        "context": 2048,
        "slots": 8,
        "dtype": "bfloat16",
        "gpu_memory": 0.8,
        "tensor_parallel": 2,
        "args": "[--tool-call-parser, hermes, --seed, 7]",
        "env": "{CUDA_VISIBLE_DEVICES: 0}",
    }
    client = await serve(entry("owner/name", command=vllm.path, **keys), default=POLICY)
    assert (await client.chat("hi")).status == 200
    assert vllm.argv[:2] == ["serve", "owner/name"]
    options = {
        "--served-model-name": "m",
        "--host": "127.0.0.1",
        "--max-model-len": "2048",
        "--max-num-seqs": "8",
        "--dtype": "bfloat16",
        "--gpu-memory-utilization": "0.8",
        "--tensor-parallel-size": "2",
        "--tool-call-parser": "hermes",
        "--seed": "7",
    }
    assert {name: vllm.option(name) for name in options} == options
    assert vllm.env["CUDA_VISIBLE_DEVICES"] == "0"
    key = vllm.env["VLLM_API_KEY"]
    assert len(key) >= 32 and key not in " ".join(vllm.argv)
    assert len(vllm.pids) == 3
    await client.runtime.pool.close()
    assert not any(is_alive(pid) for pid in vllm.pids)


def test_what_is_left_out_is_left_to_vllm(tmp_path: Path) -> None:
    vllm = program(tmp_path / "vllm", "VLLM_API_KEY")
    argv = VllmSettings("m", "owner/name", command=str(vllm.path)).launch().settings["argv"]
    left_out = {"--max-model-len", "--dtype", "--gpu-memory-utilization", "--tensor-parallel-size"}
    assert not left_out & set(argv)


def test_the_one_on_path_is_taken_and_else_one_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="^vllm is not installed here: pip install vllm"):
        VllmSettings("m", "owner/name").launch()
    vllm = program(tmp_path / "vllm", "VLLM_API_KEY")
    assert VllmSettings("m", "owner/name").launch().settings["argv"][0] == str(vllm.path)
    with pytest.raises(EngineError, match="key command"):
        VllmSettings("m", "owner/name", command="/nowhere/vllm").launch()


def test_variables_for_it_are_in_no_repr() -> None:
    assert "hf_secret" not in repr(VllmSettings("m", "owner/name", env=(("HF_TOKEN", "hf_secret"),)))


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"args": "[--port, 80]"}, "'--port' is not for the file to set"),
        ({"args": "[--max_model_len=4096]"}, "'--max-model-len' is the key 'context'"),
        ({"env": "{VLLM_API_KEY: x}"}, "'VLLM_API_KEY' is new at each start"),
        ({"gpu_memory": 90}, "gpu_memory"),
        ({"gpu_memory_utilization": 0.9}, "unknown key"),
        ({"command": "--help"}, "command"),
    ],
)
def test_faults_are_found_before_anything_starts(tmp_path: Path, keys: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, entry("owner/name", **keys), default=POLICY)
    assert fault in str(caught.value.problems[0])


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.conftest import running

async def main(folder, text, policy):
    async with running(Path(folder), text, default=policy) as client:
        while not client.runtime.pool.states()["m"].is_ready:
            await asyncio.sleep(0.05)
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_gateway_takes_all_of_it_along(tmp_path: Path) -> None:
    vllm = program(tmp_path / "vllm", "VLLM_API_KEY", "has children")
    killed_once_ready(tmp_path, entry("owner/name", command=vllm.path), lambda: vllm.pids, within_s=10)


def killed_once_ready(folder: Path, text: str, processes: Any, within_s: float) -> None:
    command = [sys.executable, "-c", KILLED, str(folder / "g"), text, POLICY]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as gateway:
        try:
            assert gateway.stdout is not None
            assert gateway.stdout.readline() == "ready\n"
            pids = processes()
            assert len(pids) >= 2 and all(is_alive(pid) for pid in pids)
        finally:
            gateway.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in pids), seconds=within_s)


real = [pytest.mark.slow, pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


def on_the_real_one(test: Any) -> Any:
    for mark in real:
        test = mark(test)
    return test


def real_entry(core_model: Path) -> str:
    return entry(
        environments.vllm_weights(core_model),
        command=environments.vllm() / "bin" / "vllm",
        context=2048,
        slots=4,
        dtype="bfloat16",
        args="[--enforce-eager, --enable-auto-tool-choice, --tool-call-parser, hermes]",
        env="{VLLM_CPU_KVCACHE_SPACE: 1, HF_HUB_OFFLINE: 1}",
        timeouts="{first_token_s: 400, total_s: 400}",
    )


def processes_of(folder: Path) -> list[int]:
    """Those with the folder's name on their command line or a vLLM's in theirs: API server, EngineCore, trackers."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if process.name.isdigit() and int(process.name) != os.getpid():
            if str(folder).encode() in words or words.startswith(b"VLLM::"):
                found.append(int(process.name))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real_client(core_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    text = real_entry(core_model_path)
    async with running(tmp_path_factory.mktemp("real"), text, default=POLICY) as client:
        assert (await finished(client, "Hi", max_tokens=1)).status == 200
        yield client
        left = processes_of(environments.vllm())
        assert len(left) >= 3, "or the next line would prove nothing"
    assert not [pid for pid in left if is_alive(pid)]


async def finished(client: Client, content: str, **fields: Any) -> Response:
    return await client.start_chat(content, temperature=0, **fields).done(timeout_s=450)


@on_the_real_one
async def test_a_whole_answer_and_a_stream(real_client: Client) -> None:
    whole = await finished(real_client, "Say hello.", max_tokens=8)
    assert whole.status == 200 and whole.json["usage"]["completion_tokens"] == 8
    streamed = await finished(real_client, "Say hello.", max_tokens=8, stream=True)
    assert len(streamed.events) > 3 and streamed.text == whole.text
    assert streamed.gateway["usage"] == whole.gateway["usage"]


@on_the_real_one
async def test_four_requests_at_once(real_client: Client) -> None:
    said = await asyncio.gather(*(finished(real_client, f"Count to {n}.", max_tokens=12) for n in range(4, 9)))
    assert [one.status for one in said] == [200] * 5


@on_the_real_one
async def test_a_json_schema_is_kept_to(real_client: Client) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    said = await finished(real_client, "Name a city.", response_format=wanted, max_tokens=64)
    assert json.loads(said.text)["city"] in ("Oslo", "Rome")


@on_the_real_one
async def test_a_named_tool_is_called(real_client: Client) -> None:
    parameters = {"type": "object", "properties": {"at": {"enum": ["sky", "sea"]}}, "required": ["at"]}
    said = await finished(
        real_client,
        "Look at the sky.",
        tools=[{"type": "function", "function": {"name": "look", "parameters": parameters}}],
        tool_choice={"type": "function", "function": {"name": "look"}},
        max_tokens=64,
    )
    assert said.status == 200, said.error
    (call,) = said.json["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "look"
    json.loads(call["function"]["arguments"])  # that much vLLM sees to; what is in them is up to the model


@on_the_real_one
async def test_a_request_that_is_too_long_is_refused(real_client: Client) -> None:
    said = await finished(real_client, "word " * 2100)
    assert said.status == 400 and said.error["code"] == "context_length_exceeded"


@on_the_real_one
@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_leave_stop_the_work(real_client: Client, stream: bool) -> None:
    calls = [
        real_client.start_chat("Tell a long story.", stream=stream, max_tokens=1500, ignore_eos=True) for _ in range(4)
    ]
    async with asyncio.timeout(60):
        for call in calls:
            if stream:
                await call.wrote.wait()
        while real_client.runtime.pool.states()["m"].busy < 4:
            await asyncio.sleep(0.01)
    for call in calls:
        call.leave()
    await asyncio.wait({call.task for call in calls}, timeout=10)
    started = time.monotonic()
    assert (await finished(real_client, "Hello", max_tokens=1)).status == 200
    assert time.monotonic() - started < 10, "1500 tokens take a minute and more"


@pytest.mark.slow
@pytest.mark.model
def test_nothing_of_the_real_one_is_left_of_a_killed_gateway(core_model_path: Path, tmp_path: Path) -> None:
    folder = environments.vllm()
    others = processes_of(folder)  # the tests above have one of their own

    def own() -> list[int]:
        return sorted(set(processes_of(folder)) - set(others))

    killed_once_ready(tmp_path, real_entry(core_model_path), own, within_s=20)


@pytest.mark.slow
def test_sigterm_reaches_a_vllm_behind_a_script(tmp_path: Path) -> None:
    """The gateway's own end, by SIGTERM, is what happens most."""
    vllm: Program = program(tmp_path / "vllm", "VLLM_API_KEY", "has children")
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\n"{vllm.path}" "$@"\n')  # no exec: the shell stays in between
    wrapper.chmod(0o755)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "g"), entry("owner/name", command=wrapper), POLICY]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None and gateway.stdout.readline() == "ready\n"
        pids = vllm.pids
        gateway.send_signal(signal.SIGINT)
        gateway.wait(20)
    assert not any(is_alive(pid) for pid in pids)
