"""`gateway init` in an empty folder: what it finds, what it writes, and what it will not do."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.errors import GatewayError
from gateway.setup.discover import Machine
from gateway.setup.disk import NewFile
from gateway.setup.init import Targets, init
from tests.conftest import Serve
from tests.setup.servers import fake_ollama, fake_providers
from tests.sources.gguf_files import write_gguf

SECRETS = {"OPENAI_API_KEY": "sk-secret-openai", "ANTHROPIC_API_KEY": "sk-ant-secret"}
Run = Callable[..., tuple[dict[str, Any], str]]


def machine(tmp_path: Path, **changes: Any) -> Machine:
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    return replace(Machine(here, tmp_path / "home", tmp_path / "gw", {}), **changes)


def run(machine: Machine, confirm: Callable[[NewFile], bool] | None = None, **options: Any) -> tuple[Any, str]:
    """What came back, and what people saw."""
    shown = io.StringIO()
    targets = Targets(machine.here / "models.yaml", machine.here / "policies")
    return init(machine, targets, Console(file=shown, width=200), confirm=confirm, **options), shown.getvalue()


@pytest.fixture
async def furnished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    """A machine with a file, a broken one, an Ollama and two keys, of which one is refused."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    async with fake_ollama() as ollama, fake_providers(openai=["gpt-5-mini"], anthropic=401) as (one, two, _):
        here = tmp_path / "here"
        write_gguf(here / "models" / "tiny-Q4_0.gguf")
        (here / "broken.gguf").write_bytes(b"GGUF")
        yield machine(tmp_path, environ=SECRETS, providers=(one,), litellm=(two,), local_servers={"ollama": ollama})


