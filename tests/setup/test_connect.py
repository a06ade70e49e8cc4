"""`gateway connect` against a gateway that really runs, with the clients themselves where they are installed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.setup.clients import Client, Failure, Server, Trial, clients
from gateway.setup.clients.aider import Aider
from gateway.setup.clients.openai_node import OpenAINode
from gateway.setup.clients.openai_python import SCRIPT, OpenAIPython
from gateway.setup.clients.program import Ran, trials_of
from gateway.setup.connect import explain, root_of
from tests.setup.servers import silent_server
from tests.test_serve import Served, free_port, start_serving, stop

MODELS = """
models:
  core: {engine: scripted, replies: [{text: "Hello there, friend"}]}
  broken: {engine: scripted, replies: [{error: {status: 500, message: "out of order"}}]}
  cut: {engine: scripted, replies: [{text: one two three, cut_after: 2}]}
  slow: {engine: scripted, replies: [{text: late, first_token_ms: 60000}]}
  asleep: {engine: openai, base_url: "https://example.com/v1", model: x, api_key: "${NOT_SET_HERE}"}
"""
POLICY = "policy: default\nroutes: [{name: all, answer: {model: core}}]\n"


def write(folder: Path) -> Path:
    (folder / "policies").mkdir()
    (folder / "models.yaml").write_text(MODELS)
    (folder / "policies" / "default.yaml").write_text(POLICY)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = write(tmp_path_factory.mktemp("connect"))
    served = start_serving(folder, folder / "home")
    yield served
    assert stop(served) == 0


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """One that asks for a key, and the key."""
    folder = write(tmp_path_factory.mktemp("locked"))
    environ = {"GATEWAY_HOME": str(folder / "home")}
    made = CliRunner().invoke(cli.app, ["keys", "create", "--name", "me", "--json"], env=environ).stdout
    served = start_serving(folder, folder / "home")
    yield served, json.loads(made)["key"]
    assert stop(served) == 0


def connect(served: Served | str, client: str, *arguments: str, key: str = "") -> Result:
    url = served if isinstance(served, str) else served.url
    return CliRunner().invoke(cli.app, ["connect", client, "--url", url, *arguments], env={"GATEWAY_KEY": key})


@pytest.mark.parametrize("client", ["openai-python", "openai-node", "curl", "aider"])
def test_each_client_gets_a_whole_and_a_streamed_answer(served: Served, client: str) -> None:
    report = json.loads(connect(served, client, "--test", "--json").stdout)
    assert report["ok"] and [trial["stream"] for trial in report["trials"]] == [False, True]
    assert {trial["text"] for trial in report["trials"]} == {"Hello there, friend"}
    if not (client == "aider" and shutil.which("aider")):
        assert (
            {trial["model"] for trial in report["trials"]} == {trial["path"] for trial in report["trials"]} == {"core"}
        )
    assert report["trials"][1]["first_s"] is None or report["trials"][1]["first_s"] <= report["trials"][1]["whole_s"]
    if client == "openai-python" or (client == "curl" and shutil.which("curl")):
        own = client.removesuffix("-python")
        assert all(trial["by"].startswith(f"{own} ") for trial in report["trials"]), "the client itself"


def test_where_a_client_is_missing_its_request_is_sent_and_that_is_said(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    server = Server(served.url)
    without: tuple[Client, ...] = (OpenAIPython(pythons=()), OpenAINode(tmp_path), Aider(), clients()["curl"])
    for client in without:
        for trial in asyncio.run(_trials(client, server)):
            assert trial.failure is None and trial.text == "Hello there, friend" and trial.answered_by == "core"
            assert trial.by.startswith("the request of")


async def _trials(client: Client, server: Server) -> list[Trial]:
    return list(await client.trials(server))


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on PATH")
def test_a_package_that_node_finds_is_used(served: Served, tmp_path: Path) -> None:
    """A stand-in with the package's shape: what is looked at is how it is found, run and reported."""
    import asyncio

    package = tmp_path / "node_modules" / "openai"
    package.mkdir(parents=True)
    (package / "package.json").write_text(
        '{"name": "openai", "type": "module", "exports": {".": "./i.js", "./*": "./v.js"}}'
    )
    (package / "v.js").write_text('export const VERSION = "0.0.1";')
    (package / "i.js").write_text(
        """
        export default class OpenAI {
          static APIConnectionTimeoutError = class extends Error {};
          constructor(options) { this.options = options; }
          chat = { completions: { create: (body) => ({ withResponse: async () => {
            const headers = { 'content-type': 'application/json', authorization: `Bearer ${this.options.apiKey}` };
            const url = `${this.options.baseURL}/chat/completions`;
            const sent = JSON.stringify({ ...body, stream: false });
            const response = await fetch(url, { method: 'POST', headers, body: sent });
            const whole = await response.json();
            if (!response.ok) throw Object.assign(new Error('no'), { status: response.status, error: whole.error });
            const chunks = async function* () { yield { choices: [{ delta: whole.choices[0].message }] }; };
            return { data: body.stream ? chunks() : whole, response };
          } }) } };
        }
        """
    )
    good, bad = (asyncio.run(_trials(OpenAINode(tmp_path), Server(served.url, model))) for model in ("auto", "broken"))
    assert [(trial.text, trial.answered_by, trial.failure) for trial in good] == [
        ("Hello there, friend", "core", None)
    ] * 2
    assert "openai 0.0.1 on Node" in good[0].by
    assert {trial.failure.status for trial in bad if trial.failure} == {500}


