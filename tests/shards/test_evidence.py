"""Who is admitted: shards by the replay of their cases, lots by that of a sample."""

from __future__ import annotations

import json
from random import Random

import pytest

from gateway.shards import Origin, State
from gateway.shards.proving.evidence import (
    LotProof,
    Outcome,
    Proof,
    admit,
    admit_lot,
    baseline,
    sample_size,
    state_after,
)
from gateway.shards.proving.rates import cdf


def outcomes(origin: Origin, text: str, added: int = 20) -> list[Outcome]:
    """One for each word: `without` and `with_it`, as in "-+ ++ +-"."""
    return [Outcome(origin, word[0] == "+", word[1] == "+", 100, 100 + added) for word in text.split()]


def source(text: str) -> list[Outcome]:
    return outcomes(Origin.SOURCE, text)


def held_out(text: str) -> list[Outcome]:
    return outcomes(Origin.HELD_OUT, text)


CONTROLS = outcomes(Origin.CONTROL, "++ ++ ++ ++ ++ ++ ++ ++")
PARAPHRASES = outcomes(Origin.PARAPHRASE, "-+ -+ -+ --")


def test_what_helps_and_hurts_nothing_is_admitted() -> None:
    proof = admit([*source("-+ ++"), *PARAPHRASES, *held_out("-+"), *CONTROLS])
    assert proof.admitted
    assert proof.why == "6 of 7 cases pass with it, 1 without; none of 8 controls got worse"
    assert (proof.cases, proof.passed_without, proof.passed_with, proof.gained, proof.lost) == (7, 1, 6, 5, 0)
    assert proof.lift == pytest.approx(5 / 7)
    assert proof.lift_low < proof.lift < proof.lift_high
    assert proof.p_value == pytest.approx(0.0625)
    assert (proof.harmed, proof.could_be_harmed) == (0, 9)
    assert proof.harm_high == pytest.approx(1 - 0.05 ** (1 / 9))
    assert proof.tokens_added == 20
    assert proof.by_origin[Origin.PARAPHRASE].gained == 3


@pytest.mark.parametrize(
    ("cases", "why"),
    [
        ([], "too few cases: 0"),
        ([*source("-+ -+"), *CONTROLS], "too few cases: 2"),
        ([*source("-+ -+ -+"), *CONTROLS[:3]], "too few controls: 3"),
        ([*source("-+ -+ -+"), *outcomes(Origin.CONTROL, "-- -- -- -- ++")], "too few controls: 1"),
        ([*source("-+ -+ -+ -+"), *CONTROLS, *outcomes(Origin.CONTROL, "+-")], "harm: 1 of 9 controls"),
        ([*source("-+ -+ -- -- --"), *CONTROLS], "too weak: 2 of 5 cases"),
        ([*source("++ ++ ++ -+"), *CONTROLS], "no use: 4 of 4 cases pass with it, 3 without"),
        ([*source("-+ -+ -+ +- ++"), *CONTROLS], "unclear: 3 of 5 cases are gained by it and 1 lost"),
        ([*source("-+ -+ -+ -+ +- +- ++"), *CONTROLS], "unclear: 4 of 7 cases are gained by it and 2 lost"),
        ([*source("-+ -+ -+"), *held_out("--"), *CONTROLS], "learned by heart: 0 of 1 held-out"),
        ([*source("-+ -+ -+ -+ -+"), *held_out("+- ++"), *CONTROLS], "learned by heart: 1 of 2 held-out"),
    ],
)
def test_the_rest_is_not_and_is_told_why(cases: list[Outcome], why: str) -> None:
    proof = admit(cases)
    assert not proof.admitted
    assert proof.why.startswith(why)
    assert state_after(proof) is State.CANDIDATE


def test_two_gains_and_no_loss_are_enough_for_a_single_fact() -> None:
    proof = admit([*source("-+"), *outcomes(Origin.PARAPHRASE, "-+ --"), *CONTROLS])
    assert proof.admitted
    assert state_after(proof) is State.TRIAL


def test_with_more_cases_one_loss_may_be_outweighed() -> None:
    assert admit([*source("-+ -+ -+ -+ +- ++"), *CONTROLS]).admitted


def test_a_held_out_case_that_stays_right_is_enough() -> None:
    assert admit([*source("-+ -+ -+"), *held_out("++"), *CONTROLS]).admitted


def test_four_gains_and_no_loss_make_it_live_at_once() -> None:
    assert state_after(admit([*source("-+ -+ -+ --"), *CONTROLS])) is State.TRIAL
    assert state_after(admit([*source("-+ -+ -+ -+"), *CONTROLS])) is State.LIVE


