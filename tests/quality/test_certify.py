"""The loosest threshold that labels can show to be good enough, and no looser one."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quality.bounds import binomial_upper
from gateway.quality.certify import GRID, UNCERTIFIED, Audited, Evidence, certify, grid_of

TERMS = {"allowed_regret": 0.05, "confidence": 0.95}


def labels(count: int, *losses: float) -> list[Audited]:
    """Scores evenly from 0.99 down; those nearest to the given scores lose."""
    found = [Audited(0.99 - 0.98 * n / count, 0.0) for n in range(count)]
    for score in losses:
        at = min(range(count), key=lambda n: abs(found[n].score - score))
        found[at] = Audited(found[at].score, 1.0)
    return found


def test_too_few_labels_certify_nothing() -> None:
    found = certify(labels(58), **TERMS)
    assert not found.is_certified and found.threshold == UNCERTIFIED and found.share == 0
    assert certify([], **TERMS).bound == 1.0
    assert certify(labels(59), **TERMS).is_certified


def test_the_threshold_lies_above_the_first_loss_that_is_too_many() -> None:
    none = certify(labels(200), **TERMS)
    assert none.threshold == GRID[-1] and none.losses == 0
    found = certify(labels(200, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3), **TERMS)
    assert found.losses == 4  # 208 labels would be needed for five
    assert 0.4 < found.threshold <= 0.5
    assert found.bound == pytest.approx(binomial_upper(4, 200, 0.05)) and found.bound <= 0.05
    assert found.mean == pytest.approx(4 / 200)
    assert found.count == 200 and found.share == pytest.approx((0.99 - found.threshold) / 0.98, abs=0.01)


def test_regret_is_a_mean_over_all_traffic() -> None:
    """Half of what is accepted may be wrong where next to nothing is accepted."""
    rare = [Audited(0.9, float(n % 2)) for n in range(6)] + [Audited(0.01, 1.0)] * 300
    assert certify(rare, **TERMS).threshold < 0.9


def test_wins_offset_losses_in_the_net_reading_only() -> None:
    mixed = [Audited(0.9, 1.0)] * 60 + [Audited(0.9, -1.0)] * 60 + [Audited(0.9, 0.0)] * 1000
    assert certify(mixed, **TERMS, reading="net").threshold < 0.9
    strict = certify(mixed, **TERMS)
    assert strict.threshold > 0.9 and strict.share == 0  # none is accepted


def test_graded_regrets_are_bounded_by_betting() -> None:
    graded = [Audited(0.9, 0.25 if n % 50 == 0 else 0.0) for n in range(1000)]
    found = certify(graded, **TERMS)
    assert found.is_certified and 0.005 < found.bound <= 0.05


def test_a_threshold_is_met_by_scores_that_are_equal() -> None:
    evidence = Evidence((0.9, 0.5))
    for score in (0.95, 0.9, 0.899, 0.5, 0.499, 0.0):
        evidence.add(score, 1.0)
    assert [evidence.accepted(place)[1.0] for place in (0, 1)] == [2, 4]
    assert evidence.escalated(1)[1.0] == 2


def test_the_grid_goes_down_and_a_regret_is_no_more_than_one() -> None:
    assert list(GRID) == sorted(set(GRID), reverse=True) and (GRID[0], GRID[-1]) == (0.999, 0.05)
    assert len(grid_of(10)) == 10
    with pytest.raises(ValueError, match="strictest"):
        Evidence((0.5, 0.9))
    with pytest.raises(ValueError, match="between -1 and 1"):
        Evidence().add(0.5, 1.5)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([-1.0, 0.0, 0.2, 1.0])), max_size=300),
    st.sampled_from(["strict", "net"]),
)
def test_evidence_survives_json(drawn: list[tuple[float, float]], reading: str) -> None:
    evidence = Evidence(reading=reading)  # type: ignore[arg-type]
    for score, regret in drawn:
        evidence.add(score, regret)
    evidence.look(0.2, 0.2)
    again = Evidence.from_json(evidence.as_json(), reading=reading)  # type: ignore[arg-type]
    assert again.as_json() == evidence.as_json() and again.count == len(drawn)
    assert again.threshold == evidence.threshold


@pytest.mark.parametrize("reading", ["strict", "net"])
def test_looking_as_labels_come_certifies_a_bad_threshold_in_no_more_than_delta_of_runs(reading: str) -> None:
    """Losses are commoner the lower the score: from 0.5 on, too common. Nobody may get there."""
    rng, runs, wrong = random.Random(3), 200, 0
    for _ in range(runs):
        evidence = Evidence((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), reading)  # type: ignore[arg-type]
        for n in range(600):
            score = rng.random()
            loss = float(rng.random() < 0.4 * (1 - score))
            win = float(reading == "net" and rng.random() < 0.05)
            evidence.add(score, loss - win)
            if n % 10 == 9:
                evidence.look(true_regret(0.5, reading) - 1e-9, 0.05)
                if evidence.threshold <= 0.5:
                    wrong += 1
                    break
    assert wrong <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)


def true_regret(threshold: float, reading: str) -> float:
    return 0.2 * (1 - threshold) ** 2 - (0.05 * (1 - threshold) if reading == "net" else 0)


def test_a_threshold_whose_labels_come_to_speak_against_it_is_taken_back() -> None:
    evidence = Evidence()
    for _ in range(200):
        evidence.add(0.7, 0.0)
    evidence.look(0.05, 0.05)
    assert evidence.threshold < 0.7
    for _ in range(40):
        evidence.add(0.7, 1.0)
    evidence.look(0.05, 0.05)
    assert evidence.threshold > 0.7
