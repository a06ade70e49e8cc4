"""The commands that need no server: what they print, and how they exit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.errors import GatewayError
from tests.conftest import ROOT, write_config

MODELS = """
models:
  core: {engine: llama.cpp, source: "file:core.gguf", good_at: [chat], context: 512}
  fake: {engine: scripted, replies: [{text: hi}]}
  asleep: {engine: openai, base_url: "https://example.com/v1", model: x, api_key: "${NOT_SET_HERE}"}
"""
POLICY = """
policy: default
routes:
  - {name: legal, when: {keywords: [contract]}, answer: {model: fake}}
  - {name: rest, answer: {cascade: [{model: core, checks: [not_empty]}, {model: asleep}]}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GATEWAY_URL", "http://127.0.0.1:9")
    models, policies = write_config(tmp_path, MODELS, default=POLICY)
    return ["--models", str(models), "--policies", str(policies)]


def gateway(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def test_models_shows_who_is_active_and_why_not(config: list[str]) -> None:
    told = json.loads(gateway("models", "--json", *config).stdout)
    rows = {row["name"]: row for row in told["models"]}
    assert told["server"] is None
    assert rows["core"]["active"] and rows["core"]["context"] == 512
    assert not rows["asleep"]["active"] and "NOT_SET_HERE" in rows["asleep"]["why"]
    assert "inactive" in gateway("models", *config).stdout


def test_explain_shows_the_route_without_a_server(config: list[str]) -> None:
    found = json.loads(gateway("explain", "about my contract", "--json", *config).stdout)
    assert (found["route"], found["signals"][0]["value"]) == ("legal", True)
    assert "route rest" in gateway("explain", "hello", *config).stdout


def test_check_says_ok_and_who_is_inactive(config: list[str]) -> None:
    result = gateway("check", *config)
    assert result.exit_code == 0
    assert "ok 3 models, 1 policies" in result.stdout and "NOT_SET_HERE" in result.stdout
    assert json.loads(gateway("check", "--json", *config).stdout)["inactive"].keys() == {"asleep"}


def test_the_shipped_config_passes_check() -> None:
    result = gateway("check", "--models", str(ROOT / "models.yaml"), "--policies", str(ROOT / "policies"))
    assert result.exit_code == 0


def test_pull_says_what_is_missing(config: list[str]) -> None:
    assert isinstance(gateway("pull", "nobody", *config).exception, GatewayError)
    missing = gateway("pull", *config).exception
    assert isinstance(missing, GatewayError) and "core.gguf" in missing.message


def test_a_key_is_shown_once_and_kept_as_a_hash(config: list[str], tmp_path: Path) -> None:
    token = json.loads(gateway("keys", "create", "--name", "me", "--json").stdout)["key"]
    assert token.startswith("ogw_")
    listed = gateway("keys", "list").stdout
    assert "me" in listed and token not in listed
    assert all(token.encode() not in path.read_bytes() for path in (tmp_path / "home").iterdir() if path.is_file())
    assert isinstance(gateway("keys", "create", "--name", "me").exception, GatewayError), "the name is taken"
    assert gateway("keys", "revoke", "me").exit_code == 0
    assert isinstance(gateway("keys", "revoke", "me").exception, GatewayError)


def test_limits_of_a_key_are_set_lifted_and_shown(config: list[str]) -> None:
    gateway("keys", "create", "--name", "me", "--tenant", "acme", "--allow", "auto", "--allow", "core*")
    made = json.loads(gateway("keys", "list", "--json").stdout)[0]
    assert (made["tenant"], made["limits"]) == ("acme", {"allow": ["auto", "core*"]})
    said = (
        "--usd-per-day",
        "2.5",
        "--requests-per-minute",
        "60",
        "--expires",
        "2099-01-31",
        "--admin",
        "--allow",
        "none",
    )
    assert "requests per minute: 60; usd per day: 2.5; until 2099" in gateway("keys", "set", "me", *said).stdout
    assert gateway("keys", "set", "me", "--usd-per-day", "none", "--expires", "none").exit_code == 0
    shown = json.loads(gateway("keys", "list", "--json").stdout)[0]
    assert (shown["limits"], shown["expires"], shown["admin"]) == ({"requests_per_minute": 60}, None, True)
    assert shown["month"] == {"usd": 0.0, "tokens": 0, "requests": 0}
    assert "active, admin" in " ".join(gateway("keys", "list").stdout.split())
    rotated = json.loads(gateway("keys", "rotate", "me", "--grace", "24h", "--json").stdout)
    assert rotated["key"][-4:] == rotated["last4"] != shown["last4"]
    for wrong in (("--usd-per-day", "much"), ("--expires", "soon"), ("--priority", "highest"), ("--concurrent", "0")):
        assert isinstance(gateway("keys", "set", "me", *wrong).exception, GatewayError), wrong


def test_report_of_nothing_is_all_zero(config: list[str]) -> None:
    assert json.loads(gateway("report", "--json").stdout)["total"]["requests"] == 0
    assert "requests 0" in gateway("report").stdout


def test_bad_usage_exits_2(config: list[str]) -> None:
    for arguments in (
        ("frobnicate",),
        ("serve", "--port", "x"),
        ("serve", "--port", "70000"),
        ("keys", "create"),
        ("pull", "--what"),
    ):
        assert gateway(*arguments).exit_code == 2


def test_failures_are_one_line_and_exit_1(
    config: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gateway", "check", "--models", "nowhere.yaml", *config[2:]])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    printed = capsys.readouterr().err
    assert "nowhere.yaml" in printed and "Traceback" not in printed


def test_a_broken_script_is_named_by_line(config: list[str], tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text("replies:\n  - txt: hi\n")
    error = gateway("scripted", str(tmp_path / "script.yaml")).exception
    assert isinstance(error, GatewayError) and "script.yaml:2" in str(error)
