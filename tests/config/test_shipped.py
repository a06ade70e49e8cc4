"""The shipped YAML is the reference documentation: it loads, and means what its comments say."""

from pathlib import Path

import pytest

from gateway.config.build import build
from gateway.config.files import read_config
from gateway.responders.cascade import Cascade
from gateway.responders.hold import WHOLE
from gateway.runtime import Runtime

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
