"""The product as a new user meets it: `gateway serve` in a process of its own, the real core model, the OpenAI SDK."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from typer.testing import CliRunner

from gateway import cli
from tests.made_once import give_tables

pytestmark = pytest.mark.model

GATEWAY = [sys.executable, "-m", "gateway"]
SCRIPT = """
replies:
  - {text: '{"city": "Paris"}', usage: {prompt_tokens: 20, completion_tokens: 5, total_tokens: 25}}
"""
POLICY = """
policy: default
routes:
  - name: schema
    when: {response_format: json_schema}
    answer:
      cascade:
        - {model: core, checks: [{one_of: [nothing that it would say]}]}
        - {model: second}
  - name: rest
    answer: {cascade: [{model: core, checks: [not_empty]}, {model: second}]}
"""
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "place", "schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@dataclass
class Served:
    url: str
    process: subprocess.Popen[str]
    home: Path
    folder: Path
    started_s: float

    def sdk(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, **options)  # type: ignore[arg-type]

    def engine_pid(self) -> int:
        """Process number of the core's engine."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*arguments: str, home: Path, folder: Path) -> str:
    """A command that ends."""
    environment = {**os.environ, "GATEWAY_HOME": str(home)}
    done = subprocess.run(
        [*GATEWAY, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_serving(folder: Path, home: Path, *arguments: str) -> Served:
    """With a home that is there already, or one that has an empty database."""
    if not home.exists():
        give_tables(home)
    port, started = free_port(), time.monotonic()
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*GATEWAY, "serve", "--port", str(port), *arguments],
            env={**os.environ, "GATEWAY_HOME": str(home)},
            cwd=folder,
            stdout=log,
            stderr=log,
            text=True,
        )
    url = f"http://127.0.0.1:{port}"
    while time.monotonic() < started + 60:
        if process.poll() is not None:
            raise AssertionError((folder / "serve.log").read_text())
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return Served(url, process, home, folder, time.monotonic() - started)
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    process.kill()
    raise AssertionError((folder / "serve.log").read_text())


def stop(served: Served) -> int:
    served.process.send_signal(signal.SIGTERM)
    return served.process.wait(30)


def is_gone(pid: int, within_s: float = 5.0) -> bool:
    give_up_at = time.monotonic() + within_s
    while time.monotonic() < give_up_at:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def scripted_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("scripted"), free_port()
    (folder / "script.yaml").write_text(SCRIPT)
    process = subprocess.Popen(
        [*GATEWAY, "scripted", "script.yaml", "--port", str(port)], cwd=folder, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        try:
            httpx.get(f"{url}/health")
            break
        except httpx.TransportError:
            time.sleep(0.05)
    yield url
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def write_config(folder: Path, model: Path, scripted_url: str) -> None:
    (folder / "policies").mkdir()
    (folder / "policies" / "default.yaml").write_text(POLICY)
    (folder / "models.yaml").write_text(
        f"""
models:
  core:
    engine: llama.cpp
    source: "file:{model}"
    context: 1024
    slots: 2
    threads: 1
    defaults: {{temperature: 0, max_tokens: 64}}
    price: {{}}
  second: {{engine: openai, base_url: "{scripted_url}/v1", model: up, price: {{input_usd_per_mtok: 1}}}}
  asleep: {{engine: openai, base_url: "https://example.com/v1", model: up, api_key: "${{NOT_SET_HERE}}"}}
"""
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, core_model_path: Path, scripted_url: str) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    write_config(folder, core_model_path, scripted_url)
    served = start_serving(folder, folder / "home")
    yield served
    engine = served.engine_pid()
    assert stop(served) == 0, "SIGTERM ends it in order"
    assert is_gone(engine)


def test_the_sdk_gets_a_whole_answer_with_usage(served: Served) -> None:
    messages = [{"role": "user", "content": "Write one sentence about the sea."}]
    answer = served.sdk().chat.completions.create(model="auto", messages=messages)  # type: ignore[arg-type]
    assert answer.model == "core"
    assert len(answer.choices[0].message.content or "") > 10
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 37, "as many as the model's template and tokenizer make of it"
    assert 5 < answer.usage.completion_tokens <= 64
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_sdk_gets_a_stream_with_usage(served: Served) -> None:
    messages = [{"role": "user", "content": "Write one sentence about the sea."}]
    whole = served.sdk().chat.completions.create(model="core", messages=messages)  # type: ignore[arg-type]
    chunks = list(
        served.sdk().chat.completions.create(
            model="core",
            messages=messages,  # type: ignore[arg-type]
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content, "temperature is 0"
    assert len(chunks) > 5
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("stream", [True, False])
def test_what_the_core_misses_the_second_model_answers(served: Served, stream: bool) -> None:
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": "Where?"}],
        "response_format": SCHEMA,
        "stream": stream,
    }
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200
    assert reply.headers["x-gateway-path"] == "core!one_of,second"
    assert reply.headers["x-gateway-model"] == "second"
    if stream:
        events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events) == '{"city": "Paris"}'
        assert {e["model"] for e in events} == {"second"}, "no byte of the draft"
        assert events[-1]["gateway"]["cost_usd"] == 20 / 1e6
    else:
        assert reply.json()["choices"][0]["message"]["content"] == '{"city": "Paris"}'
        assert reply.json()["usage"]["prompt_tokens"] == 20


def test_sdk_errors_have_their_classes(served: Served) -> None:
    sdk = served.sdk()
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}], temperature=9)
    assert wrong.value.param == "temperature"
    assert [model.id for model in sdk.models.list()] == ["default", "auto", "core", "second"]


