"""The YAML that `gateway init` writes: what is chosen, in which order, and that nothing found can break out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.files import read_config
from gateway.probe import FoundModel, FoundServer
from gateway.setup.discover import Discovery
from gateway.setup.files import Folder, find_files
from gateway.setup.keys import FoundKey
from gateway.setup.plan import SHIPPED_SHA256, SHIPPED_SOURCE, Plan, plan_for
from gateway.setup.servers import LocalServers
from gateway.setup.write import models_text, policy_text, scalar
from tests.conftest import ROOT
from tests.sources.gguf_files import write_gguf

GIB = 1 << 30
URL = "http://127.0.0.1:11434/v1"


def key(provider: str, state: str = "valid", **changes: object) -> FoundKey:
    given = {"base_url": f"https://{provider}.example.com/v1", "model": f"{provider}-large", "accepts": ("text",)}
    return FoundKey(provider, f"{provider.upper()}_API_KEY", "openai", state=state, **{**given, **changes})  # type: ignore[arg-type]


def server(*models: FoundModel) -> LocalServers:
    return LocalServers((FoundServer("ollama", URL, models),))


def models(plan: Plan, found: Discovery) -> dict[str, dict[str, object]]:
    return yaml.safe_load(models_text(plan, found))["models"]


def cascade(plan: Plan) -> list[str]:
    return [tier["model"] for tier in yaml.safe_load(policy_text(plan))["routes"][-1]["answer"]["cascade"]]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_survives_yaml(text: str) -> None:
    assert yaml.safe_load(f"a: {scalar(text)}  # comment")["a"] == text


def test_the_shipped_core_is_that_of_models_yaml() -> None:
    shipped = yaml.safe_load((ROOT / "models.yaml").read_text())["models"]["core"]
    assert (shipped["source"], shipped["sha256"]) == (SHIPPED_SOURCE, SHIPPED_SHA256)


def test_with_nothing_found_the_shipped_core_and_a_sleeping_expert_are_written(tmp_path: Path) -> None:
    plan = plan_for(Discovery(), tmp_path)
    assert list(models(plan, Discovery())) == ["core", "expert"]
    assert cascade(plan) == ["core", "expert"]


def test_the_smallest_local_model_is_the_core_and_the_largest_that_fits_is_next(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a" / "small-Q4_0.gguf", parameters=1_700_000_000)
    found = Discovery(
        find_files([Folder(tmp_path, 1)]),
        server(
            FoundModel("qwen3:8b", size_bytes=5 * GIB),
            FoundModel("llama3:70b", size_bytes=40 * GIB),
            FoundModel("nomic-embed-text", chats=False),
        ),
        (key("openai"), key("groq", "unchecked"), key("mistral", "refused")),
    )
    plan = plan_for(found, tmp_path / "home", memory_bytes=16 * GIB)
    assert cascade(plan) == ["core", "qwen3:8b", "openai-large", "groq-large"]
    written = models(plan, found)
    assert list(written) == ["core", "qwen3:8b", "llama3:70b", "openai-large", "groq-large", "mistral-large"]
    assert written["core"]["source"] == f"file:{tmp_path}/a/small-Q4_0.gguf"
    assert written["qwen3:8b"] == {
        "engine": "attach",
        "url": URL,
        "model": "qwen3:8b",
        "price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
    }
    assert "REFUSED" in models_text(plan, found) and "mistral" in plan.warnings[0]
    assert "nomic-embed-text" in models_text(plan, found)


def test_a_large_local_model_stands_behind_the_shipped_core(tmp_path: Path) -> None:
    found = Discovery(local=server(FoundModel("qwen3:8b", size_bytes=5 * GIB)))
    plan = plan_for(found, tmp_path, memory_bytes=16 * GIB)
    assert cascade(plan) == ["core", "qwen3:8b", "expert"]
    assert models(plan, found)["core"]["source"] == SHIPPED_SOURCE


def test_pictures_go_to_models_that_take_them(tmp_path: Path) -> None:
    found = Discovery(keys=(key("openai", accepts=("text", "image")), key("groq")))
    images = yaml.safe_load(policy_text(plan_for(found, tmp_path)))["routes"][1]
    assert (images["name"], images["answer"]) == ("images", {"model": "openai-large"})
    blind = yaml.safe_load(policy_text(plan_for(Discovery(keys=(key("groq"),)), tmp_path)))
    assert [route["name"] for route in blind["routes"]] == ["titles", "rest"]


def test_files_that_would_fill_the_memory_do_not_all_load(tmp_path: Path) -> None:
    for number, parameters in enumerate((1, 3, 8), 1):
        write_gguf(tmp_path / f"model{number}.gguf", parameters=parameters * 10**9)
    found = Discovery(find_files([Folder(tmp_path, 0)]))
    written = models(plan_for(found, tmp_path / "home", memory_bytes=16 * GIB), found)
    assert list(written) == ["core", "model3", "expert"]
    text = models_text(plan_for(found, tmp_path / "home", memory_bytes=16 * GIB), found)
    assert "  # one file more in memory at all times\n  # model2:" in text


def test_a_model_with_a_projector_takes_pictures(tmp_path: Path) -> None:
    write_gguf(tmp_path / "gemma.gguf")
    write_gguf(tmp_path / "mmproj.gguf", {"general.architecture": "clip"})
    found = Discovery(find_files([Folder(tmp_path, 0)]))
    plan = plan_for(found, tmp_path / "home")
    core = models(plan, found)["core"]
    assert (core["mmproj"], core["accepts"]) == (f"file:{tmp_path}/mmproj.gguf", ["text", "image"])
    assert [route["name"] for route in yaml.safe_load(policy_text(plan))["routes"]] == ["titles", "rest"]
    (tmp_path / "p").mkdir()
    (tmp_path / "m.yaml").write_text(models_text(plan, found))
    (tmp_path / "p" / "default.yaml").write_text(policy_text(plan))
    spec = read_config(tmp_path / "m.yaml", tmp_path / "p").models["core"].spec
    assert spec is not None and spec.accepts == ("text", "image")


@pytest.mark.parametrize(
    "name", ["a\n  evil: {engine: openai}", "${OPENAI_API_KEY}", "x: y", "'", '"', "# a", "auto", "[a]"]
)
def test_names_of_others_cannot_break_out(tmp_path: Path, name: str) -> None:
    write_gguf(tmp_path / "core.gguf", {"general.name": name, "general.size_label": name})
    found = Discovery(find_files([Folder(tmp_path, 0)]), server(FoundModel(name, size_bytes=9 * GIB)))
    plan = plan_for(found, tmp_path / "home", memory_bytes=64 * GIB)
    written = models(plan, found)
    assert len(written) == 3 and "evil" not in written and "auto" not in written
    assert [entry.get("model") for entry in written.values()][1] == name


def test_the_same_name_twice_gets_a_number(tmp_path: Path) -> None:
    found = Discovery(keys=(key("openai", model="a/big"), key("groq", model="b/big")))
    assert list(models(plan_for(found, tmp_path), found)) == ["core", "big", "big-2"]


def test_an_address_with_a_blank_is_written_as_a_comment(tmp_path: Path) -> None:
    found = Discovery(
        keys=(key("azure", base_url="https://{resource}.openai.azure.com/v1"),), aws_variable="AWS_PROFILE"
    )
    plan = plan_for(found, tmp_path)
    assert list(models(plan, found)) == ["core"]
    text = models_text(plan, found)
    assert "#   api_key: ${AZURE_API_KEY}" in text and "#   model: bedrock/" in text


def test_every_line_fits_a_screen(tmp_path: Path) -> None:
    found = Discovery(keys=(key("openai"), key("groq", "unchecked", why="it cannot be reached from here")))
    plan = plan_for(found, tmp_path)
    assert max(map(len, (models_text(plan, found) + policy_text(plan)).splitlines())) <= 140


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    found = Discovery(keys=(key("openai"),))
    plan = plan_for(found, tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "m.yaml").write_text(models_text(plan, found))
    (tmp_path / "p" / "default.yaml").write_text(policy_text(plan))
    assert read_config(tmp_path / "m.yaml", tmp_path / "p").models["openai-large"].spec is not None
