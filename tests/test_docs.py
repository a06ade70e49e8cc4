"""Docs cannot drift: every YAML block loads, and every command and key in the tables exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from gateway import cli
from gateway.backends.script import ScriptedReply
from gateway.config.model_specs import MODEL_SPECS, ModelSpec
from gateway.config.spec import ModelsFileSpec, NodeSpec
from tests.conftest import ROOT, build_from

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KIND_PAGES = {
    "llama.cpp": "llama-cpp.md",
    "llama-cpp-python": "llama-cpp.md",
    "vllm": "vllm.md",
    "attach": "attach.md",
    "openai": "openai.md",
    "litellm": "litellm.md",
    "scripted": "scripted.md",
}
FAKES = """
models:
  core: {engine: scripted, replies: [{text: hi}]}
  expert: {engine: scripted, replies: [{text: hi}]}
"""
LEARNER = 'core: {engine: llama.cpp, source: "file:core.gguf", residency: on_demand}'


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for i, block in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)):
            found.append((f"{page.name} {i}", block))
    return found


def policy_of(node: dict[str, object]) -> str:
    return str(yaml.safe_dump({"policy": "p", "routes": [{"name": "a", "answer": node}]}))


@pytest.mark.parametrize("block", [b for _, b in blocks("yaml")], ids=[name for name, _ in blocks("yaml")])
def test_every_yaml_block_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str) -> None:
    for variable in re.findall(r"\$\{(\w+)\}", block):
        monkeypatch.setenv(variable, "sk-test")
    data = yaml.safe_load(block)
    (tmp_path / "script.yaml").write_text("replies: [{text: hi}]\n")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.py").write_text("def good(body, text, message): return True\n")
    if isinstance(data, dict) and "models" in data:
        gateway, _ = build_from(tmp_path, block)
        assert all(model.responder for model in gateway.models.values())
    elif isinstance(data, dict) and "policy" in data:
        can_learn = FAKES.replace("core: {engine: scripted, replies: [{text: hi}]}", LEARNER)
        build_from(tmp_path, can_learn if "adapters: true" in block else FAKES, page=block)
    elif isinstance(data, dict) and "replies" in data:
        for reply in data["replies"]:
            ScriptedReply.model_validate(reply)
    elif isinstance(data, dict) and "checks" in data:
        build_from(tmp_path, FAKES, page=policy_of({"model": "core", **data}))
    elif isinstance(data, dict) and data.keys() <= ModelsFileSpec.model_fields.keys():
        build_from(tmp_path, FAKES + block)
    elif isinstance(data, list):
        for number, node in enumerate(data):
            build_from(tmp_path / str(number), FAKES, page=policy_of(node))
    else:
        raise AssertionError("a YAML block that no test knows how to load")


def commands() -> set[str]:
    root = get_command(cli.app)
    names = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        names |= {f"{name} {sub}" for sub in inner} if inner else {name}
    return names


def test_every_command_in_the_docs_exists_and_is_documented() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    known = commands()
    groups = "|".join({name.split()[0] for name in known if " " in name})
    found = re.findall(rf"(?:^|`)gateway ((?:{groups})\b(?: [a-z]+)?|[a-z]+)", text, re.MULTILINE)
    used = {name for name in found if " " in name or name not in groups.split("|")}
    assert used == known


def engine_of(kind: type) -> str:
    return next(engine for engine, spec in MODEL_SPECS.items() if spec is kind)


def test_every_kind_of_model_has_a_page_with_a_whole_config() -> None:
    assert set(KIND_PAGES) == set(MODEL_SPECS)
    for engine, page in KIND_PAGES.items():
        configs = [yaml.safe_load(block) for name, block in blocks("yaml") if name.startswith(page)]
        entries = [entry for config in configs if "models" in config for entry in config["models"].values()]
        assert any(entry["engine"] == engine for entry in entries), f"{page} shows no models.yaml with {engine}"


@pytest.mark.parametrize("kind", [ModelSpec, *MODEL_SPECS.values(), NodeSpec, ScriptedReply])
def test_every_key_is_in_the_docs(kind: type) -> None:
    pages = {NodeSpec: "policies.md", ScriptedReply: "scripted.md", ModelSpec: "models.md"}
    page = pages.get(kind) or KIND_PAGES[engine_of(kind)]
    text = (ROOT / "docs" / page).read_text()
    fields = kind.model_fields  # type: ignore[attr-defined]
    own = set(fields) - (set(ModelSpec.model_fields) if kind is not ModelSpec else set())
    assert [name for name in sorted(own) if f"`{name}`" not in text and f"{name}:" not in text] == []


def test_no_page_names_a_file_that_is_not_there() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_tree_in_the_readme_is_the_tree() -> None:
    tree = re.search(r"gateway/\n(.*?)models.yaml", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    listed = set(re.findall(r"^  ([a-z_]+(?:\.py|/))", tree[1], re.MULTILINE))
    there = {
        p.name + ("/" if p.is_dir() else "") for p in (ROOT / "gateway").iterdir() if p.suffix == ".py" or p.is_dir()
    }
    assert listed == there - {"__init__.py", "__main__.py", "__pycache__/"}
