"""Probing a model: what counts as right, what it costs, and the row that it fills."""

import asyncio
from pathlib import Path

import pytest

from gateway.capability.profiles import read_learned
from gateway.config.files import read_config
from gateway.errors import BackendError, ConfigError, CostCapReached, UnknownModel
from gateway.learned_files import Learned
from gateway.learning.probe import probe
from gateway.learning.probe_prompts import ProbePrompt, chosen, read_prompts, same_json, shipped
from gateway.learning.probing import run_probe
from tests.conftest import build_from, write_config

MODELS = """
models:
  fake:
    engine: scripted
    price: {input_usd_per_mtok: 0, output_usd_per_mtok: 1000}
    replies:
      - {when: {contains: capital of France}, text: Paris}
      - {when: {contains: 17 + 25}, text: It is 42.}
      - {text: no idea}
  unpriced: {engine: scripted, replies: [{text: hm}]}
  broken: {engine: scripted, replies: [{error: {status: 500}}]}
  judge: {engine: scripted, replies: [{when: {contains: "poem"}, text: "Yes"}, {text: "No"}]}
"""
POLICY = "{policy: p, routes: [{name: all, answer: {model: fake}}]}"


def prompt(**fields: object) -> ProbePrompt:
    return ProbePrompt.model_validate({"topic": "t", "ask": "?", **fields})


def test_the_shipped_questions_are_128_over_eight_topics_and_all_checkable() -> None:
    prompts = shipped()
    topics = [one.topic for one in prompts]
    assert len(prompts) == 128 and {topics.count(topic) for topic in topics} == {16} and len(set(topics)) == 8
    assert all(one.is_checkable for one in prompts) and len({one.ask for one in prompts}) == 128


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        ({"accept": ["Paris"]}, ["Paris", "Paris.", "It is Paris."], ["Rome", "", "x " * 60 + "Paris"]),
        ({"number": 1591}, ["1591", "1,591", "37 * 43 = 1591."], ["1592", "many", "1591 is not 37"]),
        ({"json": {"a": 1, "b": None}}, ['{"a": 1.0, "b": null}', '```json\n{"b":null,"a":1}\n```'], ['{"a": 1}', "a"]),
        ({"json": {}}, ["{}"], ['{"a": 1}', "none"]),
        ({"json": {"ok": True}}, ['{"ok": true}'], ['{"ok": 1}', '{"ok": "true"}']),
        ({"regex": "(?i)git commit"}, ["Use `git commit -m x`"], ["git push"]),
        ({"matches": "YES\\W?"}, ["YES", " YES.\n"], ["yes", "YES it is"]),
    ],
)
def test_what_is_right(fields: dict[str, object], right: list[str], wrong: list[str]) -> None:
    one = prompt(**fields)
    assert [text for text in right if not one.is_right(text)] == []
    assert [text for text in wrong if one.is_right(text)] == []


def test_lists_and_texts_of_json_are_compared_in_order_and_by_words() -> None:
    assert same_json(["Red", "blue"], ["red", "blue"]) and not same_json(["blue", "red"], ["red", "blue"])
    assert not same_json(None, {}) and not same_json([1, 2], [1])


def test_a_part_of_the_questions_has_all_topics_alike() -> None:
    part = [one.topic for one in chosen(shipped(), 20)]
    assert len(part) == 20 and all(2 <= part.count(topic) <= 3 for topic in set(part)) and len(set(part)) == 8


