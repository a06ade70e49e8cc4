"""What `gateway connect` prints for each client is well-formed, names the server, and never holds the key."""

from __future__ import annotations

import ast
import io
import json
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from gateway import cli
from gateway.setup.clients import Server, clients
from gateway.setup.connect import connect
from gateway.setup.surfaces import SURFACES
from tests.test_serve import Served, start_serving, stop

ASKED_FOR = (
    "openai-python openai-node curl codex claude-code cline roo copilot zed jetbrains cursor opencode open-webui aider "
    "llm langchain llama-index ai-sdk"
).split()
MODELS = """
models:
  core: {engine: scripted, replies: [{text: "Hello there, friend"}]}
  broken: {engine: scripted, replies: [{error: {status: 500, message: "out of order"}}]}
  cut: {engine: scripted, replies: [{text: one two three, cut_after: 2}]}
"""
POLICY = "policy: default\nserves: [auto]\nroutes: [{name: all, answer: {model: core}}]\n"
OPEN = Server("http://10.0.0.5:8080", model="my-model")
LOCKED = Server("http://10.0.0.5:8080", model="my-model", key="sk-secret", wants_key=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "policies").mkdir()
    (folder / "models.yaml").write_text(MODELS)
    (folder / "policies" / "default.yaml").write_text(POLICY)
    served = start_serving(folder, folder / "home")
    yield served
    assert stop(served) == 0


def test_every_client_that_was_asked_for_is_there() -> None:
    assert set(clients()) == set(ASKED_FOR)
    assert all(set(client.surfaces) <= set(SURFACES) for client in clients().values())


@pytest.mark.parametrize("server", [OPEN, LOCKED], ids=["open", "locked"])
@pytest.mark.parametrize("name", ASKED_FOR)
def test_the_settings_name_server_and_model_and_no_key(name: str, server: Server) -> None:
    text = "\n".join(f"{snippet.where}\n{snippet.text}" for snippet in clients()[name].paste(server))
    assert server.root in text and "my-model" in text or name in ("jetbrains", "open-webui")
    assert server.root in text
    assert "sk-secret" not in text
    if server.wants_key:
        assert "KEY" in text or "API key" in text


@pytest.mark.parametrize("server", [OPEN, LOCKED], ids=["open", "locked"])
def test_files_are_what_their_clients_parse(server: Server, tmp_path: Path) -> None:
    def text(name: str, number: int = 0) -> str:
        return clients()[name].paste(server)[number].text

    codex = tomllib.loads(text("codex"))
    provider = codex["model_providers"][codex["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (server.base_url, "responses")
    assert provider.get("env_key") == ("GATEWAY_KEY" if server.wants_key else None)
    opencode = json.loads(text("opencode"))
    assert opencode["provider"]["onion"]["options"]["baseURL"] == server.base_url
    assert opencode["model"] == "onion/my-model"
    zed = json.loads(text("zed"))["language_models"]["openai_compatible"]["Onion Gateway"]
    assert zed["api_url"] == server.base_url and zed["available_models"][0]["name"] == "my-model"
    (copilot,) = json.loads(text("copilot"))
    assert (copilot["vendor"], copilot["apiType"]) == ("customendpoint", "chat-completions")
    assert copilot["models"][0]["id"] == "my-model"
    assert copilot["models"][0]["url"] == f"{server.base_url}/chat/completions"
    assert copilot["apiKey"].startswith("${input:") == server.wants_key
    (llm,) = yaml.safe_load(text("llm"))
    assert (llm["model_name"], llm["api_base"]) == ("my-model", server.base_url)
    for name in ("langchain", "llama-index"):
        ast.parse(text(name))
    if shutil.which("node"):
        script = tmp_path / "script.mjs"
        script.write_text(text("ai-sdk"))
        subprocess.run(["node", "--check", str(script)], check=True, capture_output=True, timeout=20)


SLOW_TO_START = {"ai-sdk", "langchain", "open-webui"}
TRIED = sorted(set(ASKED_FOR) - {"openai-python", "openai-node", "curl", "aider"} - SLOW_TO_START)


@pytest.mark.parametrize("name", [*TRIED, *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(SLOW_TO_START))])
def test_a_trial_tries_each_surface(served: Served, name: str) -> None:
    done = CliRunner().invoke(cli.app, ["connect", name, "--test", "--url", served.url, "--json"])
    report = json.loads(done.stdout)
    faults = [(seen["surface"], seen["error"]) for seen in report["surfaces"] if not seen["ok"]]
    assert (done.exit_code, faults, report["ok"]) == (0, [], True)
    assert [seen["surface"] for seen in report["surfaces"]] == list(clients()[name].surfaces)


def told(served: Served, name: str, model: str = "auto") -> tuple[bool, str]:
    console = Console(width=60, file=io.StringIO(), force_terminal=False)
    report = connect(clients()[name], Server(served.url, model), console, tests=True)
    return report["ok"], console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_of_all_surfaces(served: Served) -> None:
    is_ok, text = told(served, "curl")
    assert is_ok, text
    rows = [line.split() for line in text.splitlines() if line.startswith("ok ")]
    for surface in SURFACES.values():
        assert any(row[1:-1][: len(surface.name.split()) + 1] == [*surface.name.split(), surface.path] for row in rows)


@pytest.mark.parametrize(
    ("model", "says"),
    [("broken", "out of order"), ("cut", "broke"), ("nobody", "no model is called 'nobody'")],
)
def test_what_fails_is_said(served: Served, model: str, says: str) -> None:
    is_ok, text = told(served, "claude-code", model)
    assert not is_ok
    assert "failed" in text and says in text
