"""A rise of losses is seen within few labels, and chance is not taken for one."""

from __future__ import annotations

import random

import pytest

from gateway.quality.drift import ALARM, Drift, Levels, Past, bet_on, upper_level

LEVELS = Levels(0.05, 0.5, 0.3)


def labels_until_alarm(
    served: float, escalated: float, seed: int, most: int, share: float = 0.4, levels: Levels = LEVELS
) -> int | None:
    """`served`: loss of the accepted. All are labelled."""
    drift, rng = Drift(), random.Random(seed)
    drift.anchor(levels)
    for number in range(most):
        if rng.random() < share:
            alarm = drift.note(float(rng.random() < served), None, 0.0)
        else:
            loss = float(rng.random() < escalated)
            alarm = drift.note(0.0, loss, loss)
        if alarm:
            return number + 1
    return None


def test_at_its_levels_it_hardly_ever_speaks() -> None:
    """Worst case: losses exactly at the levels. At most one alarm in so many labels is promised on average."""
    runs, length = 60, 500
    alarms = sum(labels_until_alarm(0.125, 0.5, seed, length) is not None for seed in range(runs))
    assert alarms <= 0.05 * runs  # the bound is length / ALARM, a half


def test_below_them_it_is_silent() -> None:
    assert all(labels_until_alarm(0.05, 0.45, seed, 3000) is None for seed in range(20))


def test_a_rise_among_the_accepted_is_seen() -> None:
    found = [labels_until_alarm(0.45, 0.5, seed, 1000) for seed in range(40)]
    assert all(found) and sorted(found)[36] <= 150  # type: ignore[type-var]


def test_a_rise_among_the_escalated_is_seen_without_an_audit() -> None:
    drift, rng = Drift(), random.Random(1)
    drift.anchor(LEVELS)
    losses = (float(rng.random() < 0.75) for _ in range(400))
    found = next(number for number, loss in enumerate(losses) if drift.note(None, loss, loss))
    assert found < 120


def test_suspicion_grows_before_the_alarm() -> None:
    drift = Drift()
    assert drift.suspicion == 1 and not drift.note(1.0, None, 0.0)  # there is nothing to compare with yet
    drift.anchor(LEVELS)
    assert not drift.note(1.0, None, 0.0)
    assert 2 < drift.suspicion < ALARM
    for _ in range(100):
        drift.note(0.0, None, 0.0)
    assert drift.suspicion == 1


@pytest.mark.parametrize("level", [1e-6, 0.05, 0.5, 0.999999])
@pytest.mark.parametrize("odds", [1, 1.5, 8])
def test_a_bet_is_fair_at_its_level_and_never_loses_everything(level: float, odds: float) -> None:
    stake = bet_on(level, odds)
    won, lost = 1 + stake * (1 - level), 1 - stake * level
    assert lost > 0
    assert level * won + (1 - level) * lost == pytest.approx(1)


def test_levels_are_a_little_above_what_was_seen() -> None:
    past = Past(3)
    for number in range(300):
        past.add(2, float(number % 2))
        past.add(0, None)
    escalated, overall = past.levels(1)
    assert 0.5 < escalated < 0.56 and 0.25 < overall < 0.29
    assert Past(3).levels(0) == (1.0, 1.0)
    past.halve()
    assert past.levels(1)[0] > escalated  # of less, less is known
    assert Past.from_json(past.as_json(), 3).as_json() == past.as_json()
    with pytest.raises(ValueError, match="4 places"):
        Past.from_json(past.as_json(), 4)
    assert upper_level(0.0, 0) == 1.0


def test_it_survives_json() -> None:
    drift = Drift()
    assert Drift.from_json(drift.as_json()).levels is None
    drift.anchor(LEVELS)
    drift.note(1.0, None, 0.0)
    again = Drift.from_json(drift.as_json())
    assert again.levels == LEVELS and again.suspicion == pytest.approx(drift.suspicion)
    assert drift.note(0.0, 1.0, 1.0) == again.note(0.0, 1.0, 1.0)
    assert again.wealth == pytest.approx(drift.wealth, rel=1e-5)
