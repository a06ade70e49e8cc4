"""An arm of a promise from its first label to its fall-back, and through a restart."""

from __future__ import annotations

import json
import random

import pytest

from gateway.quality.bounds import binomial_upper
from gateway.quality.certify import UNCERTIFIED, Audited
from gateway.quality.promise import Promise, Status, Terms

TERMS = Terms(target=0.95, audit_share=0.1, warm_labels=150)


def served(
    promise: Promise, count: int, rng: random.Random, *, loss_above: float = 0.0, loss_below: float = 0.6
) -> list[bool]:
    """Requests whose drafts score anything; those above a half lose rarely. Escalations are labelled, as in life."""
    accepted = []
    for _ in range(count):
        score = rng.random()
        accept, audit, generation = promise.decide(score, rng)
        loss = float(rng.random() < (loss_above if score >= 0.5 else loss_below))
        promise.note(score, accept, audit, loss if audit or not accept else None, generation)
        accepted.append(accept)
    return accepted


def certified(seed: int = 1, terms: Terms = TERMS, count: int = 400) -> tuple[Promise, random.Random]:
    promise, rng = Promise(terms, "arm 1"), random.Random(seed)
    served(promise, count, rng)
    assert promise.status is Status.CERTIFIED
    return promise, rng


def test_until_it_is_certified_everything_is_audited_and_the_policy_decides() -> None:
    promise, rng = Promise(TERMS), random.Random(1)
    assert promise.decide(1.0, rng) == (False, True, 0)
    assert promise.decide(0.0, rng, configured=True).accept
    assert (promise.status, promise.threshold) == (Status.UNCERTIFIED, UNCERTIFIED)
    report = promise.report()
    assert (report.labels, report.labels_needed, report.bound, report.false_accept_rate) == (0, 85, None, None)
    assert report.local_share is None and report.allowed_regret == pytest.approx(0.05)


def test_fewer_labels_than_are_needed_certify_nothing() -> None:
    promise = Promise(TERMS)
    for _ in range(84):
        promise.note(0.9, False, True, 0.0)
    assert promise.status is Status.UNCERTIFIED


def test_labels_certify_a_threshold_above_the_losses() -> None:
    promise, rng = certified()
    assert 0.35 < promise.threshold < 0.6
    assert promise.decide(promise.threshold, rng).accept and not promise.decide(promise.threshold - 0.01, rng).accept
    assert not promise.decide(0.3, rng, configured=True).accept  # the checks do not decide any more
    report = promise.report()
    assert report.bound is not None and report.bound <= 0.05
    assert report.status is Status.CERTIFIED and report.fall_backs == 0
    assert report.false_accept_rate is not None
    assert report.false_accept_interval[0] <= report.false_accept_rate <= report.false_accept_interval[1]


def test_after_warming_up_a_share_is_audited() -> None:
    promise, rng = certified()
    assert promise.audit_rate < 0.4
    audits = [promise.decide(rng.random(), rng).audit for _ in range(2000)]
    assert sum(audits) / 2000 == pytest.approx(promise.audit_rate, abs=0.04)


def test_only_marked_requests_enter_the_bound() -> None:
    promise = Promise(TERMS)
    for _ in range(500):
        promise.note(0.9, False, False, 0.0)  # escalated, compared, but not marked beforehand
        promise.note(0.9, False, True, None)  # marked, but never compared
    assert promise.status is Status.UNCERTIFIED and promise.evidence.count == 0
    assert (promise.tally.labels, promise.tally.requests) == (500, 1000)


def test_a_rise_of_losses_falls_back_and_fresh_labels_certify_anew() -> None:
    promise, rng = certified()
    before = promise.generation
    while promise.status is Status.CERTIFIED:
        served(promise, 1, rng, loss_above=0.4, loss_below=0.8)
        assert promise.tally.requests < 1200
    assert promise.status is Status.FALLEN_BACK and promise.threshold == UNCERTIFIED and promise.audit_rate == 1
    assert promise.generation == before + 1 and promise.evidence.count == 0
    assert not promise.decide(1.0, rng, configured=True).accept  # not even where the checks pass
    assert not any(served(promise, 100, rng, loss_above=0.4, loss_below=0.8))
    served(promise, 600, rng, loss_above=0.0, loss_below=0.8)
    assert promise.status is Status.CERTIFIED and promise.report().fall_backs == 1


def test_a_loss_that_is_seen_is_followed_by_more_audits() -> None:
    promise, _ = certified(count=600)
    for _ in range(50):
        promise.note(0.9, True, True, 0.0)
    calm = promise.audit_rate
    promise.note(0.9, True, True, 1.0)
    assert promise.audit_rate > 2 * calm
    for _ in range(60):
        promise.note(0.9, True, True, 0.0)
    assert promise.audit_rate == calm


def test_labels_from_before_a_fall_back_are_no_fresh_ones() -> None:
    promise, rng = certified()
    late = promise.decide(0.9, rng)
    while promise.status is Status.CERTIFIED:
        promise.note(0.9, True, True, 1.0)
    promise.note(0.9, late.accept, True, 0.0, late.generation)
    assert promise.evidence.count == 0
    promise.note(0.9, False, True, 0.0, promise.generation)
    assert promise.evidence.count == 1