async def test_what_it_writes_passes_check_and_answers(
    furnished: Machine, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, shown = await asyncio.to_thread(run, furnished)
    here = furnished.here
    assert report["ok"] and report["asked"][0] == "core" and "gpt-5-mini" in report["asked"]
    options = ["--models", str(here / "models.yaml"), "--policies", str(here / "policies")]
    monkeypatch.setenv("GATEWAY_HOME", str(furnished.gateway_home))
    checked = CliRunner().invoke(cli.app, ["check", *options])
    assert checked.exit_code == 0 and "inactive" not in checked.stdout, checked.output
    models = (here / "models.yaml").read_text()
    without_core = models[: models.index("  core:")] + models[models.index("  qwen3:4b:") :]
    client = await serve(without_core)
    reply = await client.chat(model="qwen3:4b")
    assert reply.text == "ollama's qwen3:4b says hello"
    for expected in ("tiny-Q4_0.gguf", "broken.gguf is cut short", "ollama at", "OPENAI_API_KEY (openai): valid"):
        assert expected in shown
    assert "ANTHROPIC_API_KEY (anthropic): refused" in shown and "gateway serve" in shown


async def test_no_secret_is_shown_or_written(furnished: Machine) -> None:
    report, shown = await asyncio.to_thread(run, furnished)
    written = "".join(path.read_text() for path in furnished.here.rglob("*.yaml"))
    assert not any(value in shown + written + json.dumps(report) for value in SECRETS.values())
    assert "${OPENAI_API_KEY}" in written and "${ANTHROPIC_API_KEY}" in written


async def test_a_refused_key_is_written_but_no_route_uses_it(furnished: Machine) -> None:
    report, shown = await asyncio.to_thread(run, furnished)
    assert "claude-sonnet-4-5" in report["models"] and "claude-sonnet-4-5" not in report["asked"]
    assert "REFUSED" in (furnished.here / "models.yaml").read_text() and "no route uses it" in shown


@pytest.mark.model
def test_the_real_core_model_becomes_the_core(tmp_path: Path, core_model_path: Path) -> None:
    found = machine(tmp_path, searches=(core_model_path.parent,))
    report, _ = run(found)
    assert report["ok"] and report["core"] == "core"
    text = (found.here / "models.yaml").read_text()
    assert f"file:{core_model_path}" in text and "logprob" in (found.here / "policies/default.yaml").read_text()


def test_an_empty_machine_gets_the_shipped_core(tmp_path: Path) -> None:
    report, shown = run(machine(tmp_path))
    assert report["models"] == ["core", "expert"] and "nothing found" in shown


def test_without_a_terminal_nothing_is_overwritten(tmp_path: Path) -> None:
    found = machine(tmp_path)
    (found.here / "models.yaml").write_text("mine")
    with pytest.raises(GatewayError, match="--force"):
        run(found)
    assert os.listdir(found.here) == ["models.yaml"] and (found.here / "models.yaml").read_text() == "mine"


def test_force_keeps_the_old(tmp_path: Path) -> None:
    found = machine(tmp_path)
    (found.here / "models.yaml").write_text("mine")
    report, shown = run(found, overwrites=True)
    assert (found.here / "models.yaml.bak-1").read_text() == "mine" and "models.yaml.bak-1" in shown
    assert report["backups"] == {str(found.here / "models.yaml"): str(found.here / "models.yaml.bak-1")}
    again, _ = run(found, overwrites=True)
    assert not again["written"] and len(again["unchanged"]) == 4, "the same: no second copy"


def test_each_file_is_asked_about(tmp_path: Path) -> None:
    found = machine(tmp_path)
    run(found)
    (found.here / "models.yaml").write_text(
        "models:\n  core: {engine: scripted, replies: [{text: sk}], api_key: sk-old}\n"
    )
    policy = found.here / "policies" / "default.yaml"
    policy.write_text(policy.read_text().replace("auto", "other"))
    asked: list[str] = []

    def confirm(file: NewFile) -> bool:
        asked.append(file.path.name)
        return file.path == policy

    report, shown = run(found, confirm)
    assert asked == ["models.yaml", "default.yaml"]
    assert "left" in shown and "sk-old" not in shown and "+serves: [auto]" in shown
    assert report["written"] == [str(policy)] and report["declined"] == [str(found.here / "models.yaml")]
    assert not report["ok"] and "expert" in shown, "the policy names a model that the kept file has not"


def test_a_model_that_check_would_refuse_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of the future, say: what is written is what this version takes."""
    from gateway.setup import write

    found = machine(tmp_path)
    write_gguf(found.here / "tiny.gguf")
    write_gguf(found.here / "big.gguf", parameters=9 * 10**9)
    whole = write._file

    def with_fault(local: Any, *, is_core: bool) -> Any:
        remark, lines = whole(local, is_core=is_core)
        return remark, lines if is_core else [*lines, ("frobnicate", "1", "")]

    monkeypatch.setattr(write, "_file", with_fault)
    report, shown = run(found)
    assert report["models"] == ["core", "expert"] and "left out" in shown


def gateway(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "gw"))
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE", "GATEWAY_MODELS", "GATEWAY_POLICIES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "here"


def test_the_command_prints_json_alone(empty_home: Path) -> None:
    write_gguf(empty_home.parent / "elsewhere" / "x" / "tiny.gguf")
    result = gateway("init", "--json", "--no-probe", "--search", "../elsewhere")
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["ok"] and [Path(f["path"]).name for f in report["files"]] == ["tiny.gguf"]
    assert gateway("check").exit_code == 0
    refused = gateway("init", "--no-probe")
    assert isinstance(refused.exception, GatewayError) and "--force" in refused.exception.message
    assert gateway("init", "--no-probe", "--yes").exit_code == 0


def test_a_user_without_a_home_directory_is_told_what_to_set(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number which no account has."""

    def no_such_user(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_such_user)
    assert gateway("init", "--no-probe").exit_code == 0, "GATEWAY_HOME is enough"
    monkeypatch.delenv("GATEWAY_HOME")
    refused = gateway("check")
    assert isinstance(refused.exception, GatewayError) and "GATEWAY_HOME" in refused.exception.message


def test_other_places_can_be_named(empty_home: Path) -> None:
    assert gateway("init", "--no-probe", "--models", "a/m.yaml", "--policies", "a/p").exit_code == 0
    assert sorted(str(path.relative_to(empty_home)) for path in empty_home.rglob("*.yaml")) == [
        "a/m.yaml",
        "a/p/default.yaml",
    ]


def test_a_key_for_this_machine_is_not_taken_for_openais(tmp_path: Path) -> None:
    from gateway.providers import PROVIDERS

    environ = {"OPENAI_API_KEY": "unused", "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"}
    found = machine(tmp_path, environ=environ, providers=tuple(PROVIDERS.values()), probes=False)
    report, shown = run(found)
    assert report["keys"] == [] and "OPENAI_API_KEY is left out" in shown