def test_a_killed_engine_is_restarted_and_the_request_in_flight_moves_outward(served: Served) -> None:
    pid = served.engine_pid()
    os.kill(pid, signal.SIGSTOP)  # it will take the request and say nothing
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(httpx.post, f"{served.url}/v1/chat/completions", json=body, timeout=60)
        time.sleep(0.5)  # the request has reached the stopped engine by now
        os.kill(pid, signal.SIGKILL)
        in_flight = asked.result(60)
    assert in_flight.status_code == 200
    assert re.fullmatch(r"core!(bad_reply|unavailable),second", in_flight.headers["x-gateway-path"])
    messages = [{"role": "user", "content": "hi"}]
    answer = served.sdk().chat.completions.create(model="core", messages=messages, timeout=60)  # type: ignore[arg-type]
    assert answer.model == "core"
    assert served.engine_pid() != pid


@pytest.mark.skipif(sys.platform != "linux", reason="limits are read from /proc")
def test_neither_the_gateway_nor_an_engine_leaves_a_core(served: Served) -> None:
    for pid in (served.process.pid, served.engine_pid()):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size +0 ", limits)


def test_keys_made_by_the_command_count_within_two_seconds(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "models.yaml").write_text("models: {m: {engine: scripted, replies: [{text: hi}]}}\n")
    served = start_serving(tmp_path, tmp_path / "home")
    headers: dict[str, str] = {}
    answered = 0

    def status() -> int:
        nonlocal answered
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, headers=headers)
        answered += reply.status_code == 200
        return reply.status_code

    def soon(wanted: int) -> bool:
        give_up_at = time.monotonic() + 2
        while (found := status()) != wanted and time.monotonic() < give_up_at:
            time.sleep(0.05)
        return found == wanted

    def command(*arguments: str) -> str:
        """In this process, which is another than the server's."""
        done = CliRunner().invoke(cli.app, arguments, env={"GATEWAY_HOME": str(served.home)})
        assert done.exit_code == 0, done.output
        return done.stdout

    try:
        assert "no keys" in command("keys", "list")
        assert status() == 200
        key = json.loads(command("keys", "create", "--name", "me", "--json"))["key"]
        assert soon(401)
        headers["authorization"] = f"Bearer {key}"
        assert status() == 200
        assert '"name": "me"' in command("keys", "list", "--json")
        command("keys", "revoke", "me")
        assert soon(401)
    finally:
        assert stop(served) == 0
    total = json.loads(command("report", "--json"))["total"]
    assert total["requests"] == answered, "refused at the door, so not a request of a policy"


@pytest.mark.slow  # tests/test_reload.py does it within one process
def test_changed_files_and_sighup_reload_a_running_server(tmp_path: Path) -> None:
    def config(text: str) -> None:
        (tmp_path / "models.yaml").write_text(f"models:\n  m: {{engine: scripted, replies: [{{text: {text}}}]}}\n")

    def until(seen: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 15
        while not seen():
            assert time.monotonic() < give_up_at, (tmp_path / "serve.log").read_text()
            time.sleep(0.05)

    def says(text: str) -> bool:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        reply = httpx.post(f"{served.url}/v1/chat/completions", json=body)
        return bool(reply.json()["choices"][0]["message"]["content"] == text)

    (tmp_path / "policies").mkdir()
    config("one")
    served = start_serving(tmp_path, tmp_path / "home")
    try:
        assert says("one")
        config("two")
        until(lambda: says("two"))
        config("[")
        until(lambda: httpx.get(f"{served.url}/healthz").json()["config"]["status"] == "stale")
        assert says("two")
        config("three")
        until(lambda: says("three"))
        loaded_at = httpx.get(f"{served.url}/healthz").json()["config"]["loaded_at"]
        served.process.send_signal(signal.SIGHUP)
        until(lambda: httpx.get(f"{served.url}/healthz").json()["config"]["loaded_at"] > loaded_at)
        assert says("three")
    finally:
        assert stop(served) == 0


def test_the_banner_names_models_policies_and_a_line_to_try(served: Served) -> None:
    text = (served.folder / "serve.log").read_text()
    assert served.url in text
    assert re.search(r"core\s+llama.cpp, active", text)
    assert "asleep" in text and "NOT_SET_HERE" in text
    assert "default" in text and "curl " in text
    assert served.started_s < 45  # 3 on a machine that does nothing else


def test_a_taken_port_is_said_in_one_line(served: Served) -> None:
    port = served.url.rpartition(":")[2]
    done = subprocess.run(
        [*GATEWAY, "serve", "--port", port],
        env={**os.environ, "GATEWAY_HOME": str(served.home)},
        cwd=served.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr and "Traceback" not in done.stderr


def test_without_keys_other_addresses_are_refused(served: Served, tmp_path: Path) -> None:
    done = subprocess.run(
        [*GATEWAY, "serve", "--host", "0.0.0.0", "--port", "0"],
        env={**os.environ, "GATEWAY_HOME": str(tmp_path)},
        cwd=served.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "keys create" in done.stderr


def test_nothing_is_left_when_the_gateway_is_killed(tmp_path: Path, core_model_path: Path, scripted_url: str) -> None:
    write_config(tmp_path, core_model_path, scripted_url)
    served = start_serving(tmp_path, tmp_path / "home")
    engine = served.engine_pid()
    served.process.kill()
    served.process.wait(10)
    assert is_gone(engine)
