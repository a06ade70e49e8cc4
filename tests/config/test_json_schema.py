"""The schemas say what the code says: they take what loads, and refuse broken shapes and names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config.json_schema import schemas
from tests.config.test_broken import BROKEN_MODELS, BROKEN_POLICIES
from tests.conftest import ROOT
from tests.test_docs import blocks

VALID = {name: jsonschema_rs.validator_for(schema) for name, schema in schemas().items()}
SHIPPED = [ROOT / "models.yaml", *sorted((ROOT / "policies").glob("*.yaml"))]
# What only the whole configuration, or more than a shape, can tell.
NOT_A_MATTER_OF_SHAPE = {
    "bad source",
    "bad sha256",
    "bad script",
    "no script",
    "key twice",
    "two energies",
    "no JSON",
    "several answers",
    "bad port",
    "bad host",
    "unknown model",
    "bad regex",
    "bad rule regex",
    "prefix for a whole check",
    "hold without checks",
    "names a model",
    "route twice",
}


def faults(name: str, data: Any) -> list[str]:
    return [f"{list(error.instance_path)}: {error.message}" for error in VALID[name].iter_errors(data)]


def test_the_shipped_schemas_are_those_of_the_code() -> None:
    for name, schema in schemas().items():
        shipped = json.loads((ROOT / "schemas" / f"{name}.json").read_text())
        assert shipped == json.loads(json.dumps(schema)), "run `gateway check --schema --out schemas`"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_files_name_their_schema_and_keep_to_it(path: Path) -> None:
    text = path.read_text()
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named, "the first line tells editors where the schema is"
    schema = (path.parent / named[1]).resolve()
    assert schema == ROOT / "schemas" / ("models.json" if path.name == "models.yaml" else "policy.json")
    assert faults(schema.stem, yaml.safe_load(text)) == []


def whole_files() -> list[tuple[str, str, Any]]:
    found = []
    for name, text in blocks("yaml"):
        data = yaml.safe_load(text)
        if isinstance(data, dict) and {"models", "policy"} & set(data):
            found.append((name, "models" if "models" in data else "policy", data))
    return found


@pytest.mark.parametrize(("name", "data"), [f[1:] for f in whole_files()], ids=[f[0] for f in whole_files()])
def test_what_the_docs_show_is_valid(name: str, data: Any) -> None:
    assert faults(name, data) == []


@pytest.mark.parametrize(
    ("name", "case"), [("models", c) for c in BROKEN_MODELS] + [("policy", c) for c in BROKEN_POLICIES]
)
def test_broken_shapes_and_names_are_refused(name: str, case: str) -> None:
    text = (BROKEN_MODELS if name == "models" else BROKEN_POLICIES)[case][0]
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return  # no schema is asked about what is not YAML
    assert VALID[name].is_valid(data) == (case in NOT_A_MATTER_OF_SHAPE)


def test_variables_may_stand_for_any_value() -> None:
    core = {"engine": "llama.cpp", "source": "${SOURCE}", "sha256": "${SHA}", "context": "${CONTEXT}", "slots": 2}
    far = {"engine": "openai", "base_url": "${URL}", "model": "x", "timeouts": {"total_s": "${PATIENCE}"}}
    assert faults("models", {"models": {"core": core, "far": far}}) == []
    assert faults("models", {"models": {"core": {**core, "context": "many"}}}) != []


@pytest.mark.parametrize(
    "when",
    [
        {"has": "image"},
        {"has": ["image", "audio"]},
        {"input_tokens": {"below": 6000}, "not": {"keywords": ["legal"]}},
        {"any": [{"background": True}, {"language": {"in": ["de", "fr"]}}]},
        {"header": {"x-team": ["a", "b"]}},
    ],
)
def test_conditions(when: Any) -> None:
    policy = {"policy": "p", "routes": [{"name": "a", "when": when, "answer": {"model": "m"}}]}
    assert faults("policy", policy) == []


@pytest.mark.parametrize("when", [{"has": "smell"}, {"tokens": 3}, {}, {"background": "yes"}, {"turns": {"over": 3}}])
def test_conditions_that_are_none(when: Any) -> None:
    policy = {"policy": "p", "routes": [{"name": "a", "when": when, "answer": {"model": "m"}}]}
    assert faults("policy", policy) != []


def test_they_are_printed_and_written(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["check", "--schema"])
    assert printed.exit_code == 0
    assert set(json.loads(printed.stdout)) == {"models", "policy"}
    written = CliRunner().invoke(app, ["check", "--schema", "--out", str(tmp_path / "new")])
    assert written.exit_code == 0
    assert json.loads((tmp_path / "new" / "policy.json").read_text())["$schema"].startswith("http://json-schema.org/")
    assert CliRunner().invoke(app, ["check", "--out", str(tmp_path)]).exit_code == 2