def test_what_is_pasted_works(served: Served, tmp_path: Path) -> None:
    report = json.loads(connect(served, "openai-python", "--json").stdout)
    code = report["snippets"][1]["text"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "Hello there, friend", done.stderr
    if shutil.which("curl"):
        line = json.loads(connect(served, "curl", "--json").stdout)["snippets"][0]["text"]
        assert "[DONE]" in subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60).stdout


def test_aiders_file_is_yaml_with_its_option_names(served: Served) -> None:
    snippet = json.loads(connect(served, "aider", "--json").stdout)["snippets"][0]
    assert snippet["where"].startswith(".aider.conf.yml")
    assert yaml.safe_load(snippet["text"]) == {
        "model": "openai/auto",
        "openai-api-base": f"{served.url}/v1",
        "openai-api-key": "unused",
        "show-model-warnings": False,
    }


@pytest.mark.parametrize("client", [pytest.param("openai-python", marks=pytest.mark.slow), "curl", "aider"])
def test_a_locked_server_is_tried_with_the_key_which_is_never_shown(locked: tuple[Served, str], client: str) -> None:
    served, key = locked
    if client == "aider" and shutil.which("aider"):
        pytest.skip("slow, and tried above")
    result = connect(served, client, "--test", key=key)
    assert result.exit_code == 0 and "Hello there" in result.stdout
    assert key not in result.output and "GATEWAY_KEY" in result.stdout
    if client == "curl":  # how the key is given, and how the result is told, is the same for all
        as_json = connect(served, client, "--test", "--json", "--key", key)
        assert json.loads(as_json.stdout)["ok"] and key not in as_json.output


def test_a_key_that_is_missing_or_wrong_is_explained(locked: tuple[Served, str]) -> None:
    served, _ = locked
    missing, wrong = connect(served, "curl", "--test"), connect(served, "curl", "--test", key="ogw_wrong")
    assert missing.exit_code == wrong.exit_code == 1
    assert "gateway keys create" in missing.output and "wrong or revoked" in wrong.output
    assert connect(served, "curl").exit_code == 0, "without --test it only says what to paste"


