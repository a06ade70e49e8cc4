"""`adapters: true` in a policy: where it may stand, and what answers in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.chat import Responder
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.responders.cascade import Cascade, models_in
from gateway.responders.with_adapters import WithAdapters
from gateway.responders.with_shards import WithShards
from gateway.shards import Kind
from gateway.training import registry
from gateway.training.adopting import adopt
from gateway.training.settings import Settings
from gateway.training.trial import State
from tests.config.test_broken import problems
from tests.conftest import build_from
from tests.engines.adapter import write_adapter
from tests.sources.gguf_files import write_gguf

MODELS = """\
models:
  core: {{engine: llama.cpp, source: "file:{folder}/core.gguf", residency: on_demand}}
  other: {{engine: scripted, replies: [{{text: hi}}]}}
  expert: {{engine: scripted, replies: [{{text: hi}}]}}
training: {{min_pairs: 50, canary: {{shadow: 5, steps: [0.1, 0.5]}}}}
"""
CASCADE = "[{{model: {small}, shards: true, adapters: true}}, {{model: expert}}]"


def policy(answer: str, learn: str = "learn: true") -> str:
    return f"policy: default\n{learn}\nroutes:\n  - {{name: all, answer: {answer}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "core.gguf")
    return tmp_path


def put(home: Path, folder: Path, name: str, state: State) -> str:
    made = folder / name
    made.mkdir(parents=True)
    write_adapter(made / "adapter.gguf", 1)
    base, settings = folder / "core.gguf", Settings()
    entry = adopt(home, made, model="core", name=name, base=base, data={}, settings=settings, report={}, state=state)
    return entry.full_name


def inner(responder: Responder) -> WithAdapters:
    assert isinstance(responder, Cascade)
    found = responder.tiers[0].responder
    assert isinstance(found, WithAdapters)
    return found


def test_a_model_learns_in_its_place_from_the_larger_one(folder: Path) -> None:
    answer = "{cascade: " + CASCADE.format(small="core") + "}"
    gateway, runtime = build_from(folder, MODELS.format(folder=folder), default=policy(answer))
    [place] = gateway.curriculum.places
    assert (place.policy, place.model, place.strong, dict(place.adapters)) == ("default", "core", "expert", {})
    assert isinstance(place.base, WithShards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.config.build.find_spec", lambda name: None)
        config = read_config(folder / "models.yaml", folder / "policies")
        build(config, runtime)
    assert "nothing is trained for 'adapters: true'" in config.warnings[0].message
    orders = gateway.curriculum.orders
    assert (orders.min_pairs, orders.terms.shadow, orders.terms.steps) == (50, 5, (0.1, 0.5))


def test_adapters_on_trial_are_asked_there_without_worked_examples(folder: Path) -> None:
    answer = "{cascade: " + CASCADE.format(small="core") + "}"
    text = MODELS.format(folder=folder)
    _, runtime = build_from(folder, text, default=policy(answer))
    names = {state: put(runtime.home, folder, f"a-{state}", state) for state in State}
    gateway = build(read_config(folder / "models.yaml", folder / "policies"), runtime)
    route = gateway.policies["default"].routes[0]
    place = inner(route.answer).place
    served = {State.CANDIDATE, State.WAITING, State.SHADOW, State.CANARY, State.LIVE}
    assert set(place.adapters) == {names[state] for state in served}
    assert set(gateway.models) >= {names[State.TRAINED]}
    assert not {names[State.REFUSED], names[State.ROLLED_BACK], names[State.REPLACED]} & set(gateway.models)
    adapted, base = place.adapters[names[State.LIVE]], place.base
    assert isinstance(adapted, WithShards) and isinstance(base, WithShards)
    assert Kind.PROCESS in base.wanted.kinds and Kind.PROCESS not in adapted.wanted.kinds
    assert set(models_in(route.answer)) == {"core", "expert", *place.adapters}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (policy("{cascade: " + CASCADE.format(small="other") + "}"), "'other' cannot learn"),
        (policy("{cascade: " + CASCADE.format(small="core") + "}", ""), "nothing is kept to learn from"),
        (policy("{model: core, adapters: true}"), "'core' has nobody to learn from"),
    ],
)
def test_where_nothing_can_be_learned_the_file_is_at_fault(folder: Path, text: str, says: str) -> None:
    [problem] = problems(folder, MODELS.format(folder=folder), default=text)
    assert says in problem.message and "adapters" in problem.key


def test_the_registry_is_read_as_it_was_written(folder: Path) -> None:
    home = folder / "home"
    name = put(home, folder, "one", State.CANDIDATE)
    changed = registry.change(home, name, lambda one: replace(one, state=State.LIVE, why="so"))
    assert registry.read_registry(home) == {name: changed} and changed.state is State.LIVE
    assert registry.remove(home, name) == changed
    assert registry.read_registry(home) == {} and not registry.folder_of(home, changed).exists()
    assert registry.remove(home, name) is None
