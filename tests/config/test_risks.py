"""What `gateway check` warns of, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.files import read_config
from gateway.errors import ConfigError
from tests.conftest import write_config

POLICY = "policy: default\nroutes: [{name: a, answer: {model: m}}]\n"
MODEL = "models:\n  m: {engine: scripted, replies: [{text: hi}]}\n"


def warned(folder: Path, text: str) -> list[str]:
    return [warning.key for warning in read_config(*write_config(folder, text, default=POLICY)).warnings]


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("trusted_proxies: [10.0.0.0/8, 0.0.0.0/0]", "trusted_proxies[1]"),
        ("trusted_proxies: ['::/0']", "trusted_proxies[0]"),
        ("cors_origins: ['*']", "cors_origins"),
        (
            "shards: {subscribe: [{name: a, url: 'http://other.example', publisher: "
            f"'ed25519:{'A' * 43}=', api_key: 'ogw_secret'}}]}}",
            "shards.subscribe[0]",
        ),
        (
            "telemetry: {otlp: 'http://collector.example:4318', headers: {authorization: Bearer secret}}",
            "telemetry.otlp",
        ),
        ("metrics_key: 0123456789abcdef", "metrics_key"),
    ],
)
def test_settings_that_let_others_in_or_read_along(tmp_path: Path, more: str, key: str) -> None:
    assert warned(tmp_path, f"{MODEL}{more}\n") == [key]


@pytest.mark.parametrize(
    ("entry", "keys"),
    [
        ("{engine: openai, base_url: 'http://10.1.2.3/v1', model: a, api_key: '${KEY}'}", ["models.m"]),
        ("{engine: openai, base_url: 'http://api.example/v1', model: a, headers: {x-api-key: a}}", ["models.m"]),
        ("{engine: attach, url: [{url: 'http://gpu.example:8000/v1', key: '${KEY}'}], model: a}", ["models.m"]),
        ("{engine: litellm, model: cohere/x, base_url: 'http://proxy.example', api_key: '${KEY}'}", ["models.m"]),
        ("{engine: vllm, model: a/b, args: [--trust-remote-code]}", ["models.m.args"]),
        ("{engine: openai, base_url: 'https://api.example/v1', model: a, api_key: '${KEY}'}", []),
        ("{engine: openai, base_url: 'http://127.0.0.1:9/v1', model: a, api_key: '${KEY}'}", []),
        ("{engine: openai, base_url: 'http+unix://%2Frun%2Fa.sock/v1', model: a, api_key: '${KEY}'}", []),
        ("{engine: openai, base_url: 'http://10.1.2.3/v1', model: a}", []),
    ],
)
def test_keys_that_go_over_the_network_in_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, keys: list[str]
) -> None:
    monkeypatch.setenv("KEY", "a secret of somebody's")
    assert warned(tmp_path, f"models:\n  m: {entry}\n") == keys


def test_what_is_usual_is_not_warned_of(tmp_path: Path) -> None:
    usual = "trusted_proxies: [127.0.0.1, 10.0.0.0/8, unix]\ncors_origins: ['https://*.example.org']\n"
    assert warned(tmp_path, MODEL + usual) == []


def test_a_metrics_key_whose_variable_is_not_set_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METRICS_KEY", raising=False)
    with pytest.raises(ConfigError, match="metrics_key: names variables that are not set: METRICS_KEY"):
        warned(tmp_path, f"{MODEL}metrics_key: ${{METRICS_KEY}}\n")
    monkeypatch.setenv("METRICS_KEY", "0123456789abcdef")
    assert warned(tmp_path, f"{MODEL}metrics_key: ${{METRICS_KEY}}\n") == []
