from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gateway.capability.router import Prediction, Router
from gateway.cli import app
from gateway.errors import GatewayError
from gateway.evals import routing, routing_cascade
from gateway.evals.routing_data import Prompt, RoutingData, read
from gateway.evals.routing_vectors import Vectors, key_of
from tests.capability import questions

SETS = {
    "places": {
        "weak": "tiny",
        "strong": "big",
        "models": ["tiny", "big"],
        "price_usd_per_mtok": {"tiny": [0.1, 0.1], "big": [3, 15]},
    },
    "checked": {
        "weak": "tiny",
        "strong": "big",
        "models": ["tiny", "other", "big"],
        "price_usd_per_mtok": {"tiny": [0.1, 0.1], "other": [0.1, 0.1], "big": [3, 15]},
    },
}


def reply(score: float, cost: float, **more: object) -> dict[str, object]:
    return {"s": score, "c": cost, "t": 10, **more}


def rows(name: str, split: str, count: int, seed: int) -> list[dict[str, object]]:
    made = questions.make(count, seed=seed)
    out = []
    for number, text in enumerate(made.texts):
        tiny, big = made.outcomes["tiny"][number], made.outcomes["big"][number]
        models: dict[str, object] = {"tiny": reply(tiny, 1e-5), "big": reply(big, 1e-3)}
        if name == "checked":
            models["tiny"] = reply(tiny, 1e-5, o=20, ok=1, js=1, p="42", x="So it is 42.")
            models["other"] = reply(0.5, 1e-5, o=20, ok=1, js=1, p="42" if tiny else "7")
        out.append(
            {
                "id": f"{name}-{split}-{number}",
                "set": name,
                "bench": name,
                "category": "math" if number % 2 == 0 else "high_school_geography",
                "split": split,
                "prompt": text,
                "models": models,
            }
        )
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routing")
    for split, count, seed in (("train", 160, 0), ("dev", 60, 9)):
        for name in SETS:
            with gzip.open(folder / f"{split}.{name}.jsonl.gz", "wt") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows(name, split, count, seed))
    (folder / "sets.json").write_text(json.dumps(SETS))
    return folder