def test_false_accepts_are_counted_among_the_audited() -> None:
    promise, _ = certified()
    before = promise.report()
    for regret in (1.0, 0.0, 0.0, None):
        promise.note(0.9, True, regret is not None, regret)
    report = promise.report()
    assert report.audits_of_accepted == before.audits_of_accepted + 3
    assert report.false_accept_rate == pytest.approx(1 / report.audits_of_accepted)


def test_wins_count_in_the_net_reading_only() -> None:
    shares = []
    for reading in ("strict", "net"):
        promise = Promise(Terms(target=0.95, reading=reading), "")  # type: ignore[arg-type]
        rng = random.Random(2)
        for _ in range(800):
            score = rng.random()
            promise.note(score, False, True, rng.choices([1.0, -1.0, 0.0], [1 - score, 0.3 * score, 1])[0])
        shares.append(1 - min(1.0, promise.threshold))
    assert shares[1] > shares[0] + 0.05


def test_the_state_survives_a_restart() -> None:
    promise, rng = certified()
    data = json.loads(json.dumps(promise.as_json()))
    again = Promise.from_json(data, TERMS, "arm 1")
    assert again.as_json() == promise.as_json() and again.report() == promise.report()
    assert again.audit_rate == pytest.approx(promise.audit_rate, rel=1e-3)
    state = rng.getstate()
    first = served(promise, 500, rng, loss_above=0.02)
    rng.setstate(state)
    assert served(again, 500, rng, loss_above=0.02) == first
    assert again.as_json()["evidence"] == promise.as_json()["evidence"]


def test_another_model_or_another_promise_begins_anew() -> None:
    promise, _ = certified()
    data = promise.as_json()
    for terms, fingerprint in (
        (TERMS, "arm 2"),
        (Terms(target=0.99), "arm 1"),
        (Terms(target=0.95, reading="net"), "arm 1"),
    ):
        fresh = Promise.from_json(data, terms, fingerprint)
        assert fresh.status is Status.UNCERTIFIED and fresh.evidence.count == 0
    more_audits = Promise.from_json(data, Terms(target=0.95, audit_share=0.3), "arm 1")
    assert more_audits.status is Status.CERTIFIED


@pytest.mark.parametrize(
    "change",
    [
        {"status": "fine"},
        {"evidence": None},
        {"evidence": {"best": 3, "cells": {"9999": {"0": 1}}}},
        {"tally": {"nonsense": 1}},
        {"past": {"requests": []}},
        {"drift": {}},
    ],
)
def test_a_damaged_state_is_told(change: dict[str, object]) -> None:
    promise, _ = certified()
    with pytest.raises(ValueError, match="not a promise's state"):
        Promise.from_json({**promise.as_json(), **change}, TERMS, "arm 1")
    with pytest.raises(ValueError):
        Promise.from_json({}, TERMS, "arm 1")


def test_a_restored_threshold_may_be_fixed_but_not_against_a_drift() -> None:
    promise, rng = certified(count=150)
    fixed = Promise.from_json(promise.as_json(), Terms(target=0.95, warm_labels=150, fixed=True), "arm 1")
    served(fixed, 1000, rng)
    assert fixed.threshold == promise.threshold
    served(promise, 1000, rng)
    assert promise.threshold < fixed.threshold
    for _ in range(300):
        fixed.note(0.9, True, True, 1.0)
        if fixed.status is Status.FALLEN_BACK:
            break
    assert fixed.status is Status.FALLEN_BACK
    served(fixed, 600, rng)
    assert fixed.status is Status.CERTIFIED  # anew, by what is live


def test_a_fixed_threshold_looks_at_live_traffic_for_what_is_usual() -> None:
    promise, rng = certified()
    fixed = Promise.from_json(promise.as_json(), Terms(target=0.95, warm_labels=150, fixed=True), "arm 1")
    served(fixed, 1500, rng, loss_below=0.9)  # harder requests than those it was learned on, and all of them escalated
    assert fixed.status is Status.CERTIFIED


def test_old_labels_leave_the_window() -> None:
    promise, rng = Promise(Terms(target=0.95, audit_share=1.0, warm_labels=100, window=400)), random.Random(3)
    counts = []
    for _ in range(12):
        served(promise, 100, rng)
        counts.append(promise.evidence.count)
        assert promise.status is (Status.CERTIFIED if promise.tally.requests > 100 else promise.status)
    assert max(counts) <= 420 and min(counts[4:]) >= 195
    assert promise.threshold < 0.6 and promise.report().bound is not None


def test_labels_that_are_all_there_are_looked_at_once_by_the_exact_test() -> None:
    sample = [Audited(0.9, 0.0)] * 150 + [Audited(0.9, 1.0)] * 5 + [Audited(0.1, 1.0)] * 1045
    one_look = Promise.of_sample(sample, Terms())
    assert one_look.status is Status.CERTIFIED and 0.1 < one_look.threshold <= 0.9
    assert one_look.certificate.bound == pytest.approx(binomial_upper(5, 1200, 0.05))
    assert one_look.certificate.bound <= Terms().allowed_regret
    assert Promise.of_sample([*sample, *[Audited(0.95, 1.0)] * 3], Terms()).threshold > 0.9, "8 losses are too many"
    restored = Promise.from_json(one_look.as_json(), Terms(fixed=True))
    assert restored.decide(0.9, random.Random(0)).accept and not restored.decide(0.1, random.Random(0)).accept