def test_faults_in_own_questions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    for text, said in (
        ("version: 1\nprompts: {a: [{ask: x, regex: '('}]}", r"prompts.a\[0\].regex"),
        ("version: 1\nprompts: {a: [{ask: x, answer: y}]}", r"prompts.a\[0\].answer"),
        ("version: 1\nprompts: {a: [x]}", r"prompts.a\[0\]: is no mapping"),
        ("prompts: {}", "version: 1"),
        ("[", "is not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_prompts(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path / "none.yaml")


async def test_a_model_is_scored_by_topic(tmp_path: Path) -> None:
    gateway, runtime = build_from(tmp_path, MODELS, p=POLICY)
    responder = gateway.models["fake"].responder
    assert responder is not None
    steps: list[int] = []
    found = await probe("fake", responder, shipped()[:32], step=lambda done, total: steps.append(done))
    topics = found.by_topic()
    assert topics["knowledge"]["right"] == 1 / 16 and topics["arithmetic"]["right"] == 1 / 16
    assert topics["all"]["asked"] == 32 and topics["all"]["cost_usd"] == pytest.approx(0.00203, rel=0.1)
    assert steps[-1] == 32 and not found.stopped
    assert [one.prompt.ask for one in found.answered] == [one.ask for one in shipped()[:32]]
    await runtime.close()


async def test_money_ends_it(tmp_path: Path) -> None:
    gateway, runtime = build_from(tmp_path, MODELS, p=POLICY)
    fake, unpriced = gateway.models["fake"].responder, gateway.models["unpriced"].responder
    assert fake is not None and unpriced is not None
    found = await probe("fake", fake, shipped()[:32], max_cost_usd=0.05)
    assert found.stopped and 1 <= len(found.answered) < 32 and found.cost_usd <= 0.05
    with pytest.raises(CostCapReached, match="no known price"):
        await probe("unpriced", unpriced, shipped()[:8], max_cost_usd=1)
    await runtime.close()


async def test_a_model_that_answers_nothing_is_given_up(tmp_path: Path) -> None:
    gateway, runtime = build_from(tmp_path, MODELS, p=POLICY)
    responder = gateway.models["broken"].responder
    assert responder is not None
    with pytest.raises(BackendError):
        await probe("broken", responder, shipped())
    await runtime.close()


async def test_a_judge_scores_what_has_no_accepted_answer(tmp_path: Path) -> None:
    gateway, runtime = build_from(tmp_path, MODELS, p=POLICY)
    asked, judge = gateway.models["unpriced"].responder, gateway.models["judge"].responder
    assert asked is not None and judge is not None
    prompts = [prompt(ask="Write a poem"), prompt(ask="Write a song")]
    found = await probe("unpriced", asked, prompts, judge=judge)
    assert [one.score for one in found.answered] == [1.0, 0.0]
    alone = await probe("unpriced", asked, prompts)
    assert [one.score for one in alone.answered] == [None, None] and alone.by_topic()["all"]["right"] is None
    await runtime.close()


def run(home: Path, folder: Path, name: str, **options: object) -> Learned:
    config = read_config(*write_config(folder, MODELS, p=POLICY))
    _, files = asyncio.run(run_probe(config, home, name, shipped()[:16], **options))  # type: ignore[arg-type]
    learned = Learned(home)
    learned.write(files)
    return learned


def test_it_fills_a_row_of_the_table_and_replaces_its_own(home: Path, minilm_home: Path, tmp_path: Path) -> None:
    (home / "models").symlink_to(minilm_home / "models")
    run(home, tmp_path / "config", "fake")
    first = read_learned(home)
    assert first is not None and first.at == 0.0
    assert sum(cell.n for cell in first.cells.values()) == pytest.approx(16)
    assert sum(cell.s for cell in first.cells.values()) == pytest.approx(1)
    run(home, tmp_path / "config", "unpriced")
    learned = run(home, tmp_path / "config", "fake")
    again = read_learned(home)
    assert again is not None
    own = [cell for (_, model), cell in again.cells.items() if model == "fake"]
    assert sum(cell.n for cell in own) == pytest.approx(16, rel=1e-3)
    assert {model for _, model in again.cells} == {"fake", "unpriced"}
    probes = learned.read("probes")
    assert probes is not None and probes["probes"]["fake"]["topics"]["knowledge"]["right"] == 0.0625
    assert not (home / "state").exists()


def test_an_unknown_model_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="nobody"):
        run(home, tmp_path / "config", "nobody")


@pytest.mark.model
@pytest.mark.slow
def test_the_core_model_is_probed(home: Path, minilm_home: Path, core_model_path: Path, tmp_path: Path) -> None:
    (home / "models").symlink_to(minilm_home / "models")
    models = f"models: {{core: {{engine: llama.cpp, source: 'file:{core_model_path}', context: 2048, threads: 1}}}}"
    config = read_config(*write_config(tmp_path, models, p="{policy: p, routes: [{name: all, answer: {model: core}}]}"))
    probed, files = asyncio.run(run_probe(config, home, "core", chosen(shipped(), 8)))
    assert len(probed.answered) == 8 and all(one.error is None for one in probed.answered)
    assert all(one.score in (0.0, 1.0) and one.latency_s > 0 and one.output_tokens for one in probed.answered)
    assert {file.name for file in files} == {"probes", "capability"}
