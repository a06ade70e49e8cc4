"""The promise holds on simulated streams, and a step in the pass rate is seen in time."""

from __future__ import annotations

import pytest

from bench.promise import Cell, Outcome, Traffic, calm_row, cells, outcomes_of, quantile, share_of, step_row
from gateway.quality.certify import UNCERTIFIED
from gateway.quality.promise import Terms

FEW = 24  # streams
STEP_AUDITS = 200


def quick(step: float = 0.0, shows: bool = False, target: float = 0.95) -> tuple[Cell, list[Outcome]]:
    traffic = Traffic(step=step, shows=shows, requests=2000, step_at=1000)
    cell = Cell(traffic, Terms(target, reading="strict", strong_quality=0.93))
    return cell, outcomes_of(cell, FEW)


def test_the_simulated_regret_is_the_computed_one() -> None:
    traffic = Traffic(requests=60_000)
    drawn = list(traffic.draw(1))
    for threshold in (0.5, 0.9):
        accepted = [net for score, net in drawn if score >= threshold]
        assert len(accepted) / len(drawn) == pytest.approx(traffic.share(threshold), abs=0.01)
        assert sum(accepted) / len(drawn) == pytest.approx(traffic.regret(threshold, "net"), abs=0.006)
        strict = sum(max(0.0, net) for net in accepted) / len(drawn)
        assert strict == pytest.approx(traffic.regret(threshold, "strict"), abs=0.006)
    assert traffic.share(UNCERTIFIED) == 0
    assert traffic.attainable(0.0465, "strict") == pytest.approx(0.497, abs=0.01)


@pytest.mark.parametrize("shows", [False, True])
def test_a_step_makes_20_points_less_right(shows: bool) -> None:
    traffic = Traffic(requests=40_000, step=0.2, step_at=20_000, shows=shows, strong=1.0)
    wrong = [net for _, net in traffic.draw(2)]
    assert sum(wrong[20_000:]) / 20_000 - sum(wrong[:20_000]) / 20_000 == pytest.approx(0.2, abs=0.015)


def test_a_few_exchangeable_streams_keep_the_promise() -> None:
    cell, outcomes = quick()
    assert share_of(outcomes, lambda one: one.regret > cell.terms.allowed_regret) <= 0.09
    assert share_of(outcomes, lambda one: one.is_wrong) <= 0.17
    assert all(one.certified_at for one in outcomes)
    assert sum(one.share for one in outcomes) / FEW > 0.2
    assert "0.0%" in calm_row(cell, outcomes)


@pytest.mark.slow
def test_a_few_streams_with_a_step_fall_back_in_time() -> None:
    cell, outcomes = quick(step=0.2)
    assert share_of(outcomes, lambda one: one.regret > cell.terms.allowed_regret) <= 0.17
    late = [one for one in outcomes if one.certified_before_step and (one.audits_to_fall_back or 0) > STEP_AUDITS]
    assert len(late) <= 2
    assert cell.name in step_row(cell, outcomes)


def test_quantiles_tell_what_never_came() -> None:
    assert quantile([3, 1, 2], 50) == "2" and quantile([1, None], 95) == "never" and quantile([], 50) == "never"


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells(0.0), ids=lambda cell: cell.name)
def test_500_exchangeable_streams_keep_the_promise(cell: Cell) -> None:
    outcomes = outcomes_of(cell, 500)
    assert share_of(outcomes, lambda one: one.regret > cell.terms.allowed_regret) <= 0.07
    assert share_of(outcomes, lambda one: one.is_wrong) <= 0.07
    assert share_of(outcomes, lambda one: one.false_alarms > 0) <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("cell", [*cells(0.2), *cells(0.2, shows=True)], ids=lambda cell: cell.name)
def test_a_step_of_20_points_breaks_few_promises(cell: Cell) -> None:
    outcomes = outcomes_of(cell, 200)
    assert share_of(outcomes, lambda one: one.regret > cell.terms.allowed_regret) <= 0.1
    audits = [one.audits_to_fall_back for one in outcomes if one.certified_before_step]
    assert sum(count is None or count > STEP_AUDITS for count in audits) <= 0.1 * len(audits)


def test_streams_are_the_same_for_the_same_seed() -> None:
    traffic = Traffic(requests=50)
    assert list(traffic.draw(3)) == list(traffic.draw(3)) != list(traffic.draw(4))
