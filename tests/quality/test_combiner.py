"""The chance that a draft is right: near the truth whatever its shape, and with few labels no worse than with none."""

from __future__ import annotations

import math
import random

import pytest

from gateway.quality.calibration import auroc, ece
from gateway.quality.combiner import COLD, Combiner, Row, Term
from gateway.quality.combiner_fit import FEWEST, fit, fit_and_predict


def drafts(count: int, seed: int) -> list[Row]:
    """Of two kinds, of which log-probabilities tell different things; a step, a bend and an interaction that no line
    follows; scores that are often missing, and a feature of noise."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        is_json = rng.random() < 0.4
        mean = -rng.expovariate(3.0)
        features = {"logprob_mean": mean, "kind_json" if is_json else "kind_text": 1.0, "noise": rng.gauss(0, 9)}
        truth = math.exp(5 * mean) if is_json else 0.2 + 0.6 * (mean > -0.25)
        if rng.random() < 0.5:
            features["check_agreement"] = agreement = rng.random()
            truth = 0.5 * truth + 0.5 * agreement**2
        else:
            truth *= 0.8
        rows.append(Row(features, float(rng.random() < truth)))
    return rows


def judged(combiner: Combiner, rows: list[Row]) -> tuple[float, float]:
    """(calibration error, AUROC)."""
    chances, labels = [combiner.predict(row.features) for row in rows], [row.label for row in rows]
    ranked = auroc(chances, labels)
    assert ranked is not None
    return ece(chances, labels), ranked


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_calibration_error_is_at_most_five_hundredths_on_drafts_it_has_not_seen(seed: int) -> None:
    combiner, fresh = fit(drafts(800, seed)), drafts(6000, seed + 100)
    error, ranked = judged(combiner, fresh)
    assert error <= 0.05
    assert ranked > judged(COLD, fresh)[1] + 0.03
    assert combiner.error is not None and combiner.error <= 0.06 and combiner.rows == 800


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_forty_labels_do_not_make_it_worse_than_none(seed: int) -> None:
    fresh = drafts(4000, seed + 100)
    cold, fitted = judged(COLD, fresh), judged(fit(drafts(FEWEST, seed)), fresh)
    assert fitted[1] >= cold[1] - 0.02
    assert fitted[0] <= 0.15
    assert fit(drafts(FEWEST - 1, seed)) is COLD


def test_chances_of_its_own_rows_are_predicted_by_others() -> None:
    """A feature that names the row is worth nothing, and does not look as if it were."""
    rng = random.Random(2)
    rows = [Row({"logprob_mean": -rng.random(), f"odd{n % 20}": 1.0}, float(rng.random() < 0.5)) for n in range(400)]
    combiner, chances = fit_and_predict(rows)
    labels = [row.label for row in rows]
    ranked = auroc(chances, labels)
    assert ranked is not None and abs(ranked - 0.5) < 0.08
    assert combiner.error is not None and combiner.error < 0.1
    assert fit_and_predict(rows[:10])[0] is COLD


def test_the_same_rows_give_the_same_combiner() -> None:
    assert fit(drafts(200, 1)).as_json() == fit(drafts(200, 1)).as_json()
    assert fit(drafts(200, 1)).fingerprint != fit(drafts(200, 2)).fingerprint


def test_weights_stand_for_drafts_that_were_not_compared() -> None:
    rows = drafts(600, 5)
    thinned = [row._replace(weight=3.0) for row in rows[::3]]
    assert judged(fit(rows[::3]), rows)[0] == pytest.approx(judged(fit(thinned), rows)[0])
    rare = [Row({"logprob_mean": -0.1}, 1.0, 9.0)] * 50 + [Row({"logprob_mean": -0.1}, 0.0)] * 50
    assert fit(rare).predict({"logprob_mean": -0.1}) > 0.75


def test_labels_of_one_kind_and_features_of_one_value() -> None:
    combiner = fit([Row({"logprob_mean": -0.5, "tokens": 3.0}, 1.0)] * 60)
    assert 0.8 < combiner.predict({"logprob_mean": -0.5}) <= 1
    assert 0 <= combiner.predict({}) <= 1


def test_what_is_missing_or_no_number_or_far_out_is_no_accident() -> None:
    combiner = fit(drafts(300, 3))
    for features in ({}, {"logprob_mean": math.nan}, {"logprob_mean": -1e300}, {"unknown": 1.0}, {"noise": 1e300}):
        assert 0 <= combiner.predict(features) <= 1
    assert combiner.predict({"logprob_mean": math.nan}) == combiner.predict({})


def test_the_cold_start_goes_by_logprobs() -> None:
    chances = [COLD.predict({"logprob_mean": mean}) for mean in (-2.0, -0.9, -0.3, -0.01)]
    assert chances == sorted(chances) and chances[0] < 0.1 and chances[-1] > 0.6
    assert COLD.predict({}) < 0.5


def test_it_survives_json() -> None:
    combiner = fit(drafts(300, 3))
    again = Combiner.from_json(combiner.as_json())
    assert again.fingerprint == combiner.fingerprint
    for row in drafts(50, 4):
        assert again.predict(row.features) == pytest.approx(combiner.predict(row.features), abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"intercept": "much"},
        {"intercept": math.nan},
        {"terms": []},
        {"terms": {"a": {"mean": 0}}},
        {"terms": {"a": {"mean": 0, "scale": 0, "weight": 1, "missing": 0}}},
        {"curve": {"x": [1, 0], "y": [0, 1]}},
    ],
)
def test_damage_is_told(change: dict[str, object]) -> None:
    data = Combiner(0.0, {"a": Term(0, 1, 1)}).as_json()
    with pytest.raises(ValueError, match="not a combiner"):
        Combiner.from_json({**data, **change})