@pytest.fixture(scope="module")
def vectors(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    """All of them are in its file already: no model is needed, and there is none."""
    cache = tmp_path_factory.mktemp("cache")
    texts = [prompt.text for prompt in read(folder, ["train", "dev"]).all()]
    kinds = [any(word in text.lower() for word in questions.PLACES) for text in texts]
    known = dict(zip(map(key_of, texts), questions.vectors_of([int(kind) for kind in kinds], 0), strict=True))
    keys = np.frombuffer(b"".join(known), np.uint8)
    np.savez(cache / "minilm.npz", keys=keys, rows=np.frombuffer(b"".join(known.values()), np.uint8))
    return Vectors(cache, cache / "no-models")


def run(folder: Path, vectors: Vectors, **options: Any) -> routing.Outcome:
    train, data = read(folder, ["train"]), read(folder, ["dev"])
    if "without" in options:
        train = routing.without(train, options["without"])
    if "only" in options:
        data = RoutingData(data.sets, {options["only"]: data.prompts[options["only"]]})
    return routing.run(train, data, vectors, options.get("labels"), lambda done, total: None)


@pytest.fixture(scope="module")
def outcome(folder: Path, vectors: Vectors) -> routing.Outcome:
    """Of all sets and all labels."""
    return run(folder, vectors)


@pytest.fixture(scope="module")
def router(folder: Path, vectors: Vectors) -> Router:
    return routing.fit(read(folder, ["train"]), vectors.of)


def lines(outcome: routing.Outcome, name: str) -> list[Mapping[str, Any]]:
    return [one.line for one in outcome.predicted[name]]


def apart(outcome: routing.Outcome, key: str, name: str = "places") -> float:
    found = [float(line[key]) for line in lines(outcome, name)]
    return float(np.mean(found[::2]) - np.mean(found[1::2]))


def test_what_the_weak_model_gets_wrong_goes_to_the_strong_one(outcome: routing.Outcome) -> None:
    assert apart(outcome, "score") > 0.3
    assert apart(outcome, "p_weak") < -0.3
    assert "quality" not in lines(outcome, "places")[0]
    assert set(lines(outcome, "checked")[0]["quality"]) == {"tiny", "other", "big"}


def test_a_second_opinion_tells_of_an_answer_that_is_there(outcome: routing.Outcome) -> None:
    assert outcome.seconds == {"checked": "other"}
    assert all(0 <= line["conf"] <= 1 and line["extra"] == 1e-5 for line in lines(outcome, "checked"))
    weak = [one.prompt.models["tiny"]["s"] for one in outcome.predicted["checked"]]
    sure = [line["conf"] for line in lines(outcome, "checked")]
    right = [one for one, score in zip(sure, weak, strict=True) if score]
    assert np.mean(right) > np.mean([one for one, score in zip(sure, weak, strict=True) if not score]) + 0.1


def test_a_set_that_was_not_in_training_is_predicted_by_what_the_others_say(folder: Path, vectors: Vectors) -> None:
    outcome = run(folder, vectors, without="places", only="places")
    assert apart(outcome, "score") > 0.1
    assert "conf" not in lines(outcome, "places")[0]


def test_few_labels_are_enough_beside_a_prior(folder: Path, vectors: Vectors) -> None:
    outcome = run(folder, vectors, labels=20, only="places")
    assert outcome.trained_on == 20
    assert apart(outcome, "score") > 0.2


def test_no_labels_are_what_a_prior_alone_says(folder: Path, vectors: Vectors) -> None:
    assert run(folder, vectors, labels=0, only="places").trained_on == 0


def test_labelled_prompts_are_spread_over_all_kinds(folder: Path, vectors: Vectors, router: Router) -> None:
    train = read(folder, ["train"])
    few = routing.representative(train.prompts["places"], router, 20, vectors.of)
    assert len({prompt.id for prompt in few}) == 20
    assert sum("math/" in prompt.label for prompt in few) == 10


def test_what_is_like_nothing_in_training_gets_the_average(router: Router) -> None:
    said = router.predict("anything", questions.unlike())
    average = routing.abstained(router, said)
    assert average.difficulty == router.base_rate
    assert set(average.p_right) == set(said.p_right)
    known = replace(said, known=1.0)
    assert routing.abstained(router, known) is known


def test_a_model_that_nobody_tried_is_judged_by_its_price(folder: Path, router: Router) -> None:
    train = read(folder, ["train"])
    prices = {"tiny": (0.1, 0.1), "new": (0.5, 0.6), "newer": (1.0, 1.0), "dear": (9.0, 9.0)}
    fresh = replace(train.sets["places"], strong="newer", models=list(prices), prices=prices)
    said = Prediction(0.6, {"tiny": 0.4}, None, 1.0, 0.3)
    found = routing.qualities(fresh, router, said, knows=False)
    assert found["tiny"] == 0.4
    assert found["newer"] == pytest.approx(0.5)
    assert found["new"] == pytest.approx(0.45)
    assert found["new"] < found["dear"] < found["newer"]


def test_answers_that_read_the_same_are_the_same() -> None:
    assert routing_cascade.normalised(" 1,000.0 ") == routing_cascade.normalised("$1000$") == "1000"
    assert routing_cascade.normalised("\\dfrac{1}{2}") == routing_cascade.normalised("\\frac{1}{2}.")
    assert routing_cascade.normalised("[1, 2]") != routing_cascade.normalised("[12]")
    assert routing_cascade.normalised(None) == ""
    assert routing_cascade.normalised("1e999") == "1e999"


def test_a_dearer_model_is_not_asked_for_a_second_opinion(folder: Path) -> None:
    data = read(folder, ["train"])
    assert routing_cascade.seconds(data.sets["checked"], data.prompts["checked"]) == ["other"]
    dear = replace(data.sets["checked"], prices={**data.sets["checked"].prices, "other": (1.0, 1.0)})
    assert routing_cascade.seconds(dear, data.prompts["checked"]) == []


@pytest.mark.parametrize("model", [{"ok": 1}, {"ok": 0, "p": None, "x": None}, {"p": "x" * 5000, "o": 0}])
def test_an_odd_reply_can_be_looked_at(model: dict[str, object]) -> None:
    prompt = Prompt("1", "s", "b", "/", "text", {"weak": model, "other": {}})
    found = routing_cascade.features(prompt, "weak", "other", Prediction(0.5, {}, None, 1.0))
    assert np.isfinite(found).all()


def test_a_set_that_is_not_there_cannot_be_left_out(folder: Path) -> None:
    with pytest.raises(GatewayError, match="no set 'other'"):
        routing.without(read(folder, ["train"]), "other")


@pytest.mark.parametrize(
    ("file", "text"),
    [("sets.json", "{"), ("sets.json", "{}"), ("dev.places.jsonl", "{}\n"), ("dev.places.jsonl", "no json\n")],
)
def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "sets.json").write_text((folder / "sets.json").read_text())
    (tmp_path / "dev.places.jsonl").write_text(json.dumps(rows("places", "dev", 1, 0)[0]))
    (tmp_path / file).write_text(text)
    with pytest.raises(GatewayError, match=file.split(".")[0]):
        read(tmp_path, ["dev"])


def test_a_split_without_prompts_is_an_error(folder: Path) -> None:
    with pytest.raises(GatewayError, match="holdout"):
        read(folder, ["holdout"])


@pytest.mark.slow
def test_the_command_writes_a_line_for_each_prompt(
    folder: Path, tmp_path: Path, minilm_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_HOME", str(minilm_home))
    out, cache = tmp_path / "predicted.jsonl", tmp_path / "cache"
    given = ["eval", "routing", "--train", folder, "--data", folder, "--out", out, "--cache", cache, "--json"]
    done = CliRunner().invoke(app, [str(one) for one in given])
    assert done.exit_code == 0, done.output
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["id"] for line in written} == {prompt.id for prompt in read(folder, ["dev"]).all()}
    told = json.loads(done.stdout)
    assert told["sets"]["places"]["apgr"] > told["sets"]["places"]["apgr_random"]
    assert told["sets"]["places"]["apgr_oracle"] >= told["sets"]["places"]["apgr"]
    assert {"saved_at_99", "saved_at_99_no_router", "cascade_gap_closed"} <= set(told["sets"]["checked"])
    assert (cache / "minilm.npz").exists()


def test_the_command_prints_the_baselines_beside_it(
    folder: Path, tmp_path: Path, minilm_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_HOME", str(minilm_home))
    monkeypatch.setenv("COLUMNS", "200")
    given = ["eval", "routing", "--train", folder, "--data", folder / "dev.places.jsonl.gz", "--labels", 10]
    given += ["--out", tmp_path / "predicted.jsonl", "--cache", tmp_path / "cache"]
    done = CliRunner().invoke(app, [str(one) for one in given])
    assert done.exit_code == 0, done.output
    assert "APGR" in done.stdout and "length" in done.stdout and "oracle" in done.stdout
    assert "fitted in" in done.stdout