def test_a_proof_survives_json() -> None:
    proof = admit([*source("-+ ++ -+"), *held_out("-+"), *CONTROLS])
    assert Proof.from_json(json.loads(json.dumps(proof.as_json()))) == proof
    assert Proof.from_json({**proof.as_json(), "baseline": proof.baseline, "version": 2}) == proof


def test_nine_in_ten_rates_are_above_the_baseline() -> None:
    assert cdf(baseline(5, 6), 6.0, 2.0) == pytest.approx(0.1)
    assert baseline(0, 6) < baseline(3, 6) < baseline(6, 6) < baseline(60, 60)


def test_useless_shards_are_seldom_admitted() -> None:
    """Passes come and go by chance: seven in ten, with it or without."""
    random = Random(3)
    admitted = 0
    for _ in range(500):
        cases = [Outcome(Origin.SOURCE, random.random() < 0.7, random.random() < 0.7) for _ in range(10)]
        admitted += admit([*cases, *CONTROLS]).admitted
    assert admitted < 75


# -- lots ------------------------------------------------------------------------------------------------------------


def member(text: str, controls: str = "++ ++ ++ ++ ++ ++ ++ ++") -> list[Outcome]:
    return [*source(text), *outcomes(Origin.CONTROL, controls)]


def lot(helpful: int, useless: int = 0, hurting: int = 0) -> dict[str, list[Outcome]]:
    texts = ["-+ -+"] * helpful + ["-- ++"] * useless + ["+- ++"] * hurting
    return {f"m{n}": member(text) for n, text in enumerate(texts)}


def test_a_lot_is_admitted_by_a_sample_of_which_enough_help() -> None:
    proof = admit_lot(lot(19, 3, 1), lot_size=1000)
    assert proof.admitted
    assert (proof.sampled, proof.helped, proof.hurt, proof.hurt_members) == (23, 19, 1, ("m22",))
    assert proof.helped_low == 0.647
    assert proof.certifies == (
        "at least 65% of 1000 help, and at most 1.6% of controls get worse (95 % confidence each)"
    )
    assert state_after(proof) is State.LIVE
    assert LotProof.from_json(json.loads(json.dumps(proof.as_json()))) == proof


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        ({}, "0 of 0 sampled members help"),
        (lot(2), "2 of 2 sampled members help: that a third of the lot do is not shown"),
        (lot(9, 14), "9 of 23 sampled members help"),
        ({f"m{n}": member("-+", "++ ++") for n in range(23)}, "too few controls: 46"),
        ({f"m{n}": member("-+", "++ ++ ++ ++ +-" if n < 3 else "++ ++ ++ ++") for n in range(23)}, "harm: 3 of 95"),
    ],
)
def test_a_lot_is_not_admitted_on_less(sample: dict[str, list[Outcome]], why: str) -> None:
    proof = admit_lot(sample, lot_size=1000)
    assert not proof.admitted
    assert proof.why.startswith(why)
    assert proof.certifies == ""


def test_a_member_that_makes_a_control_wrong_does_not_help() -> None:
    proof = admit_lot({"a": member("-+ -+", "+- ++")}, lot_size=10)
    assert (proof.helped, proof.hurt_members) == (0, ("a",))


def test_a_small_lot_may_be_looked_at_as_a_whole() -> None:
    proof = admit_lot(lot(6, 2), lot_size=8)
    assert proof.admitted
    assert proof.helped_low == 0.75


def test_samples_grow_with_the_lot_to_a_limit() -> None:
    sizes = [sample_size(size) for size in (0, 1, 2, 3, 10, 100, 1000, 10_000)]
    assert sizes == [0, 1, 1, 3, 7, 19, sizes[-1], sizes[-1]] and sizes[-1] <= 25


def test_good_lots_pass_and_poor_ones_do_not() -> None:
    """Two thirds help: nine in ten lots are admitted. One third of them: one in twenty."""
    random = Random(11)

    def share_admitted(helpful: int) -> float:
        members = [n < helpful for n in range(200)]
        runs = 120
        admitted = 0
        for _ in range(runs):
            drawn = random.sample(members, sample_size(200))
            sample = {str(n): member("-+" if helps else "--") for n, helps in enumerate(drawn)}
            admitted += admit_lot(sample, lot_size=200).admitted
        return admitted / runs

    assert share_admitted(132) > 0.82
    assert share_admitted(66) < 0.1


def test_a_sure_lift_is_worth_a_trial_though_most_cases_still_fail() -> None:
    weak = admit([*source("-+ " * 5 + "-- " * 8), *held_out("-+ -- --"), *CONTROLS])
    assert weak.admitted and weak.passed_with < 0.6 * weak.cases
    assert state_after(weak) is State.TRIAL
    unsure = admit([*source("-+ " * 2 + "-- " * 8), *held_out("-+ -- --"), *CONTROLS])
    assert not unsure.admitted and unsure.why.startswith("too weak")
