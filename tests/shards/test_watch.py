"""The watch over a released shard: what it retires, what it keeps, and how often it errs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from gateway.shards import Standing, State
from gateway.shards.proving.evidence import baseline
from gateway.shards.proving.watch import (
    DAY_S,
    SHARE_LIVE,
    SHARE_ON_TRIAL,
    Action,
    Arms,
    Finding,
    against_lift,
    chance_of_lift,
    draw,
    faded,
    is_withheld,
    least_rate,
    lift,
    rank,
    share_withheld,
    utility,
    watch,
)

FALLS = (0.95, 0.8, 0.7, 0.65)  # the rate before a fall by 60 points
LIFTS = ((0.2, 0.4), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9))  # rates without and with a shard that helps
CASES = 12


def proven(random: Random, rate: float, cases: int = CASES) -> float:
    """The baseline of a proof that a shard of this rate was admitted with."""
    while True:
        passed = sum(random.random() < rate for _ in range(cases))
        if passed >= 0.6 * cases:
            return baseline(passed, cases)


def uses(
    random: Random, standing: Standing, rates: tuple[float, float], share: float, count: int, least: float
) -> Iterator[tuple[int, Standing, Finding]]:
    """(use, standing, finding) of requests that pass at these rates without and with the shard, to its retirement."""
    for use in range(1, count + 1):
        was_shown = random.random() >= (share or share_withheld(standing.state))
        standing, finding = watch(standing, was_shown, random.random() < rates[was_shown], least)
        yield use, standing, finding
        if finding.action is Action.RETIRE:
            return


def after(random: Random, rates: tuple[float, float], count: int, share: float, state: State = State.LIVE) -> Standing:
    """A standing as it is after so many uses at these rates."""
    withheld = sum(random.random() < share for _ in range(count))
    withheld_passed = sum(random.random() < rates[0] for _ in range(withheld))
    shown_passed = sum(random.random() < rates[1] for _ in range(count - withheld))
    return Standing("s", "core", state, "", {}, count - withheld, shown_passed, withheld, withheld_passed)


def uses_to_retire(random: Random, rate: float, share: float, good: int, cases: int = CASES) -> float:
    """After a fall by 60 points; infinite if it takes more than 60."""
    least, without = proven(random, rate, cases), 0.3 * rate
    standing = after(random, (without, rate), good, share)
    for use, _, finding in uses(random, standing, (without, rate - 0.6), share, 60, least):
        if finding.action is Action.RETIRE:
            return use
    return math.inf


def is_retired(random: Random, rates: tuple[float, float], standing: Standing, count: int) -> Finding | None:
    least = proven(random, rates[1])
    findings = [finding for _, _, finding in uses(random, standing, rates, 0.0, count, least)]
    return findings[-1] if findings[-1].action is Action.RETIRE else None


# -- falls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [0, 50, 500])
@pytest.mark.parametrize("share", [SHARE_LIVE, SHARE_ON_TRIAL])
@pytest.mark.parametrize("rate", FALLS)
def test_a_fall_by_sixty_points_retires_it_within_sixty_uses(rate: float, share: float, good: int) -> None:
    random = Random(f"{rate} {share} {good}")
    taken = [uses_to_retire(random, rate, share, good) for _ in range(100)]
    assert sum(map(math.isfinite, taken)) >= 95


def test_the_reason_is_told() -> None:
    standing = Standing("s", "core", State.LIVE, shown=90, shown_passed=85, withheld=10, withheld_passed=3)
    finding = None
    while standing.state is State.LIVE:
        standing, finding = watch(standing, was_shown=True, passed=False, baseline=0.8)
    assert finding == Finding(Action.RETIRE, "it fell: 0 of its last 7 uses passed")
    assert (standing.state, standing.shown, standing.shown_passed) == (State.RETIRED, 98, 85)


def test_a_shard_that_passes_less_than_without_it_is_retired() -> None:
    random = Random(4)
    standing = Standing("s", "core", State.LIVE)
    retired = [finding for *_, finding in uses(random, standing, (0.9, 0.4), 0.3, 400, least=0.3)][-1]
    assert retired.action is Action.RETIRE
    assert retired.why.startswith("it hurts: ")


def test_it_is_blamed_less_where_requests_without_it_got_worse_as_well() -> None:
    """Both rates fall by 40 points, and one in five requests goes without it."""
    random, runs = Random(9), 60

    def blamed(without: float) -> int:
        retired = 0
        for _ in range(runs):
            standing = after(random, (0.6, 0.8), 500, 0.2)
            retired += any(f.action is Action.RETIRE for *_, f in uses(random, standing, (without, 0.4), 0.2, 150, 0.6))
        return retired

    assert blamed(without=0.6) > 0.8 * runs
    assert blamed(without=0.2) < 0.4 * runs


def test_it_is_not_blamed_where_its_reader_fell() -> None:
    standing = Standing("s", "core", State.LIVE, shown=90, shown_passed=85, withheld=10, withheld_passed=3)
    for _ in range(200):
        standing, finding = watch(standing, was_shown=True, passed=False, baseline=0.8, reader_fell=True)
        assert finding.action is Action.KEEP
    for _ in range(200):  # and what is asked of it afterwards is what it does now
        standing, finding = watch(standing, was_shown=True, passed=False, baseline=0.8)
        assert finding.action is Action.KEEP


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", LIFTS)
def test_twenty_points_of_lift_are_kept_after_the_trial(rates: tuple[float, float]) -> None:
    random = Random(f"keep {rates}")
    kept = [is_retired(random, rates, after(random, rates, 200, SHARE_ON_TRIAL), 150) is None for _ in range(100)]
    assert sum(kept) >= 98


def test_requests_that_pass_raise_no_doubt() -> None:
    standing = Standing("s", "core", State.LIVE)
    for _ in range(500):
        standing, finding = watch(standing, was_shown=True, passed=True, baseline=0.9)
        assert finding.action is Action.KEEP
    assert standing.alarm["doubted"] == [0, 0, 0, 0]
    assert standing.alarm["past"] == [500, 500, 0, 0]


# -- trials ----------------------------------------------------------------------------------------------------------


def test_a_trial_that_helps_is_promoted() -> None:
    random = Random(1)
    *_, (use, standing, finding) = _until_promoted(random, (0.5, 0.8))
    assert finding.action is Action.PROMOTE
    assert finding.why.startswith("it helps: ")
    assert standing.state is State.LIVE
    assert 150 < use < 500


def _until_promoted(random: Random, rates: tuple[float, float]) -> Iterator[tuple[int, Standing, Finding]]:
    for use, standing, finding in uses(random, Standing("s", "core", State.TRIAL), rates, 0.0, 4000, 0.1):
        yield use, standing, finding
        if finding.action is Action.PROMOTE:
            return


def test_a_trial_that_shows_no_gain_ends() -> None:
    random = Random(2)
    *_, (use, standing, finding) = uses(random, Standing("s", "core", State.TRIAL), (0.72, 0.7), 0.0, 4000, 0.4)
    assert standing.state is State.RETIRED
    assert finding.why.startswith("no gain shown in ")
    assert 1500 < use < 2600


def test_a_live_shard_without_use_is_retired_once_that_is_sure() -> None:
    sure = Standing("s", "core", State.LIVE, shown=8000, shown_passed=7840, withheld=4000, withheld_passed=3919)
    standing, finding = watch(sure, was_shown=False, passed=True, baseline=0.6)
    assert standing.state is State.RETIRED
    assert finding.why == "no use: 98% pass with it, 98% without"
    unsure = replace(sure, shown=800, shown_passed=784, withheld=99, withheld_passed=97)
    assert watch(unsure, was_shown=False, passed=True, baseline=0.6)[1].action is Action.KEEP


@pytest.mark.parametrize("state", [State.CANDIDATE, State.RETIRED])
def test_what_is_not_served_is_only_counted(state: State) -> None:
    standing = Standing("s", "core", state)
    for _ in range(50):
        standing, finding = watch(standing, was_shown=True, passed=False, baseline=0.9)
        assert finding.action is Action.KEEP
    assert (standing.state, standing.shown) == (state, 50)


# -- the statistics --------------------------------------------------------------------------------------------------


def test_evidence_against_a_lift_that_is_there_is_rare_whenever_one_looks() -> None:
    """An e-process passes log(20) in one run of twenty at most, over all looks."""
    random, wrong, runs = Random(7), 0, 100
    for _ in range(runs):
        arms, most = Arms(), 0.0
        for n in range(300):
            shown = random.random() < 0.5
            passed = float(random.random() < 0.5)
            arms = arms.plus(Arms(1.0, passed) if shown else Arms(0.0, 0.0, 1.0, passed))
            if n % 15 == 0:
                most = max(most, against_lift(arms, 0.0))
        wrong += most >= math.log(20)
    assert wrong <= runs // 20


def test_evidence_against_a_lift_grows_where_there_is_none() -> None:
    values = [against_lift(Arms(n, 0.5 * n, n, 0.7 * n), 0.0) for n in (20, 100, 500)]
    assert values == sorted(values)
    assert values[-1] > 15
    assert against_lift(Arms(100, 70, 100, 50), 0.03) == 0.0


def test_the_chance_of_a_lift_has_no_step_where_it_spares_the_integral() -> None:
    values = [chance_of_lift(Arms(100, passed, 30, 15)) for passed in range(40, 71)]
    assert values == sorted(values)
    assert max(high - low for low, high in zip(values, values[1:], strict=False)) < 0.06
    assert chance_of_lift(Arms(100, 70, 30, 15)) == pytest.approx(0.973, abs=0.005)


def test_what_is_asked_follows_the_proof_and_then_what_was_seen() -> None:
    assert least_rate(Arms(), 0.7) == pytest.approx(0.67)
    assert least_rate(Arms(), 0.0) == 0.0
    assert least_rate(Arms(500, 475), 0.7) == pytest.approx(0.83, abs=0.01)  # it does better than its proof
    assert least_rate(Arms(500, 200), 0.7) == pytest.approx(0.34, abs=0.01)  # its proof was luck
    assert least_rate(Arms(10**6, 10**6), 1.0) < 1.0


# -- what is stored --------------------------------------------------------------------------------------------------


def test_the_watch_survives_json_and_stays_small() -> None:
    random = Random(3)
    standing = stored = Standing("s", "core", State.TRIAL)
    for use in range(200):
        was_shown, passed = random.random() < 0.8, random.random() < 0.6
        standing, _ = watch(standing, was_shown, passed, 0.5, now=1e9 + 60 * use)
        stored, _ = watch(stored, was_shown, passed, 0.5, now=1e9 + 60 * use)
        stored = replace(stored, alarm=json.loads(json.dumps(stored.alarm)))
        assert stored == standing
    assert len(json.dumps(standing.alarm)) < 400
    assert standing.shown + standing.withheld == 200
    assert all(isinstance(count, int) for count in (standing.shown_passed, standing.withheld_passed))


def test_evidence_fades_by_two_per_cent_a_day() -> None:
    standing = Standing("s", "core", State.LIVE)
    for _ in range(100):
        standing, _ = watch(standing, was_shown=True, passed=True, baseline=0.5, now=0.0)
    assert faded(standing, 0.0).shown == 100
    assert faded(standing, DAY_S).shown == pytest.approx(98)
    assert faded(standing, 50 * DAY_S).shown == pytest.approx(100 * 0.98**50)
    later, _ = watch(standing, was_shown=True, passed=False, baseline=0.5, now=10 * DAY_S)
    assert faded(later, 10 * DAY_S).shown == pytest.approx(1 + 100 * 0.98**10)
    assert (later.shown, later.shown_passed) == (101, 100)
    assert faded(later, 5 * DAY_S) == faded(later, 10 * DAY_S)  # a clock that goes back undoes nothing


def test_counts_without_a_watch_are_its_history() -> None:
    assert faded(Standing("s", "core", shown=8, shown_passed=6, withheld=2, withheld_passed=1), 5.0) == (8, 6, 2, 1)


# -- choosing --------------------------------------------------------------------------------------------------------

PROOF = {"cases": 8, "passed_with": 8, "passed_without": 0}


def test_utility_follows_what_is_known_of_the_lift() -> None:
    unknown = Standing("s", "core")
    proof = Standing("s", "core", evidence=PROOF)
    helps = Standing("s", "core", shown=400, shown_passed=360, withheld=40, withheld_passed=8)
    useless = Standing("s", "core", shown=400, shown_passed=200, withheld=400, withheld_passed=200)
    hurts = Standing("s", "core", shown=400, shown_passed=100, withheld=40, withheld_passed=30)
    ranked = [utility(standing, 0.0) for standing in (helps, proof, useless, hurts, unknown)]
    assert all(0.0 <= value <= 1.0 for value in ranked)
    assert ranked[0] > ranked[1] > ranked[2] > max(ranked[3:])
    assert ranked[2] == pytest.approx(0.38, abs=0.03)
    assert lift(helps, 0.0)[0] == pytest.approx(0.68, abs=0.02)


def test_rank_weighs_relevance_and_utility() -> None:
    helps = Standing("s", "core", shown=400, shown_passed=360, withheld=40, withheld_passed=8)
    assert rank(0.5, helps, 0.0) == pytest.approx(0.3 + 0.4 * utility(helps, 0.0))
    assert rank(1.0, helps, 0.0) > rank(0.9, helps, 0.0)


def test_old_evidence_counts_for_less_in_utility() -> None:
    standing = Standing("s", "core", State.LIVE)
    random = Random(8)
    for _ in range(300):
        was_shown = random.random() < 0.8
        standing, _ = watch(standing, was_shown, random.random() < (0.9 if was_shown else 0.2), 0.5, now=0.0)
    assert utility(standing, 200 * DAY_S) < utility(standing, 0.0)


def test_draws_favour_the_better_rival_and_still_try_the_unknown_one() -> None:
    random = Random(6)
    good = Standing("a", "core", evidence=PROOF)
    poor = Standing("b", "core", evidence={"cases": 8, "passed_with": 4, "passed_without": 2})
    won = sum(draw(good, 0.0, random) > draw(poor, 0.0, random) for _ in range(1000))
    assert 850 < won < 1000


# -- withholding -----------------------------------------------------------------------------------------------------


def test_the_same_conversations_are_withheld_everywhere() -> None:
    """The hash is part of what workers and versions share."""
    names = [f"conversation {n}" for n in range(200)]
    withheld = [n for n, name in enumerate(names) if is_withheld("a" * 32, name, 0.05, "salt")]
    assert withheld == [41, 73, 82, 152, 173, 180, 183, 196]


def test_the_share_is_met_and_shards_are_independent() -> None:
    count, share = 20_000, 0.1
    first = [is_withheld("a" * 32, f"c{n}", share, "salt") for n in range(count)]
    second = [is_withheld("b" * 32, f"c{n}", share, "salt") for n in range(count)]
    salted = [is_withheld("a" * 32, f"c{n}", share, "pepper") for n in range(count)]
    for drawn in (first, second, salted):
        assert sum(drawn) == pytest.approx(count * share, abs=4 * math.sqrt(count * share * (1 - share)))
    for other in (second, salted):
        both = sum(a and b for a, b in zip(first, other, strict=True))
        assert both == pytest.approx(count * share**2, abs=4 * math.sqrt(count * share**2))


def test_parts_of_the_name_do_not_run_together() -> None:
    drawn = {is_withheld("ab", f"c{n}", 0.5) == is_withheld("a", f"bc{n}", 0.5) for n in range(64)}
    assert drawn == {True, False}


def test_a_smaller_share_is_part_of_a_larger() -> None:
    names = [f"c{n}" for n in range(2000)]
    small, large = ({name for name in names if is_withheld("x", name, share)} for share in (0.05, 0.2))
    assert small < large
    assert not any(is_withheld("x", name, 0.0) for name in names)
    assert all(is_withheld("x", name, 1.0) for name in names)


def test_trials_are_withheld_more_often() -> None:
    assert (share_withheld(State.TRIAL), share_withheld(State.LIVE)) == (SHARE_ON_TRIAL, SHARE_LIVE)


# -- the larger runs, with their table -------------------------------------------------------------------------------


@pytest.mark.slow
def test_operating_characteristics(capsys: pytest.CaptureFixture[str]) -> None:
    runs = 2000
    with capsys.disabled():
        print("\nretired within 60 uses of a fall by 60 points (median uses), proof of 12 cases")
        for share in (SHARE_LIVE, SHARE_ON_TRIAL):
            for good in (0, 50, 500):
                for rate in FALLS:
                    random = Random(f"{rate} {share} {good}")
                    taken = sorted(uses_to_retire(random, rate, share, good) for _ in range(runs))
                    found = sum(map(math.isfinite, taken)) / runs
                    print(f"  {rate:.2f} share {share} after {good:3}: {found:6.1%} ({taken[runs // 2]})", flush=True)
                    assert found >= 0.95
        runs //= 4  # each is two thousand uses long
        print("retired in 2,000 uses with 20 points of lift, after a trial of 200")
        for rates in LIFTS:
            random = Random(f"keep {rates}")
            trials = [after(random, rates, 200, SHARE_ON_TRIAL) for _ in range(runs)]
            wrong = sum(is_retired(random, rates, trial, 2000) is not None for trial in trials)
            print(f"  {rates}: {wrong / runs:.2%}", flush=True)
            assert wrong <= 0.02 * runs
