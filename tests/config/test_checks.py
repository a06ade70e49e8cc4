"""`checks:` of a policy: what is wrong with them is found at start, and what they name is bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.checks import CHECKS, Check
from gateway.checks.agreement import Agreement
from gateway.checks.judge import Judge
from gateway.config import plugins
from gateway.errors import ConfigError
from gateway.responders.cascade import Cascade
from gateway.responders.limited import Limited
from tests.conftest import build_from

MODELS = """
models:
  core: {engine: scripted, replies: [{text: hi}]}
  judge-1b: {engine: scripted, replies: [{text: "Yes"}]}
  away: {engine: openai, base_url: "https://example.org/v1", api_key: "${NOT_SET_ANYWHERE}", model: m}
"""


def policy(checks: str, more: str = "") -> str:
    return f"policy: default\nroutes: [{{name: a, answer: {{model: core, checks: {checks}{more}}}}}]\n"


def built(folder: Path, checks: str, more: str = "") -> list[Any]:
    gateway, _ = build_from(folder, MODELS, default=policy(checks, more))
    cascade = gateway.policies["default"].routes[0].answer
    assert isinstance(cascade, Cascade)
    return [*cascade.tiers[0].checks, cascade.tiers[0].responder]


def problem(folder: Path, checks: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build_from(folder, MODELS, default=policy(checks))
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_a_model_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    said = problem(tmp_path, "[{judge: {model: judge-2b}}]")
    assert "default.yaml:2: routes[0].answer.checks[0].judge.model: no model is called 'judge-2b'" in said
    assert "did you mean 'judge-1b'?" in said
    assert "no model is called 'cor'" in problem(tmp_path, "[{agreement: {model: cor}}]")


def test_a_check_is_bound_to_the_model_that_it_names(tmp_path: Path) -> None:
    gateway, _ = build_from(tmp_path, MODELS, default=policy("[{judge: judge-1b}]"))
    cascade = gateway.policies["default"].routes[0].answer
    assert isinstance(cascade, Cascade)
    (judge,) = cascade.tiers[0].checks
    assert isinstance(judge, Judge) and judge.asked is gateway.models["judge-1b"].responder


def test_agreement_is_bound_to_its_own_tier_with_its_limits(tmp_path: Path) -> None:
    check, responder = built(tmp_path, "[agreement]", ", slots: 2")
    assert isinstance(check, Agreement) and isinstance(responder, Limited)
    assert check.asked is responder


def test_an_inactive_model_is_no_fault_of_the_policy(tmp_path: Path) -> None:
    check, _ = built(tmp_path, "[{judge: away}]")
    assert check.asked is None


def test_what_costs_something_comes_last(tmp_path: Path) -> None:
    *checks, _ = built(tmp_path, "[{judge: judge-1b}, not_empty, agreement, {regex: a}]")
    assert [check.name for check in checks] == ["not_empty", "regex", "judge", "agreement"]


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ("[{judge: {above: 0.5}}]", "checks[0].judge.model: Field required"),
        ("[{judge: {model: judge-1b, abov: 0.5}}]", "unknown parameter 'abov' (did you mean 'above'?)"),
        ("[{http: 'ftp://example.org'}]", "wants an address that begins with http:// or https://"),
        ("[{python: 'nowhere:good'}]", "there is no nowhere.py beside the policy, and no module 'nowhere'"),
        ("[{code_runs: {tests: 'def ('}}]", "is not Python: "),
        ("[{asks_for_help: {phrases: []}}]", "asks_for_help needs phrases, a tool or both"),
        ("[judg]", "unknown check 'judg' (did you mean 'judge'?)"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, checks: str, message: str) -> None:
    assert message in problem(tmp_path, checks)


def test_a_whole_draft_is_held_for_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="judge must see the whole draft, and 'hold: 8' keeps a prefix"):
        build_from(tmp_path, MODELS, default=policy("[{judge: judge-1b}]", ", hold: 8"))


def test_every_check_says_whether_it_is_hard_or_soft_and_what_it_costs() -> None:
    plugins.load()
    ours: dict[str, type[Check]] = {
        n: kind for n, kind in CHECKS.items() if kind.__module__.startswith("gateway.checks")
    }
    soft = {name for name, kind in ours.items() if kind.soft}
    assert soft == {"agreement", "grounded", "judge", "logprob", "used_shard"}
    costly = {name for name, kind in ours.items() if kind.costly}
    assert costly == {"agreement", "code_runs", "http", "judge", "python"}
    assert {name for name, kind in ours.items() if kind.names_models} == {"agreement", "judge"}
