"""Who is let in: only what is better, and not for long if it is not; by chance no more often than is said."""

from __future__ import annotations

import random

import pytest

from gateway.training.gate import why_not
from gateway.training.kinds import Record
from gateway.training.trial import Outcome, State, Step, Terms, begun, following

TERMS = Terms(shadow=10, steps=(0.1, 0.5), step=10)
GATE = Record(count=40, right=36, before=4, wins=32, losses=0)
WIN, LOSS, SAME, NEITHER = Outcome(True, False), Outcome(False, True), Outcome(True, True), Outcome(False, False)


def test_it_begins_in_the_shadow_or_where_there_is_none_in_the_canary_or_at_once() -> None:
    assert begun(TERMS).state is State.SHADOW
    assert begun(Terms(shadow=0, steps=(0.1,))) == Step(State.CANARY, 0.1, "it passed the gate")
    assert begun(Terms(shadow=0, steps=())).state is State.LIVE


def test_it_goes_on_from_step_to_step_while_it_is_better() -> None:
    assert following(State.SHADOW, 0, [WIN] * 9, GATE, TERMS) is None
    assert following(State.SHADOW, 0, [WIN] * 10, GATE, TERMS) == Step(
        State.CANARY, 0.1, "10 of 10 right, 0 without it"
    )
    first = following(State.CANARY, 0.1, [WIN] * 10, GATE, TERMS)
    assert first is not None and (first.state, first.share) == (State.CANARY, 0.5)
    last = following(State.CANARY, 0.5, [WIN] * 10, GATE, TERMS)
    assert last is not None and last.state is State.LIVE


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([LOSS] * 8, "worse than what it replaces: 0 of 8 right, 8 without it"),
        ([NEITHER] * 8, "worse than at the gate, where 36 of 40 were right: 0 of 8 right"),
        ([SAME] * 40, "no better than what it replaces: 40 of 40 right, 40 without it"),
    ],
)
@pytest.mark.parametrize("state", [State.SHADOW, State.CANARY])
def test_what_does_not_hold_is_rolled_back(state: State, outcomes: list[Outcome], words: str) -> None:
    step = following(state, 0.5, outcomes, GATE, TERMS)
    assert step is not None and step.state is State.ROLLED_BACK and words in step.why


def test_one_that_answers_all_is_watched_by_what_came_last() -> None:
    assert following(State.LIVE, 1, [WIN] * 500, GATE, TERMS) is None
    assert following(State.LIVE, 1, [SAME] * 500, GATE, TERMS) is None
    step = following(State.LIVE, 1, [WIN] * 500 + [NEITHER] * 120, GATE, TERMS)
    assert step is not None and step.state is State.ROLLED_BACK
    assert following(State.LIVE, 1, [], GATE, TERMS) is None


def through(rng: random.Random, right: float, before: float, gate: Record, most: int = 400) -> State:
    """Where an adapter ends that is right so often."""
    state, share, seen = State.SHADOW, 0.0, list[Outcome]()
    for _ in range(most):
        seen.append(Outcome(rng.random() < right, rng.random() < before))
        step = following(state, share, seen, gate, Terms())
        if step is not None:
            state, share, seen = step.state, step.share, []
        if state in (State.LIVE, State.ROLLED_BACK):
            break
    return state


@pytest.mark.slow
def test_one_that_passed_the_gate_by_luck_seldom_gets_through_and_a_good_one_mostly_does() -> None:
    rng = random.Random(7)
    lucky = [through(rng, 0.2, 0.2, Record(20, 9, 4, 6, 1)) for _ in range(300)]
    assert lucky.count(State.LIVE) <= 0.05 * 300
    assert lucky.count(State.ROLLED_BACK) >= 0.9 * 300
    good = [through(rng, 0.8, 0.2, Record(20, 16, 4, 13, 1)) for _ in range(300)]
    assert good.count(State.LIVE) >= 0.85 * 300


@pytest.mark.parametrize(
    ("record", "controls", "fault"),
    [
        (Record(20, 18, 2, 17, 1), Record(), ""),
        (Record(6, 5, 0, 5, 0), Record(), ""),
        (Record(20, 6, 4, 4, 2), Record(), "not better on held-out requests: 6 of 20 right, 4 without it"),
        (Record(20, 4, 0, 4, 0), Record(), "not better"),
        (Record(), Record(), "not better"),
        (Record(6, 3, 1, 3, 1), Record(), "not better"),
        (Record(20, 18, 2, 17, 1), Record(9, 2, 6, 0, 4), "worse on requests of other kinds: 2 of 9 right, 6 before"),
    ],
)
def test_the_gate(record: Record, controls: Record, fault: str) -> None:
    assert why_not(record, controls).startswith(fault) and bool(why_not(record, controls)) == bool(fault)


def test_kinds_with_few_requests_pass_together_each_for_itself_being_better() -> None:
    whole = Record(40, 20, 10, 14, 4)
    assert why_not(Record(6, 3, 1, 3, 1), Record(), whole) == ""
    assert why_not(Record(6, 2, 2, 1, 1), Record(), whole).startswith("not better")
    assert why_not(Record(6, 3, 1, 3, 1), Record(), Record(40, 20, 18, 6, 4)).startswith("not better")
