"""How an adapter comes to answer: beside the requests first, then a few of them, then all. Pure.

Tests may be looked at after every outcome: each is a bet against what must not be, and is won at most as often as the
confidence leaves (see `log_capital`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.quality.bounds import binomial_lower, log_capital
from gateway.training.kinds import Record

WATCHED = 200  # outcomes of one that answers all: what is longer ago tells nothing of today
MOST = 4  # times as many outcomes as a step wants: who has not shown by then that it is better, is not


class State(StrEnum):
    """Of a trained adapter.

    TRAINED: made by hand, or for a client: called by its name, and in no policy's place.
    CANDIDATE: its server has it, and the gate tries it. REFUSED: the gate has stopped it.
    WAITING: for a person. SHADOW: asked what others answer. CANARY: answers some. LIVE: answers all.
    ROLLED_BACK: was taken back, by itself or by a person. REPLACED: another one answers in all its places.
    """

    TRAINED = "trained"
    CANDIDATE = "candidate"
    REFUSED = "refused"
    WAITING = "waiting"
    SHADOW = "shadow"
    CANARY = "canary"
    LIVE = "live"
    ROLLED_BACK = "rolled_back"
    REPLACED = "replaced"


ON_TRIAL = (State.SHADOW, State.CANARY, State.LIVE)
SERVED = (State.TRAINED, State.CANDIDATE, State.WAITING, *ON_TRIAL)
"""Whose files the model's server has."""


@dataclass(frozen=True)
class Outcome:
    """One request that was asked of both, compared with what a larger model or a person says."""

    right: bool
    before: bool


@dataclass(frozen=True)
class Terms:
    """Args:
    shadow: outcomes in the shadow, at least; 0: no shadow.
    steps: shares of the requests that it answers, one after the other.
    step: outcomes of each step, at least.
    confidence: that one which is worse is not taken for better, nor the other way round.
    """

    shadow: int = 30
    steps: tuple[float, ...] = (0.05, 0.25)
    step: int = 20
    confidence: float = 0.95


@dataclass(frozen=True)
class Step:
    """Where it goes. `share`: of the requests, in the canary."""

    state: State
    share: float
    why: str


def begun(terms: Terms) -> Step:
    """After the gate."""
    if terms.shadow:
        return Step(State.SHADOW, 0.0, "it passed the gate")
    return _after_shadow(terms, "it passed the gate")


def following(
    state: State, share: float, outcomes: Sequence[Outcome], gate: Record, terms: Terms = Terms()
) -> Step | None:
    """What comes now; None where it stays as it is.

    Args: `outcomes`: since it is in this state, of this share; `gate`: of the kinds that it stands in for.
    """
    if state is State.LIVE:
        outcomes = outcomes[-WATCHED:]
    if not outcomes:
        return None
    fault = _fault(outcomes, gate, terms.confidence if state is not State.LIVE else 1 - (1 - terms.confidence) / 10)
    if fault:
        return Step(State.ROLLED_BACK, 0.0, fault)
    if state is State.LIVE:
        return None
    is_last = state is State.SHADOW or share >= max(terms.steps, default=1.0)
    wanted = terms.shadow if state is State.SHADOW else terms.step
    if len(outcomes) < wanted:
        return None
    is_better = _log_capital([-one for one in _gains(outcomes)], 0.0) >= -math.log(1 - terms.confidence)
    if is_last and not is_better:
        if len(outcomes) >= MOST * wanted:
            return Step(State.ROLLED_BACK, 0.0, f"no better than what it replaces: {_told(outcomes)}")
        return None
    if state is State.SHADOW:
        return _after_shadow(terms, _told(outcomes))
    later = [one for one in terms.steps if one > share]
    return Step(State.CANARY, later[0], _told(outcomes)) if later else Step(State.LIVE, 1.0, _told(outcomes))


def _after_shadow(terms: Terms, why: str) -> Step:
    steps = [share for share in terms.steps if share < 1]
    return Step(State.CANARY, steps[0], why) if steps else Step(State.LIVE, 1.0, why)


def _fault(outcomes: Sequence[Outcome], gate: Record, confidence: float) -> str:
    """Why it must not answer; "" where nothing speaks against it."""
    needed = -math.log(1 - confidence)
    if _log_capital(_gains(outcomes), 0.0) >= needed:
        return f"worse than what it replaces: {_told(outcomes)}"
    promised = binomial_lower(gate.right, gate.count, 1 - confidence) if gate.count else 0.0
    if promised and _log_capital([float(one.right) for one in outcomes], promised) >= needed:
        return f"worse than at the gate, where {gate.right} of {gate.count} were right: {_told(outcomes)}"
    return ""


def _gains(outcomes: Sequence[Outcome]) -> list[float]:
    return [float(one.right) - float(one.before) for one in outcomes]


def _log_capital(values: Sequence[float], mean: float) -> float:
    return log_capital(Counter(values), mean) if values else 0.0


def _told(outcomes: Sequence[Outcome]) -> str:
    right, before = sum(one.right for one in outcomes), sum(one.before for one in outcomes)
    return f"{right} of {len(outcomes)} right, {before} without it"
