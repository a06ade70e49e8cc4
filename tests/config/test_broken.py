"""Broken configs: each fault is named with file, line and key, and what to write instead."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.errors import ConfigError, Problem
from gateway.runtime import Runtime
from tests.conftest import write_config

MODELS = """\
models:
  core:
    engine: scripted
    replies: [{text: hi}]
  expert:
    engine: openai
    base_url: https://api.example.com/v1
    api_key: ${NOT_SET_ANYWHERE}
    model: big
"""
POLICY = """\
policy: default
routes:
  - name: rest
    answer: {model: core}
"""


def problems(folder: Path, models: str = MODELS, **policies: str) -> list[Problem]:
    paths = write_config(folder, models, **policies)
    try:
        build(read_config(*paths), Runtime(folder / "home"))
    except ConfigError as exc:
        return list(exc.problems)
    return []


def policy(answer: str, when: str = "") -> str:
    return f"policy: default\nroutes:\n  - name: rest\n    {when}\n    answer: {answer}\n"


def models(entry: str) -> str:
    return "models:\n  core:\n" + textwrap.indent(textwrap.dedent(entry), "    ")


BROKEN_MODELS = {
    "unknown key": (models("engine: llama.cpp\nsource: file:x.gguf\ncontxt: 8"), 5, "models.core.contxt", "'context'"),
    "unknown engine": (models("engine: lama.cpp\nsource: file:x.gguf"), 3, "models.core.engine", "'llama.cpp'"),
    "no engine": (models("source: file:x.gguf"), 2, "models.core", "'engine' is missing"),
    "missing key": (models("engine: llama.cpp"), 2, "models.core", "'source' is missing"),
    "wrong type": (models("engine: llama.cpp\nsource: file:x.gguf\nslots: many"), 5, "models.core.slots", "integer"),
    "two energies": (
        models("engine: scripted\nreplies: [{text: hi}]\nenergy: {watts: 5, joules_per_token: 1}"),
        5,
        "models.core.energy",
        "exactly one of 'watts' and 'joules_per_token'",
    ),
    "energy of nothing": (
        models("engine: scripted\nreplies: [{text: hi}]\nenergy: {watts: 0}"),
        5,
        "models.core.energy.watts",
        "greater than 0",
    ),
    "out of range": (models("engine: llama.cpp\nsource: file:x.gguf\nslots: 0"), 5, "models.core.slots", "greater"),
    "bad source": (models("engine: llama.cpp\nsource: ftp://x/y"), 4, "models.core.source", "pypi:"),
    "bad sha256": (models("engine: llama.cpp\nsource: file:x\nsha256: abc"), 5, "models.core.sha256", ""),
    "not there yet": (
        models("engine: llama.cpp\nsource: file:x\nresidency: sometimes"),
        5,
        "models.core.residency",
        "always",
    ),
    "bad url": (models("engine: openai\nbase_url: api.example.com\nmodel: x"), 4, "models.core.base_url", ""),
    "bad price key": (
        models("engine: openai\nbase_url: http://x\nmodel: x\nprice: {input: 1}"),
        6,
        "models.core.price.input",
        "input_usd_per_mtok",
    ),
    "bad script": (models("engine: scripted\nreplies: [{txt: hi}]"), 4, "models.core.replies[0].txt", "'text'"),
    "no script": (models("engine: scripted"), 2, "models.core", "'replies'"),
    "top-level key": (MODELS + "memory: 80%\n", 10, "memory", ""),
    "key twice": (MODELS + "  core: {engine: scripted}\n", 10, "models.core", "twice"),
    "no models": ("models: {}\n", 1, "models", ""),
    "not YAML": ("models: {\n  core: [\n", 3, "", "not YAML"),
    "not a mapping": ("- a\n", 0, "", "mapping"),
    "empty": ("", 0, "", "mapping"),
    "null models": ("models:\n", 1, "models", "dictionary"),
    "null entry": ("models:\n  core:\n", 2, "models.core", "dictionary"),
    "a list of models": ("models: [a, b]\n", 1, "models", "dictionary"),
    "refers to itself": ("models: &a\n  core: *a\n", 1, "models.core", "itself"),
    "no such date": (
        models("engine: openai\nmodel: 2024-13-45\nbase_url: http://x"),
        4,
        "models.core.model",
        "timestamp",
    ),
    "no such number": (models("engine: openai\nmodel: !!int abc\nbase_url: http://x"), 4, "models.core.model", "int"),
    "too deep": ("models: " + "[" * 3000 + "]" * 3000, 0, "", "too deep"),
    "control character": ("models: {a: \x01}\n", 0, "", "not YAML"),
    "endless limit": (MODELS + "body_limit_mb: .inf\n", 10, "body_limit_mb", "finite"),
    "no JSON": (
        models("engine: scripted\nreplies: [{text: a}]\ndefaults: {x: !!binary aGk=}"),
        5,
        "models.core.defaults",
        "JSON",
    ),
    "several answers": (
        models("engine: scripted\nreplies: [{text: a}]\ndefaults: {n: 2}"),
        5,
        "models.core.defaults",
        "'n'",
    ),
    "bad port": (models("engine: openai\nbase_url: http://x:99999\nmodel: m"), 4, "models.core.base_url", "address"),
    "bad host": (models("engine: openai\nbase_url: http://a..b\nmodel: m"), 4, "models.core.base_url", "address"),
    "bad header": (
        models('engine: openai\nbase_url: http://x\nmodel: m\nheaders: {x: "a\\nb"}'),
        6,
        "models.core.headers.x",
        "",
    ),
}


@pytest.mark.parametrize(("text", "line", "key", "says"), BROKEN_MODELS.values(), ids=BROKEN_MODELS.keys())
def test_faults_in_models_yaml(tmp_path: Path, text: str, line: int, key: str, says: str) -> None:
    found = problems(tmp_path, text, default="policy: p\nroutes: [{name: a, answer: {model: core}}]\n")
    first = next(problem for problem in found if problem.file.endswith("models.yaml"))
    assert (first.line, first.key) == (line, key)
    assert says in str(first)


BROKEN_POLICIES = {
    "unknown key": (POLICY + "    anser: {}\n", 5, "routes[0].anser", "'answer'"),
    "unknown model": (policy("{model: cor}"), 5, "routes[0].answer.model", "'core'"),
    "two kinds": (policy("{model: core, cascade: [{model: core}]}"), 5, "routes[0].answer", "exactly one"),
    "no kind": (policy("{checks: [not_empty]}"), 5, "routes[0].answer", "exactly one"),
    "kind of a later day": (policy("{swarm: [core]}"), 5, "routes[0].answer.swarm", "unknown key"),
    "unknown check": (policy("{model: core, checks: [not_emty]}"), 5, "routes[0].answer.checks[0]", "'not_empty'"),
    "unknown check parameter": (
        policy("{model: core, checks: [{logprob: {mean_abov: -1}}]}"),
        5,
        "routes[0].answer.checks[0].logprob.mean_abov",
        "'mean_above'",
    ),
    "bad regex": (policy('{model: core, checks: [{regex: "("}]}'), 5, "routes[0].answer.checks[0].regex.pattern", ""),
    "parameters for none": (
        policy("{model: core, checks: [{not_empty: 5}]}"),
        5,
        "routes[0].answer.checks[0]",
        "no parameters",
    ),
    "prefix for a whole check": (
        policy("{model: core, hold: 16, checks: [json_schema]}"),
        5,
        "routes[0].answer.hold",
        "json_schema must see the whole draft",
    ),
    "hold without checks": (policy("{model: core, hold: 16}"), 5, "routes[0].answer", "hold"),
    "unknown signal": (policy("{model: core}", "when: {hass: image}"), 4, "routes[0].when.hass", "'has'"),
    "unknown value": (policy("{model: core}", "when: {has: imag}"), 4, "routes[0].when.has", "'image'"),
    "unknown comparison": (
        policy("{model: core}", "when: {input_tokens: {beneath: 5}}"),
        4,
        "routes[0].when.input_tokens.beneath",
        "below",
    ),
    "not a number": (
        policy("{model: core}", "when: {input_tokens: {below: x}}"),
        4,
        "routes[0].when.input_tokens.below",
        "number",
    ),
    "no number to compare": (
        policy("{model: core}", "when: {language: {above: 1}}"),
        4,
        "routes[0].when.language.above",
        "not a number",
    ),
    "flag": (policy("{model: core}", "when: {background: maybe}"), 4, "routes[0].when.background", "true or false"),
    "empty when": (policy("{model: core}", "when:"), 4, "routes[0].when", "wants signals"),
    "not any number": (
        policy("{model: core}", "when: {turns: {above: .nan}}"),
        4,
        "routes[0].when.turns.above",
        "number",
    ),
    "yes is no text": (policy("{model: core}", "when: {metadata: {a: yes}}"), 4, "routes[0].when.metadata.a", "text"),
    "no such language": (policy("{model: core}", "when: {language: english}"), 4, "routes[0].when.language", "english"),
    "empty all": (policy("{model: core}", "when: {all: []}"), 4, "routes[0].when.all", "list"),
    "bad rule regex": (policy("{model: core}", "when: {regex: '['}"), 4, "routes[0].when.regex", "regular expression"),
    "wrong type": (policy("{model: core, timeout_s: soon}"), 5, "routes[0].answer.timeout_s", "number"),
    "names a model": ("policy: core\nroutes: [{name: a, answer: {model: core}}]\n", 1, "policy", "name of a model"),
    "route twice": (POLICY + "  - {name: rest, answer: {model: core}}\n", 5, "routes[1].name", "two routes"),
    "deep in a cascade": (
        "policy: p\nroutes:\n  - name: a\n    answer:\n      cascade:\n"
        "        - {model: core}\n        - modle: core\n",
        7,
        "routes[0].answer.cascade[1].modle",
        "'model'",
    ),
}


@pytest.mark.parametrize(("text", "line", "key", "says"), BROKEN_POLICIES.values(), ids=BROKEN_POLICIES.keys())
def test_faults_in_policies(tmp_path: Path, text: str, line: int, key: str, says: str) -> None:
    found = problems(tmp_path, default=text)
    assert found, "no fault was found"
    assert found[0].file.endswith("policies/default.yaml")
    assert (found[0].line, found[0].key) == (line, key)
    assert says in str(found[0])


def test_two_policies_may_not_share_a_name(tmp_path: Path) -> None:
    one = "policy: one\nserves: [fast]\nroutes: [{name: a, answer: {model: core}}]\n"
    found = problems(tmp_path, one=one, two=one.replace("one", "two"))
    assert [(p.key, "taken by policy 'one'" in p.message) for p in found] == [("serves", True)]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, MODELS + "extra: 1\n", default=POLICY + "    anser: 1\n    more: 2\n")
    assert {p.key for p in found} == {"extra", "routes[0].anser", "routes[0].more"}


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "no.yaml", tmp_path)
    (tmp_path / "models.yaml").write_text(MODELS)
    with pytest.raises(ConfigError, match="not a folder"):
        read_config(tmp_path / "models.yaml", tmp_path / "none")


def test_check_prints_file_line_key_and_exits_1(tmp_path: Path) -> None:
    paths = write_config(tmp_path, MODELS, default=policy("{model: cor}"))
    result = CliRunner().invoke(app, ["check", "--models", str(paths[0]), "--policies", str(paths[1]), "--json"])
    assert result.exit_code == 1
    assert '"line": 5' in result.output and "routes[0].answer.model" in result.output


def test_an_unset_variable_makes_the_entry_inactive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_config(tmp_path, MODELS, default=POLICY)
    config = read_config(*paths)
    assert config.models["expert"].spec is None
    assert "NOT_SET_ANYWHERE" in config.models["expert"].why
    monkeypatch.setenv("NOT_SET_ANYWHERE", "sk-1")
    spec = read_config(*paths).models["expert"].spec
    assert spec is not None and spec.api_key == "sk-1"  # type: ignore[attr-defined]


def test_a_fault_in_an_inactive_entry_is_still_a_fault(tmp_path: Path) -> None:
    found = problems(tmp_path, MODELS + "    bas_url: x\n", default=POLICY)
    assert [p.key for p in found] == ["models.expert.bas_url"]


def test_a_literal_key_works_and_is_warned_about(tmp_path: Path) -> None:
    config = read_config(*write_config(tmp_path, MODELS.replace("${NOT_SET_ANYWHERE}", "sk-literal"), default=POLICY))
    (warning,) = config.warnings
    assert (warning.line, warning.key) == (8, "models.expert.api_key")
    assert "sk-literal" not in str(warning)


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = "models:\n  a: &a {engine: scripted, replies: [{text: hi}]}\n  b: {<<: *a, good_at: [chat]}\n"
    assert problems(tmp_path, text, default="policy: p\nroutes: [{name: x, answer: {model: b}}]\n") == []


def test_the_default_alias_cannot_be_a_model(tmp_path: Path) -> None:
    found = problems(tmp_path, MODELS + "  auto: {engine: scripted, replies: [{text: a}]}\n", default=POLICY)
    assert [(p.line, p.key) for p in found] == [(10, "models.auto")]


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    found = problems(tmp_path, "\n".join(lines) + "\n" + MODELS, default=POLICY)
    assert "too much" in str(found[0])


def test_a_key_with_a_line_end_is_taken_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_SET_ANYWHERE", "sk-1\n")
    spec = read_config(*write_config(tmp_path, MODELS, default=POLICY)).models["expert"].spec
    assert spec is not None and spec.api_key == "sk-1"  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["", "- a\n", "policy: p\n", "policy: p\nroutes: [{name: a, answer: null}]\n"])
def test_odd_policy_files_are_told(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, default=text)
