"""What is known of a model before it has answered anything: what its entry in models.yaml says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.trace import Price

BY_PARAMETERS = ((135e6, 0.25), (1e9, 0.4), (8e9, 0.6), (70e9, 0.75))
"""(weights, share of requests that such a model answers well), for want of anything better."""
UNKNOWN = 0.85  # a remote model whose size nobody tells
WORST, BEST = 0.05, 0.95
GOOD_AT = 0.25  # of what it lacks, where the request is about what it is good at
FOREIGN = 0.5  # of its worth in a language that it does not have
UNKNOWN_PARAMETERS = 70e9  # for energy
JOULES_PER_TOKEN = 0.5e-9  # and weight: a model of 70B takes 35 J a token on a server, at batch 1


def unknown_watts() -> float | None:
    return None


@dataclass(frozen=True)
class Card:
    """`parameters`: None where nobody tells. `languages`: empty where it is not said. `accepts`: kinds of content.
    `joules_said`: a token, as its entry says; `watts`: that its engine draws while it is busy, measured or modelled."""

    parameters: float | None = None
    good_at: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    accepts: frozenset[str] = frozenset({"text"})
    price: Price | None = None
    joules_said: float | None = None
    watts: Callable[[], float | None] = unknown_watts

    def joules(self, output_tokens: float, busy_s: float) -> float:
        """Of an answer, by the same figures as its spend; where those say nothing, by its weights."""
        if self.joules_said is not None:
            return self.joules_said * output_tokens
        watts = self.watts()
        if watts is not None:
            return watts * busy_s
        return JOULES_PER_TOKEN * (self.parameters or UNKNOWN_PARAMETERS) * output_tokens


@dataclass(frozen=True)
class About:
    """What a request is about, as far as that is known. `p_right`: by model, from a learned router."""

    topic: str | None = None
    language: str | None = None
    p_right: Mapping[str, float] | None = None


NOTHING = About()


class Prediction(Protocol):
    """What a learned router says of a request. `known`: how much it is like those that it was trained on."""

    @property
    def p_right(self) -> Mapping[str, float]: ...
    @property
    def topic(self) -> str | None: ...
    @property
    def known(self) -> float: ...


class Predicts(Protocol):
    """`floor`: of `known`, under which it has seen nothing like the request."""

    @property
    def floor(self) -> float: ...
    def predict(self, text: str, vector: bytes | None = None) -> Prediction: ...


def prior(card: Card, about: About = NOTHING) -> float:
    """Chance, in [0.05, 0.95], that it answers such a request well."""
    p = by_parameters(card.parameters)
    if about.topic is not None and about.topic in card.good_at:
        p += (1 - p) * GOOD_AT
    if about.language is not None and card.languages and about.language not in card.languages:
        p *= FOREIGN
    return min(BEST, max(WORST, p))


def by_parameters(parameters: float | None) -> float:
    """Straight lines between the points, over the logarithm of the weights."""
    if parameters is None:
        return UNKNOWN
    points = BY_PARAMETERS
    for (low, p_low), (high, p_high) in zip(points, points[1:], strict=False):
        if parameters < high or high == points[-1][0]:
            along = math.log(parameters / low) / math.log(high / low)
            return min(UNKNOWN, max(WORST, p_low + along * (p_high - p_low)))
    raise AssertionError("the last line has no end")
