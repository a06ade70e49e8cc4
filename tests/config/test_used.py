"""How calls of each kind of model are counted: layer, meter, energy; and the rivals of a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.backends.litellm import LiteLLMBackend
from gateway.backends.openai import OpenAIBackend
from gateway.config import used as used_module
from gateway.costs.meter import WATTS_PER_THREAD, Used
from gateway.trace import Rival, Usage
from tests.conftest import build_from

MODELS = """
models:
  always: {engine: llama.cpp, source: "file:core.gguf", threads: 3, adapters: {dates: {source: "file:a.gguf"}}}
  sleeper: {engine: llama.cpp, source: "file:core.gguf", residency: on_demand, energy: {watts: 65}}
  served: {engine: vllm, model: some/model}
  beside: {engine: attach, url: "http://127.0.0.1:1", model: x}
  several:
    engine: openai
    base_url: ["https://a.example.com/v1", "https://b.example.com/v1"]
    model: x
    price: {usd_per_hour: 2}
  far: {engine: openai, base_url: "https://example.com/v1", model: x, energy: {joules_per_token: 2}}
  other: {engine: litellm, model: gemini/x, energy: {joules_per_token: 3}}
  plain: {engine: openai, base_url: "https://example.com/v1", model: x}
"""


@pytest.fixture(autouse=True)
def _without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_module, "_has_gpu", lambda: False)


def uses(folder: Path, models: str = MODELS) -> dict[str, Used]:
    gateway, _ = build_from(folder, models)
    found = {}
    for name, model in gateway.models.items():
        assert isinstance(model.responder, OpenAIBackend | LiteLLMBackend)
        found[name] = model.responder.used
    return found


def test_layers_say_how_far_out_a_model_is(tmp_path: Path) -> None:
    layers = {name: used.layer for name, used in uses(tmp_path).items()}
    assert layers == {
        "always": "core",
        "always:dates": "core",
        "sleeper": "local",
        "served": "core",
        "beside": "attached",
        "several": "remote",
        "far": "remote",
        "other": "remote",
        "plain": "remote",
    }


def test_what_an_engine_draws(tmp_path: Path) -> None:
    found = uses(tmp_path)
    assert found["always"].watts() == 3 * WATTS_PER_THREAD
    assert found["sleeper"].watts() == 65
    assert found["served"].watts() is None, "a GPU's is not guessed"
    assert (found["far"].joules_per_token, found["other"].joules_per_token) == (2, 3)
    assert found["plain"] == Used(), "nothing is counted that need not be"


def test_a_gpu_that_may_compute_it_leaves_a_model_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_module, "_has_gpu", lambda: True)
    models = MODELS + '  slow: {engine: llama.cpp, source: "file:core.gguf", threads: 2, gpu_layers: 0}\n'
    found = uses(tmp_path, models)
    assert found["always"].watts() is None and found["slow"].watts() == 2 * WATTS_PER_THREAD


def test_an_adapter_shares_the_hours_of_its_base_and_addresses_have_their_own(tmp_path: Path) -> None:
    gateway, runtime = build_from(tmp_path, MODELS)
    base, adapter = (gateway.models[name].responder for name in ("always", "always:dates"))
    assert isinstance(base, OpenAIBackend) and isinstance(adapter, OpenAIBackend)
    assert base.used.meter is adapter.used.meter is runtime.meters["always"]
    assert {"several#1", "several#2"} <= runtime.meters.keys()


def policy(answer: str, more: str = "") -> str:
    return f"policy: default\nroutes: [{{name: a, answer: {answer}}}]\n{more}"


PRICED = """
models:
  small: {engine: scripted, replies: [{text: hi}], context: 4096, accepts: [text], price: {output_usd_per_mtok: 1}}
  middle: {engine: scripted, replies: [{text: hi}], price: {output_usd_per_mtok: 5}}
  large: {engine: scripted, replies: [{text: hi}], price: {output_usd_per_mtok: 3}}
  unknown: {engine: scripted, replies: [{text: hi}]}
  away: {engine: openai, base_url: "https://example.com/v1", model: x, api_key: "${NOT_SET_HERE}"}
"""


def rivals(folder: Path, text: str) -> tuple[Rival, ...]:
    gateway, _ = build_from(folder, PRICED, default=text)
    return gateway.policies["default"].rivals


def test_rivals_are_the_active_models_of_a_policy(tmp_path: Path) -> None:
    small, middle = rivals(tmp_path, policy("{cascade: [{model: small}, {model: away}, {model: middle}]}"))
    assert (small.name, small.context, small.accepts) == ("small", 4096, {"text"})
    assert middle.cost_usd(Usage(7, 10**6)) == 5.0
    assert rivals(tmp_path, policy("{cascade: [{model: small}, {model: away}]}")) == ()


@pytest.mark.parametrize(
    ("text", "largest"),
    [
        (policy("{cascade: [{model: middle}, {model: large}]}"), "large"),  # asked last
        (policy("{choose: {among: [small, middle, large]}}"), "middle"),  # dearest
        (policy("{cascade: [{model: small}, {choose: {among: [middle, large]}}]}"), "large"),
        (policy("{cascade: [{model: middle}, {model: large}]}", "quality: {strong: middle}"), "middle"),
        (policy("{cascade: [{model: small}, {model: unknown}]}"), "unknown"),
        (policy("{choose: {among: [small, unknown]}}"), "small"),
    ],
)
def test_the_largest(tmp_path: Path, text: str, largest: str) -> None:
    assert [rival.name for rival in rivals(tmp_path, text) if rival.is_largest] == [largest]
