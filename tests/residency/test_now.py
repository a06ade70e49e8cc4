"""`gateway models`: of a running server, of models.yaml without one, and over time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from aiohttp import web
from rich.console import Console
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.errors import GatewayError
from gateway.residency.now import ask, show
from tests.conftest import write_config
from tests.engines.fake_programs import program
from tests.test_serve import Served, run, start_serving, stop

POLICY = "policy: default\nserves: [auto]\nroutes: [{name: all, answer: {model: m}}]\n"
NOBODY = "http://127.0.0.1:9"
MIB = 2**20


def models_yaml(folder: Path) -> str:
    (folder / "m.gguf").write_bytes(b"GGUF" + b"x" * 3 * MIB)
    llama_server = program(folder / "llama-server", "LLAMA_API_KEY")
    entry = f"engine: llama.cpp, server: llama-server, command: {llama_server.path}, context: 512"
    return f"""
    models:
      m: {{{entry}, source: "file:{folder}/m.gguf", residency: on_demand, good_at: [chat]}}
      gone: {{{entry}, source: "file:{folder}/gone.gguf", residency: on_demand, idle_ttl_s: 9}}
      fake: {{engine: scripted, replies: [{{text: hi}}]}}
      asleep: {{engine: openai, base_url: "https://example.com/v1", model: x, api_key: "${{NOT_SET_HERE}}"}}
    """


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "home"))
    for name in ("GATEWAY_URL", "GATEWAY_API_KEY", "GATEWAY_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli, "console", Console(width=200))
    models, policies = write_config(tmp_path, models_yaml(tmp_path), default=POLICY)
    return ["--models", str(models), "--policies", str(policies)]


def gateway(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["models", *arguments])


def test_without_a_server_it_says_so_and_shows_what_is_configured(config: list[str]) -> None:
    shown = gateway("--url", NOBODY, *config).stdout
    assert shown.startswith(f"no server answers at {NOBODY}: this is what models.yaml says\n")
    rows = {line.split()[0]: line for line in shown.splitlines()[2:]}
    assert "on_demand" in rows["m"] and "3 MiB" in rows["m"] and "chat" in rows["m"]
    assert "not here: gateway pull" in rows["gone"]
    assert "asleep is inactive: set NOT_SET_HERE" in shown
    told = json.loads(gateway("--json", "--url", NOBODY, *config).stdout)
    facts = {row["name"]: row for row in told["models"]}
    assert told["server"] is None and not facts["asleep"]["active"]
    assert facts["m"]["residency"] == {"kind": "on_demand", "is_present": True, "file_bytes": 3 * MIB + 4}
    assert facts["gone"]["residency"] == {"kind": "on_demand", "is_present": False, "file_bytes": 0}
    assert "residency" not in facts["fake"]


@pytest.fixture
def served(config: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    (tmp_path / "gone.gguf").write_bytes(b"MZ")
    served = start_serving(tmp_path, tmp_path / "home")
    monkeypatch.setenv("GATEWAY_URL", served.url)
    yield served
    if served.process.poll() is None:
        assert stop(served) == 0


def chat(served: Served, model: str, **headers: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "my secret"}]}
    return httpx.post(f"{served.url}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code


def test_a_running_server_tells_what_it_has_loaded_and_the_timeline_draws_it(
    served: Served, config: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert chat(served, "m") == 200
    assert chat(served, "gone") == 503
    told = json.loads(gateway("--json", *config).stdout)
    facts = {row["name"]: row for row in told["models"]}
    assert told["server"] == served.url and told["memory"].keys() == {"budget", "taken"}
    m = facts["m"]["residency"]
    assert (m["kind"], m["stage"], m["loads"], m["busy"], m["slots"]) == ("on_demand", "warm", 1, 0, 1)
    assert m["load_s"] > 0 and m["idle_ttl_s"] == 300
    shown = gateway(*config).stdout
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert "warm" in rows["m"] and "0/1" in rows["m"]
    assert "gone last error: its model file is not a GGUF file" in shown
    assert "inactive" in rows["asleep"] and "active" in rows["fake"]
    assert "MiB taken" in shown.splitlines()[-1]

    assert stop(served) == 0
    drawn = gateway("--timeline", "--hours", "1").stdout
    assert "ok models-timeline.svg" in drawn and "m      1" in drawn
    assert ElementTree.parse(tmp_path / "models-timeline.svg").getroot().tag.endswith("svg")
    data = json.loads(gateway("--timeline", "--json", "--out", "other.svg").stdout)
    life = {one["model"]: one for one in data["models"]}["m"]
    assert data["file"] == "other.svg" and (tmp_path / "other.svg").exists()
    assert [span["kind"] for span in life["spans"]][-3:] == ["loading", "loaded", "unloading"]
    assert life["loads"] == 1 and 0 < life["loaded_share"] < 1
    database = (tmp_path / "home" / "gateway.db").read_bytes()
    assert b"secret" not in database


@pytest.mark.slow
def test_a_server_with_keys_wants_one(served: Served, config: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    key = json.loads(run("keys", "create", "--name", "me", "--json", home=served.home, folder=served.folder))["key"]
    with httpx.Client(base_url=served.url) as client:
        while client.get("/v1/models").status_code != 401:  # within 2 s
            pass
    refused = gateway(*config).exception
    assert isinstance(refused, GatewayError) and "asks for a key: say --key or set GATEWAY_API_KEY" in refused.message
    wrong = gateway("--key", "ogw_wrong", *config).exception
    assert isinstance(wrong, GatewayError) and "wrong or revoked" in wrong.message and "ogw_" not in wrong.message
    for name in ("GATEWAY_API_KEY", "GATEWAY_KEY"):
        with monkeypatch.context() as variables:
            variables.setenv(name, key)
            assert json.loads(gateway("--json", *config).stdout)["server"] == served.url


def test_a_timeline_of_nothing_writes_nothing(config: list[str], tmp_path: Path) -> None:
    out = tmp_path / "none.svg"
    assert "nothing was recorded in the last 2 h" in gateway("--timeline", "--hours", "2", "--out", str(out)).stdout
    assert json.loads(gateway("--timeline", "--json", "--out", str(out)).stdout) == {"file": None, "models": []}
    assert not out.exists()


def test_bad_usage_exits_2(config: list[str]) -> None:
    for arguments in (("--url", "ftp://x"), ("--hours", "-1"), ("--hours", "many"), ("--url", "http://me:pw@host")):
        assert gateway(*arguments, *config).exit_code == 2


@pytest.fixture
async def stranger() -> AsyncIterator[str]:
    """Another server, at the address of a gateway."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "llama"}]})

    runner = web.AppRunner(web.Application())
    runner.app.router.add_route("GET", "/v1/models", answer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_another_server_is_no_gateway(stranger: str) -> None:
    with pytest.raises(GatewayError, match="is no Onion Gateway of this version: name it with --url"):
        await ask(stranger, None)
    with pytest.raises(GatewayError, match="status 404"):
        await ask(f"{stranger}/deeper", None)


def row(**facts: Any) -> dict[str, Any]:
    known = {
        "kind": "on_demand",
        "stage": "busy",
        "ram_bytes": 400 * MIB,
        "gpu_bytes": 0,
        "slots": 4,
        "busy": 3,
        "waiting": 2,
        "idle_s": None,
        "loads": 7,
        "load_s": 1.25,
        "restarts": 1,
        "last_error": None,
    }
    return {"name": "m", "engine": "llama.cpp", "active": True, "residency": {**known, **facts}}


def shown(*rows: dict[str, Any], gpu_bytes: int | None = None) -> str:
    taken = {"ram_bytes": 500 * MIB, "gpu_bytes": 0}
    memory = {"budget": {"ram_bytes": 1000 * MIB, "gpu_bytes": gpu_bytes}, "taken": taken}
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        show({"models": list(rows), "memory": memory}, console)
    return capture.get()


def test_the_table_has_what_an_operator_looks_for() -> None:
    head, line, memory = shown(row()).splitlines()
    assert head.split() == ["model", "engine", "stage", "MiB", "slots", "waiting", "idle", "load", "restarts"]
    assert line.split() == ["m", "llama.cpp", "busy", "400", "3/4", "2", "1.2", "s", "1"]
    assert memory == "memory: 500 MiB taken, the budget is 1000 MiB"


def test_what_a_model_would_take_is_marked_and_gpus_have_a_column_where_there_are_any() -> None:
    rows = (row(stage="dormant", busy=0, waiting=0), row(stage="warm", gpu_bytes=90 * MIB, idle_s=3600.0))
    head, dormant, warm, memory = shown(*rows).splitlines()
    assert "GPU MiB" in head and "~400" in dormant
    assert " 90 " in warm and "60 min" in warm
    assert memory.endswith("GPU memory: 0 MiB taken, no limit is set")


def test_markup_in_errors_is_only_text() -> None:
    assert "m last error: [red]it broke[/nothing]" in shown(row(last_error="[red]it broke[/nothing]"))
