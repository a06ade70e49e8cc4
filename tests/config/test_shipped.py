"""The shipped YAML is the reference documentation: it loads, and means what its comments say."""

from pathlib import Path

import pytest

from gateway.config.build import build
from gateway.config.files import read_config
from gateway.responders.cascade import Cascade
from gateway.responders.hold import WHOLE
from gateway.runtime import Runtime
from tests.conftest import write_config

ROOT = Path(__file__).parents[2]


def test_without_a_key_the_default_policy_works_with_the_core_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = read_config(ROOT / "models.yaml", ROOT / "policies")
    gateway = build(config, Runtime(tmp_path))
    assert config.warnings == []
    assert "OPENAI_API_KEY" in gateway.models["expert"].why
    assert gateway.policies["auto"] is gateway.policies["default"]
    answer = gateway.policies["auto"].routes[-1].answer
    assert isinstance(answer, Cascade)
    assert [(tier.name, tier.hold) for tier in answer.tiers] == [("core", WHOLE)]


def test_with_the_key_set_the_expert_is_the_next_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    gateway = build(read_config(ROOT / "models.yaml", ROOT / "policies"), Runtime(tmp_path))
    answer = gateway.policies["auto"].routes[-1].answer
    assert isinstance(answer, Cascade)
    assert [(tier.name, tier.hold) for tier in answer.tiers] == [("core", WHOLE), ("expert", 0)]


def test_keys_of_subscriptions_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = "ed25519:" + "A" * 43 + "="
    models = f"""models: {{core: {{engine: scripted, replies: [{{text: hi}}]}}}}
shards:
  subscribe:
    - {{name: one, url: 'https://one.example.org', publisher: '{publisher}', api_key: '${{KEY_OF_ONE}}'}}
    - {{name: two, url: 'https://two.example.org', publisher: '{publisher}', api_key: '${{KEY_OF_TWO}}'}}
"""
    policy = "policy: default\nroutes: [{name: all, answer: {model: core}}]\n"
    monkeypatch.setenv("KEY_OF_ONE", "secret")
    monkeypatch.delenv("KEY_OF_TWO", raising=False)
    config = read_config(*write_config(tmp_path, models, default=policy))
    assert [(one.name, one.api_key) for one in config.settings.shards.subscribe] == [("one", "secret")]
    (warning,) = config.warnings
    assert (warning.key, warning.message) == ("shards.subscribe[1]", "is not followed") and "KEY_OF_TWO" in warning.hint
