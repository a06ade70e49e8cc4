"""Where several gateways share a database and a Redis: models.yaml, the environment, and what commands make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import replicas
from gateway.config.files import Config, read_config
from gateway.errors import ConfigError
from tests.conftest import write_config

MODELS = "models: {core: {engine: scripted, replies: [{text: a}]}}\n"
POLICY = "policy: default\nroutes: [{name: all, answer: {model: core}}]"


def read(folder: Path, keys: str = "") -> Config:
    return read_config(*write_config(folder, keys + MODELS, default=POLICY))


def test_without_a_word_there_is_neither(tmp_path: Path) -> None:
    settings = read(tmp_path).settings
    assert (settings.database_url, settings.redis_url) == (None, None)


def test_they_are_written_down_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://elsewhere/other")
    monkeypatch.setenv("GATEWAY_REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("DATABASE", "postgresql://me:secret@here/gateway")
    config = read(tmp_path, "database_url: ${DATABASE}\n")
    assert config.settings.database_url == "postgresql://me:secret@here/gateway", "the file goes before"
    assert config.settings.redis_url == "redis://elsewhere"
    assert config.warnings == [] and "postgresql://me:secret@here/gateway" in config.secrets


def test_a_variable_that_is_not_set_is_no_file_under_the_home(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models.yaml:1: database_url: names variables that are not set: NOBODY_SET"):
        read(tmp_path, "database_url: ${NOBODY_SET}\n")


@pytest.mark.parametrize(
    ("key", "value", "example"),
    [
        ("database_url", "mysql://here/a", "postgresql://user@host/database"),
        ("database_url", "here", "postgresql://user@host/database"),
        ("redis_url", "http://here", "redis://host:6379/0"),
    ],
)
def test_what_is_no_address_is_said_with_one(tmp_path: Path, key: str, value: str, example: str) -> None:
    with pytest.raises(ConfigError, match=f"models.yaml:1: {key}: .*wants an address such as {example}"):
        read(tmp_path, f"{key}: {value}\n")


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replicas.PACKAGES, "redis_url", ("no_such_package", "redis"))
    with pytest.raises(ConfigError, match=r"redis_url: wants the package 'no_such_package'.*onion-gateway\[redis\]"):
        read(tmp_path, "redis_url: redis://here\n")


def test_a_password_in_the_file_is_warned_of(tmp_path: Path) -> None:
    [warning] = read(tmp_path, "database_url: postgresql://me:secret@here/gateway\n").warnings
    assert "the password stands in the file" in str(warning) and "secret" not in str(warning)


def test_commands_use_the_database_that_the_models_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setenv("DATABASE", postgres_url)
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "home"))
    models, policies = write_config(tmp_path, "database_url: ${DATABASE}\n" + MODELS, default=POLICY)
    runner = CliRunner()
    made = runner.invoke(app, ["keys", "create", "--name", "app"], env={"GATEWAY_MODELS": str(models)})
    assert made.exit_code == 0, made.output
    listed = runner.invoke(app, ["keys", "list", "--json"], env={"GATEWAY_DATABASE_URL": postgres_url})
    assert '"name": "app"' in listed.output
    told = runner.invoke(app, ["report", "--models", str(models), "--policies", str(policies), "--json"])
    assert told.exit_code == 0, told.output
    assert not (tmp_path / "home").exists(), "no file was begun beside it"
