"""`adapters:` of a model: the models that they make, their files, and what `gateway check` finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gateway import cli
from gateway.config.files import read_config
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.errors import EngineError
from gateway.gateway import Gateway
from gateway.trace import Price
from tests.config.test_broken import problems
from tests.conftest import build_from, write_config
from tests.engines.adapter import write_adapter
from tests.engines.fake_programs import program
from tests.engines.test_llama_server import nothing_installed
from tests.sources.gguf_files import write_gguf

POLICY = "policy: default\nroutes: [{name: all, answer: {model: 'core:dates'}}]\n"
ENTRY = """\
models:
  core:
    engine: llama.cpp
    source: file:core.gguf
    context: 512
    slots: 2
    good_at: [chat]
    price: {usd_per_hour: 1}
    defaults: {temperature: 0, max_tokens: 8, lora: []}
    adapters:
      dates: {source: "file:FOLDER/dates.gguf", good_at: [dates], defaults: {max_tokens: 4}}
      tone:
        source: "file:FOLDER/tone.gguf"
        scale: 0.5
        price: {usd_per_hour: 2}
"""


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "core.gguf").write_bytes(b"GGUF")
    for seed, name in enumerate(("dates", "tone")):
        write_adapter(tmp_path / f"{name}.gguf", seed)
    return ENTRY.replace("FOLDER", str(tmp_path)).replace("file:core.gguf", f"file:{tmp_path}/core.gguf")


def leaf(gateway: Gateway, name: str) -> Any:
    return gateway.models[name].responder


def test_each_adapter_is_a_model_on_the_engine_of_its_base(tmp_path: Path, text: str) -> None:
    gateway, _ = build_from(tmp_path, text, default=POLICY)
    assert list(gateway.models) == ["core", "core:dates", "core:tone"]
    (engine,) = gateway.engines
    assert isinstance(engine, LlamaCppSettings)
    assert engine.adapters == (("dates", tmp_path / "dates.gguf"), ("tone", tmp_path / "tone.gguf"))
    leases = {leaf(gateway, name).take_lease.args for name in gateway.models}
    assert leases == {(engine,)}
    dates, tone = (gateway.models[f"core:{name}"].card for name in ("dates", "tone"))
    assert (dates["base"], dates["adapter"], dates["context"], dates["slots"]) == ("core", "dates", 512, 2)
    assert (dates["good_at"], tone["good_at"]) == (["dates"], ["chat"])
    assert "base" not in gateway.models["core"].card


def test_an_adapter_has_what_its_base_has_unless_it_says_otherwise(tmp_path: Path, text: str) -> None:
    gateway, _ = build_from(tmp_path, text, default=POLICY)
    core, dates, tone = (leaf(gateway, name) for name in gateway.models)
    assert core.defaults == {"temperature": 0, "max_tokens": 8, "lora": []}
    assert dates.defaults == dates.counter.defaults == {"temperature": 0, "max_tokens": 4}
    assert tone.defaults == {"temperature": 0, "max_tokens": 8}, "which adapter is its own matter"
    prices = [one.facts.price for one in (core, dates, tone)]
    assert prices == [Price(0, 0, usd_per_hour=1), Price(0, 0, usd_per_hour=1), Price(0, 0, usd_per_hour=2)]
    assert (dates.name, dates.counter.name, dates.facts.context) == ("core:dates", "core:dates", 512)
    assert (core.adapters.own, tone.adapters.own, tone.adapters.scales) == (None, "tone", {"dates": 1.0, "tone": 0.5})


def test_adapters_of_a_model_that_is_switched_off_are_so_too(tmp_path: Path, text: str) -> None:
    gateway, _ = build_from(tmp_path, text.replace("dates.gguf", "${NOT_SET_HERE}.gguf"), default=POLICY)
    assert [model.responder for model in gateway.models.values()] == [None] * 3
    assert "NOT_SET_HERE" in gateway.models["core:dates"].why and gateway.engines == ()


CLASH = "  core:dates: {engine: scripted, replies: [{text: hi}]}\n"
LONG = "a" * 125
DATES, TONE = "models.core.adapters.dates", "models.core.adapters.tone"
BROKEN = {
    "a model has the name": (lambda text: text + CLASH, DATES, "'core:dates' is the name of a model"),
    "bad source": (lambda text: text.replace('"file:', '"ftp:', 1), f"{DATES}.source", "unknown scheme"),
    "no source": (lambda text: text.replace("source: ", "sauce: "), "", "'source' is missing"),
    "bad sha256": (lambda text: text.replace("scale: 0.5", "sha256: abc"), f"{TONE}.sha256", "64 hex digits"),
    "unknown key": (lambda text: text.replace("scale: 0.5", "scael: 0.5"), f"{TONE}.scael", "did you mean 'scale'"),
    "no number": (lambda text: text.replace("scale: 0.5", "scale: .nan"), f"{TONE}.scale", "finite"),
    "reserved default": (lambda text: text.replace("{max_tokens: 4}", "{n: 2}"), f"{DATES}.defaults", "'n' is"),
    "Ollama's tag": (lambda text: text.replace("      tone:", "      latest:"), "models.core.adapters", "Ollama"),
    "bad name": (lambda text: text.replace("      tone:", "      a:b:"), "models.core.adapters", "pattern"),
    "too long": (lambda text: text.replace("  core:", f"  {LONG}:"), f"models.{LONG}.adapters.dates", "too long"),
    "no such adapter": (
        lambda text: text.replace("lora: []", "lora: [{id: date}]"),
        "models.core.defaults.lora",
        "no adapter 'date'; there are: 'dates', 'tone'",
    ),
    "no such adapter of an adapter": (
        lambda text: text.replace("{max_tokens: 4}", "{lora: [{id: 2}]}"),
        f"{DATES}.defaults.lora",
        "no adapter 2",
    ),
    "a server that cannot": (
        lambda text: text.replace("slots: 2", "server: llama-cpp-python"),
        "models.core",
        "llama-cpp-python cannot choose one",
    ),
    "an engine that cannot": (
        lambda text: text.replace("engine: llama.cpp", "engine: llama-cpp-python"),
        "models.core",
        "'adapters' are for 'engine: llama.cpp'",
    ),
}


@pytest.mark.parametrize(("change", "key", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_faults_are_found_before_anything_starts(tmp_path: Path, text: str, change: Any, key: str, says: str) -> None:
    found = problems(tmp_path, change(text))
    assert any(problem.key.startswith(key) and says in str(problem) and problem.line for problem in found), found


def test_a_policy_may_not_have_an_adapters_name(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, text, own="policy: 'core:dates'\nroutes: [{name: a, answer: {model: core}}]\n")
    assert ["'core:dates' is the name of a model" in str(problem) for problem in found] == [True]


@pytest.mark.parametrize(
    ("unfit", "says"),
    [
        (lambda path: path.write_bytes(b"MZ, no model"), "does not begin with GGUF"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "cut short"),
        (lambda path: write_gguf(path), "is a whole model, and no adapter"),
        (lambda path: write_adapter(path, 1, architecture="qwen2"), "is for 'qwen2', and the model is of 'llama'"),
    ],
    ids=["another format", "cut", "a model", "for others"],
)
def test_a_file_that_is_no_adapter_for_its_model_is_a_fault(tmp_path: Path, text: str, unfit: Any, says: str) -> None:
    write_gguf(tmp_path / "core.gguf")
    assert problems(tmp_path, text) == []
    unfit(tmp_path / "dates.gguf")
    (found,) = problems(tmp_path, text)
    assert found.key == f"{DATES}.source" and says in found.message


def test_a_file_that_is_not_there_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "dates.gguf").unlink()
    config = read_config(*write_config(tmp_path, text, default=POLICY))
    assert config.warnings == []
    models, policies = str(tmp_path / "models.yaml"), str(tmp_path / "policies")
    checked = CliRunner().invoke(cli.app, ["check", "--models", models, "--policies", policies])
    assert checked.exit_code == 0 and f"{DATES}.source: there is no file at" in checked.stdout


def test_llama_cpp_python_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_installed(monkeypatch, "llama_cpp")
    settings = LlamaCppSettings("m", tmp_path, adapters=(("a", tmp_path),), command="not-there")
    assert settings.served_by is None
    with pytest.raises(EngineError, match="pip install xllamacpp; or put"):
        settings.launch()
    told = LlamaCppSettings("m", tmp_path, adapters=(("a", tmp_path),), server="llama-cpp-python")
    with pytest.raises(EngineError, match="takes no adapter"):
        told.launch()


def test_llama_server_is_told_of_each_and_applies_none(tmp_path: Path) -> None:
    llama_server = program(tmp_path / "llama-server", "LLAMA_API_KEY")
    files = (("a", tmp_path / "a.gguf"), ("b", tmp_path / "b.gguf"))
    settings = LlamaCppSettings(
        "m", tmp_path / "m.gguf", adapters=files, server="llama-server", command=str(llama_server.path)
    )
    launch = settings.launch().settings
    options = ["--lora", str(files[0][1]), "--lora", str(files[1][1]), "--lora-init-without-apply"]
    assert launch["argv"][-5:] == options
    assert launch["env"]["LLAMA_ARG_CACHE_RAM"] == "0"
    assert [what for _, what in launch["gguf_files"]] == ["model file", "adapter 'a'", "adapter 'b'"]
    without = LlamaCppSettings("m", tmp_path, server="llama-server", command=str(llama_server.path)).launch().settings
    assert not any(word.startswith("--lora") for word in without["argv"])
    assert without["env"]["LLAMA_ARG_CACHE_RAM"] == "256"
    commas = LlamaCppSettings(
        "m", tmp_path, adapters=(("a", tmp_path / "a,b"),), server="llama-server", command=str(llama_server.path)
    )
    with pytest.raises(EngineError, match="comma"):
        commas.launch()


def test_files_of_adapters_are_pulled_with_their_model(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "errors", Console(stderr=True, width=200))
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "home"))
    models, policies = write_config(tmp_path, text, default=POLICY)

    def pull(*arguments: str) -> Any:
        where = ["--models", str(models), "--policies", str(policies)]
        return CliRunner().invoke(cli.app, ["pull", *arguments, *where])

    for name in ("core", "core:dates"):
        listed = pull(name, "--list")
        assert listed.exit_code == 0, listed.exception
        assert "dates.gguf" in listed.stdout and "tone.gguf" in listed.stdout and "core:dates" not in listed.stdout
    (tmp_path / "tone.gguf").unlink()
    assert "there is no file at" in str(pull("core:tone").exception)
