"""`gateway pull`: what it fetches and says, and what it lists without fetching."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.embedding import minilm
from gateway.errors import ConfigError, GatewayError
from gateway.sources import download
from tests.conftest import write_config
from tests.sources.servers import BODY, SHA256, FileServer, Hub, serving

POLICY = "policy: default\nroutes: [{name: rest, answer: {model: fake}}]\n"
FAKE = "fake: {engine: scripted, replies: [{text: hi}]}"
PARTS = [f"big-0000{number}-of-00002.gguf" for number in (1, 2)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSES_S", (0.0,) * 4)
    monkeypatch.setattr(minilm, "FILES", ())
    monkeypatch.setattr(cli, "errors", Console(stderr=True, width=200))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "home"))
    cdn = FileServer()
    hub = Hub(cdn)
    hub.files = {f"owner/repo/main/{name}": BODY for name in ("model.gguf", *PARTS)}
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with serving(cdn), serving(hub):
        yield hub


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pull(folder: Path, entries: str, *arguments: str) -> Result:
    models, policies = write_config(folder, f"models:\n  {FAKE}\n  {entries}\n", default=POLICY)
    return CliRunner().invoke(cli.app, ["pull", *arguments, "--models", str(models), "--policies", str(policies)])


def listed(folder: Path, entries: str, *names: str) -> dict[str, Any]:
    result = pull(folder, entries, *names, "--list", "--json")
    assert result.exit_code == 0, result.exception
    return dict(json.loads(result.stdout))


CORE = "core: {engine: llama.cpp, source: 'hf:owner/repo/model.gguf'}"
BIG = f"big: {{engine: llama.cpp, source: 'hf:owner/repo/{PARTS[0]}'}}"


def test_what_was_fetched_is_shown_with_its_sha256(hub: Hub, tmp_path: Path) -> None:
    result = pull(tmp_path, CORE)
    assert result.exit_code == 0
    assert f"core: sha256: {SHA256}  # as the server says" in result.stderr
    path = listed(tmp_path, CORE)["models"][0]["path"]
    assert f"ok core: {path}" in result.stdout and Path(path).read_bytes() == BODY
    again = pull(tmp_path, CORE)
    assert "sha256" not in again.stderr and len(hub.seen) == 1


def test_the_parts_of_a_split_model_are_fetched_one_by_one(hub: Hub, tmp_path: Path) -> None:
    result = pull(tmp_path, BIG)
    assert "fetching big 1/2" in result.stderr and "fetching big 2/2" in result.stderr
    assert f"big: sha256: [{SHA256}, {SHA256}]" in result.stderr
    row = listed(tmp_path, BIG)["models"][0]
    assert [Path(file["path"]).name for file in row["files"]] == PARTS
    assert (row["state"], row["percent"], row["size_bytes"], row["verified"]) == ("present", 100, 2 * len(BODY), True)
    pinned = BIG.replace("'}", f"', sha256: [{SHA256}, {SHA256}]}}")
    assert pull(tmp_path, pinned).exit_code == 0


def test_a_projector_is_a_file_of_its_model(hub: Hub, tmp_path: Path) -> None:
    hub.files["owner/repo/main/mmproj.gguf"] = BODY[::-1]
    eyes = CORE.replace("'}", "', mmproj: 'hf:owner/repo/mmproj.gguf'}")
    assert [file["state"] for file in listed(tmp_path, eyes)["models"][0]["files"]] == ["missing", "missing"]
    said = pull(tmp_path, eyes).stderr
    assert "fetching core 2/2" in said and f"core: sha256: {SHA256}" in said and "core: mmproj_sha256: " in said
    found = listed(tmp_path, eyes)
    assert [Path(file["path"]).read_bytes() for file in found["models"][0]["files"]] == [BODY, BODY[::-1]]
    assert found["models"][0]["files"][1]["source"] == "hf:owner/repo/mmproj.gguf" and found["unused"] == []


def test_models_without_files_have_nothing_to_fetch(hub: Hub, tmp_path: Path) -> None:
    assert "no model here has a file to fetch" in pull(tmp_path, "other: {engine: scripted, replies: []}").stdout
    assert "no model here has a file" in pull(tmp_path, "other: {engine: scripted, replies: []}", "--list").stdout


def test_json_tells_what_lies_there_after_fetching(hub: Hub, tmp_path: Path) -> None:
    result = pull(tmp_path, CORE, "--json")
    assert json.loads(result.stdout)["models"][0]["state"] == "present"


def test_a_missing_model_is_listed_and_not_fetched(hub: Hub, tmp_path: Path, no_network: None) -> None:
    row = listed(tmp_path, CORE)["models"][0]
    assert (row["model"], row["source"], row["state"]) == ("core", "hf:owner/repo/model.gguf", "missing")
    assert (row["percent"], row["size_bytes"], row["verified"]) == (0, 0, False)
    assert not (tmp_path / "home").exists()
    assert "core  missing" in pull(tmp_path, CORE, "--list").stdout
    assert listed(tmp_path, CORE, "fake")["models"] == []
    assert isinstance(pull(tmp_path, CORE, "nobody", "--list").exception, GatewayError)


def test_a_cut_download_is_listed_with_how_far_it_came(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cdn.cuts = [len(BODY) // 2] + [0] * 5
    assert isinstance(pull(tmp_path, CORE).exception, GatewayError)
    row = listed(tmp_path, CORE)["models"][0]
    assert (row["state"], row["percent"], row["size_bytes"]) == ("partial", 50, len(BODY) // 2)
    hub.cdn.cuts = [len(BODY), len(BODY) // 2] + [0] * 5
    assert isinstance(pull(tmp_path, BIG).exception, GatewayError)
    row = listed(tmp_path, BIG)["models"][0]
    assert (row["state"], row["percent"]) == ("partial", 75)
    shown = pull(tmp_path, BIG, "--list").stdout
    assert "big  partly fetched 75 %" in shown and f"{PARTS[0]}  present" in shown and f"{PARTS[1]}  partial" in shown


def test_a_changed_file_and_a_missing_own_one_are_at_fault(hub: Hub, tmp_path: Path) -> None:
    pull(tmp_path, CORE)
    os.utime(listed(tmp_path, CORE)["models"][0]["path"], ns=(0, 0))
    row = listed(tmp_path, CORE)["models"][0]
    assert row["state"] == "at fault" and "changed since it was verified" in row["why"] and not row["verified"]
    own = f"own: {{engine: llama.cpp, source: 'file:{tmp_path}/own.gguf'}}"
    row = listed(tmp_path, own)["models"][0]
    assert row["state"] == "at fault" and "there is no file at" in row["why"]


def test_an_own_file_is_verified_only_with_a_sha256(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "own.gguf").write_bytes(BODY)
    own = f"own: {{engine: llama.cpp, source: 'file:{tmp_path}/own.gguf'}}"
    row = listed(tmp_path, own)["models"][0]
    assert (row["state"], row["verified"], row["path"]) == ("present", False, f"{tmp_path}/own.gguf")
    assert "own  present  307.2 kB  sha256 not verified" in pull(tmp_path, own, "--list").stdout
    pinned = own.replace("'}", f"', sha256: {SHA256}}}")
    assert "never verified" in listed(tmp_path, pinned)["models"][0]["why"]
    pull(tmp_path, pinned)
    assert listed(tmp_path, pinned)["models"][0]["verified"]


def test_what_no_entry_names_is_listed_and_left_alone(hub: Hub, tmp_path: Path) -> None:
    pull(tmp_path, CORE)
    old = Path(listed(tmp_path, CORE)["models"][0]["path"])
    unused = listed(tmp_path, BIG)["unused"]
    assert [entry["path"] for entry in unused] == [str(old.parent)] and unused[0]["size_bytes"] > len(BODY)
    shown = pull(tmp_path, BIG, "--list").stdout
    assert "no entry of models.yaml names these:" in shown and str(old.parent) in shown
    assert old.is_file() and listed(tmp_path, BIG, "big")["unused"] == []


def test_an_inactive_model_is_listed_as_such(hub: Hub, tmp_path: Path) -> None:
    pull(tmp_path, CORE)
    asleep = "asleep: {engine: llama.cpp, source: 'https://${NOT_SET_HERE}@example.com/m.gguf'}"
    row = listed(tmp_path, asleep)["models"][0]
    assert (row["state"], row["source"]) == ("inactive", None) and "NOT_SET_HERE" in row["why"]
    assert "names these, unless one that is inactive now" in pull(tmp_path, asleep, "--list").stdout


def test_no_login_is_listed(hub: Hub, tmp_path: Path) -> None:
    secret = "core: {engine: llama.cpp, source: 'https://me:hunter2@example.com/m.gguf?key=hunter2'}"
    for arguments in (("--list",), ("--list", "--json")):
        assert "hunter2" not in pull(tmp_path, secret, *arguments).stdout


@pytest.mark.parametrize(
    ("sha256", "complaint"),
    [
        (SHA256, "the source has 2 parts: a list is wanted"),
        (f"[{SHA256}]", "there are 1 of them, but the source has 2 files"),
        ("12", "wants 64 hex digits in quotes"),
        ("[1, 2]", "wants 64 hex digits in quotes"),
    ],
)
def test_a_wrong_sha256_of_a_split_model_is_a_fault_of_that_key(
    hub: Hub, tmp_path: Path, sha256: str, complaint: str
) -> None:
    error = pull(tmp_path, BIG.replace("'}", f"', sha256: {sha256}}}")).exception
    assert isinstance(error, ConfigError)
    assert [problem.key for problem in error.problems] == ["models.big.sha256"]
    assert complaint in error.problems[0].message