FAULTS = {
    "nobody": "no model is called 'nobody'; there are: default, auto, core",
    "asleep": "'asleep' is inactive: set NOT_SET_HERE",
    "broken": "out of order",
    "cut": "failed streamed",
}


@pytest.mark.parametrize(("model", "said"), FAULTS.items())
def test_failures_are_explained(served: Served, model: str, said: str) -> None:
    result = connect(served, "curl", "--test", "--model", model, "--timeout", "20")
    assert result.exit_code == 1 and said in result.output, result.output
    assert "Traceback" not in result.output


def test_a_model_that_is_too_slow_is_said_so(served: Served) -> None:
    result = connect(served, "claude-code", "--test", "--model", "slow", "--timeout", "1")
    assert result.exit_code == 1 and result.output.count("no answer within 1 s") == 2, result.output
    for trial in asyncio.run(_trials(clients()["curl"], Server(served.url, "slow", timeout_s=0.3))):
        assert trial.failure is not None and "no answer within 0.3 s" in trial.failure.message


@pytest.mark.parametrize(
    ("model", "said"),
    [("broken", "out of order"), ("cut", "broke the connection off"), ("slow", "no answer within 0.3 s")],
)
def test_failures_are_told_by_the_sdk_in_python(
    served: Served, model: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program that `connect` runs, run here: a Python of its own takes seconds to import the package."""
    server = Server(served.url, model, timeout_s=0.3 if model == "slow" else 20)
    monkeypatch.setenv("GATEWAY_KEY", server.sent_key)
    monkeypatch.setattr(sys, "argv", ["-c", server.base_url, model, f"{server.timeout_s:g}", "hello"])
    exec(SCRIPT, {})
    whole, streamed = trials_of(Ran(0, capsys.readouterr().out, ""), "openai", server)
    assert streamed.failure is not None and said in explain(streamed.failure, server)
    assert whole.failure is not None or model == "cut"


def test_where_nothing_listens_serve_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = connect(url, "curl", "--test")
    assert result.exit_code == 1 and "gateway serve" in result.output
    assert connect(url, "curl").exit_code == 0
    report = json.loads(connect(url, "curl", "--test", "--json").stdout)
    assert not report["ok"] and url in report["fault"]


async def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.setup.connect import look

    monkeypatch.setattr("gateway.setup.connect.LOOK_S", 0.3)
    async with silent_server() as url:
        standing = await look(Server(url.removesuffix("/v1")))
    assert standing.fault is not None and "has not answered" in standing.fault


def test_bad_usage_exits_2() -> None:
    unknown = connect("http://127.0.0.1:1", "emacs")
    assert unknown.exit_code == 2 and all(name in unknown.output for name in clients())
    for url in ("ftp://x", "http://", "http://me:pw@host", "http://x:port", "http://x/?a=b"):
        assert connect(url, "curl").exit_code == 2


@pytest.mark.parametrize("given", ["127.0.0.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1/"])
def test_root_and_base_url_both_do(given: str) -> None:
    assert root_of(given) == "http://127.0.0.1:8080"
    assert root_of("https://x.example/gw/v1") == "https://x.example/gw"


def test_an_explanation_holds_no_key() -> None:
    server = replace(Server("http://x"), key="ogw_secret")
    assert "secret" not in explain(Failure("bad key ogw_secret\x1b[2J", 400), server)


def test_the_programs_get_the_key_by_environment_or_pipe(locked: tuple[Served, str], tmp_path: Path) -> None:
    """A program's arguments are there for all to see."""
    served, key = locked
    seen = tmp_path / "seen"
    curl = tmp_path / "curl"
    curl.write_text(f'#!/bin/sh\necho "$@" >> {seen}\nexec {shutil.which("curl") or "/bin/false"} "$@"\n')
    curl.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GATEWAY_KEY": key}
    CliRunner().invoke(cli.app, ["connect", "curl", "--url", served.url, "--test"], env=environ)
    assert seen.read_text() and key not in seen.read_text()
