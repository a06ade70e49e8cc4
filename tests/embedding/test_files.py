"""`gateway pull` and the built-in model's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.embedding import minilm
from tests.conftest import write_config

POLICY = "policy: default\nroutes: [{name: rest, answer: {model: fake}}]\n"
FAKE = "{engine: scripted, replies: [{text: hi}]}"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    paths = [tmp_path / "model.onnx", tmp_path / "tokenizer.json"]
    for path in paths:
        path.write_text("not read here")
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(minilm, "FILES", tuple((f"file:{path}", None) for path in paths))
    return paths


def pull(folder: Path, *arguments: str, other: str = "other") -> Result:
    models, policies = write_config(folder, f"models: {{{other}: {FAKE}, fake: {FAKE}}}\n", default=POLICY)
    return CliRunner().invoke(cli.app, ["pull", *arguments, "--models", str(models), "--policies", str(policies)])


@pytest.mark.parametrize("names", [[], ["minilm"], ["all-MiniLM-L6-v2"]])
def test_they_are_fetched_with_all_others_or_by_name(tmp_path: Path, there: list[Path], names: list[str]) -> None:
    assert f"ok all-MiniLM-L6-v2: {there[0]}" in pull(tmp_path, *names).stdout
    (row,) = json.loads(pull(tmp_path, *names, "--list", "--json").stdout)["models"]
    assert row["state"] == "present" and [file["path"] for file in row["files"]] == [str(path) for path in there]


def test_another_models_name_does_not_mean_them(tmp_path: Path, there: list[Path]) -> None:
    assert "no model here has a file to fetch" in pull(tmp_path, "fake").stdout
    assert "no model here has a file to fetch" in pull(tmp_path, "minilm", other="minilm").stdout


def test_they_do_not_count_as_unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path))
    for file in minilm.files(tmp_path):
        file.folder.mkdir(parents=True)
        (file.folder / "stray").write_text("x")
    (tmp_path / "models" / "other").mkdir()
    listing = json.loads(pull(tmp_path / "config", "--list", "--json").stdout)
    assert [Path(unused["path"]).name for unused in listing["unused"]] == ["other"]
