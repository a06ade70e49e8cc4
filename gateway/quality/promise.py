"""The promise of one arm (a policy's tier, as it is now) kept live: which drafts are accepted, which are audited, and
what may be said of it.

Until a threshold is certified, drafts are accepted only where the caller says so, and everything is audited. Labels
come in one at a time. Only those of requests that were marked before anything was known of them enter the bound; those
of other escalations cost nothing, and serve to see a drift. When one is seen, everything is escalated until a threshold
is certified anew, on fresh labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from gateway.quality.bounds import binomial_lower, binomial_upper, labels_needed_by_betting
from gateway.quality.certify import GRID, UNCERTIFIED, Audited, Certificate, Evidence, Reading
from gateway.quality.drift import Drift, Levels, Past, upper_level

VERSION = 1
LOOKS = 50  # one more look when there are so many-th more labels
FIRST_ANCHOR = 60  # requests from which drift is looked for
ANCHORS = 1.5  # times more requests until its levels are taken anew
WARM_LABELS = 2  # times as many as are needed at the least


class Status(StrEnum):
    UNCERTIFIED = "uncertified"
    CERTIFIED = "certified"
    FALLEN_BACK = "fallen_back"


class Draws(Protocol):
    """`random.Random`, for one."""

    def random(self) -> float: ...


class Decision(NamedTuple):
    """`audit`: let the larger model answer too, and note what came of it. `generation` goes back with the label, so
    that one which comes after a fall-back is known to be from before it."""

    accept: bool
    audit: bool
    generation: int


@dataclass(frozen=True)
class Terms:
    """What is promised, and how it is found out.

    Args:
        target: share of the larger model's quality.
        confidence: with which a threshold is certified.
        audit_share: of all requests, once a threshold is certified and there are `warm_labels`.
        reading: see `certify`.
        strong_quality: mean quality of the larger model, where that is known. 1 where labels say whether the draft
            agrees with it.
        warm_labels: all requests are audited until there are so many; None: twice what is needed at the least.
        window: labels that count, and four times as many as are needed at the least; older ones go, half of them at
            a time.
        fixed: a threshold that was restored stays as it is; a drift still ends it.
    """

    target: float = 0.99
    confidence: float = 0.95
    audit_share: float = 0.05
    reading: Reading = "strict"
    strong_quality: float = 1.0
    warm_labels: int | None = None
    window: int = 8000
    grid: tuple[float, ...] = GRID
    fixed: bool = False

    @cached_property
    def allowed_regret(self) -> float:
        return (1 - self.target) * self.strong_quality

    @cached_property
    def labels_needed(self) -> int:
        return labels_needed_by_betting(self.allowed_regret, 1 - self.confidence)

    @cached_property
    def labels_to_warm(self) -> int:
        return self.labels_needed * WARM_LABELS if self.warm_labels is None else self.warm_labels

    @cached_property
    def half_window(self) -> int:
        return max(self.window // 2, 2 * self.labels_needed)

    def as_json(self) -> dict[str, Any]:
        """Those that a state hangs on: with others, it is another promise."""
        return {
            "target": self.target,
            "confidence": self.confidence,
            "reading": self.reading,
            "strong_quality": self.strong_quality,
            "grid": [len(self.grid), self.grid[0], self.grid[-1]],
        }


@dataclass
class Tally:
    """What was counted since the arm began. `false_accepts`: accepted, audited, and worse than the larger model."""

    requests: int = 0
    accepted: int = 0
    labels: int = 0
    audited: int = 0
    audited_accepted: int = 0
    false_accepts: int = 0
    fall_backs: int = 0


@dataclass(frozen=True)
class Report:
    """Args:
    bound: on the mean regret over all traffic at the threshold, with the confidence asked for; None: not certified.
    false_accept_rate: of the accepted drafts that were audited; None before the first. `false_accept_interval` holds
        it with 95 % confidence.
    labels_needed: at the least, from nothing.
    """

    status: Status
    threshold: float | None
    bound: float | None
    allowed_regret: float
    labels: int
    labels_needed: int
    local_share: float | None
    audits: int
    audits_of_accepted: int
    false_accept_rate: float | None
    false_accept_interval: tuple[float, float]
    fall_backs: int


class Promise:
    """State of one arm. `decide` for each draft, `note` once for each request when all is known that will be.

    The same labels may be noted in a second one with other scores, to have it certified before it takes over.
    """

    def __init__(self, terms: Terms, fingerprint: str = "") -> None:
        self.terms = terms
        self.fingerprint = fingerprint
        self.status = Status.UNCERTIFIED
        self.generation = 0
        self.tally = Tally()
        self.threshold = UNCERTIFIED
        self.audit_rate = 1.0
        self._begin()

    def _begin(self) -> None:
        self.evidence = self._empty()
        self._younger: Evidence | None = None  # of the last half of the window
        self.drift = Drift()
        self.past = Past(len(self.terms.grid) + 1)
        self._is_fixed = False
        self._since = 0  # requests of this generation
        self._next_look = self.terms.labels_needed
        self._next_anchor = FIRST_ANCHOR

    def _empty(self) -> Evidence:
        return Evidence(self.terms.grid, self.terms.reading)

    def decide(self, score: float, draws: Draws, configured: bool = False) -> Decision:
        """Args:
        score: of the draft, in [0, 1]; 0 where a hard check has failed.
        configured: what the policy's own checks say, which is done while nothing is certified. Not after a fall-back.
        """
        accept = score >= self.threshold or (configured and self.status is Status.UNCERTIFIED)
        return Decision(accept, draws.random() < self.audit_rate, self.generation)

    def note(
        self, score: float, accepted: bool, audited: bool, regret: float | None, generation: int | None = None
    ) -> None:
        """Args:
        accepted, audited: as was decided.
        regret: quality of the larger model's answer less that of the draft, in [-1, 1], whether or not the draft was
            accepted; None where the two were not compared.
        generation: of the decision.
        """
        tally = self.tally
        tally.requests += 1
        tally.accepted += accepted
        if generation is not None and generation != self.generation:
            return
        self._since += 1
        if regret is not None:
            tally.labels += 1
            if audited:
                self._count(score, accepted, regret)
        if self._is_drift(score, accepted, audited, regret):
            self._fall_back()
            return
        before = self.threshold
        if audited and regret is not None:
            self._look()
        if self._since >= self._next_anchor or self.threshold != before:
            self._anchor()
        self.audit_rate = self._rate()

    def _count(self, score: float, accepted: bool, regret: float) -> None:
        self.tally.audited += 1
        self.tally.audited_accepted += accepted
        self.tally.false_accepts += accepted and regret > 0
        self.evidence.add(score, regret)
        if self._younger is not None:
            self._younger.add(score, regret)

    def _is_drift(self, score: float, accepted: bool, audited: bool, regret: float | None) -> bool:
        served = escalated = None
        if regret is not None:
            loss = max(0.0, regret)
            if audited and self.threshold < UNCERTIFIED:
                served = loss if accepted else 0.0
            if score < self.threshold and (audited or not accepted):
                escalated = loss
        self.past.add(self.evidence.place_of(score), escalated)
        return self.drift.note(served, escalated, 0.0 if score >= self.threshold else escalated)

    def _fall_back(self) -> None:
        self._begin()
        if self.status is Status.CERTIFIED:
            self.status = Status.FALLEN_BACK
            self.tally.fall_backs += 1
        self.threshold = UNCERTIFIED
        self.audit_rate = 1.0
        self.generation += 1

    def _look(self) -> None:
        evidence = self.evidence
        if evidence.count >= self._next_look and not self._is_fixed:
            self._next_look = evidence.count + max(1, evidence.count // LOOKS)
            evidence.look(self.terms.allowed_regret, 1 - self.terms.confidence)
            self._roll()
            self.threshold = self.evidence.threshold
            if self.threshold < UNCERTIFIED:
                self.status = Status.CERTIFIED
            elif self.status is Status.CERTIFIED:
                self.status = Status.UNCERTIFIED

    def _roll(self) -> None:
        """Let go of the older half of the window. The younger half has a certificate of its own by then, at the same
        confidence: nothing that was tested before counts in it."""
        if self._younger is not None:
            self._younger.look(self.terms.allowed_regret, 1 - self.terms.confidence)
        if self.evidence.count >= 2 * self.terms.half_window and self._younger is not None:
            self.evidence, self._younger = self._younger, self._empty()
            self._next_look = self.evidence.count + 1
            self.past.halve()
        elif self.evidence.count >= self.terms.half_window and self._younger is None:
            self._younger = self._empty()

    def _anchor(self) -> None:
        self._next_anchor = max(FIRST_ANCHOR, int(self._since * ANCHORS))
        evidence, allowed = self.evidence, self.terms.allowed_regret
        if self.terms.reading == "net" and evidence.count:  # losses that wins offset are no drift
            losses = sum(value * count for value, count in evidence.accepted(evidence.best).items() if value > 0)
            allowed = max(allowed, upper_level(losses / evidence.count, evidence.count))
        self.drift.anchor(Levels(allowed, *self.past.levels(evidence.best + 1)))

    def _rate(self) -> float:
        """Everything while warming up; then the more, the more speaks for a drift."""
        terms = self.terms
        if self.threshold == UNCERTIFIED or self.evidence.count < min(terms.labels_to_warm, terms.half_window):
            return 1.0
        return min(1.0, terms.audit_share * self.drift.suspicion)

    @property
    def certificate(self) -> Certificate:
        return self.evidence.certificate(self.evidence.best, 1 - self.terms.confidence)

    def report(self) -> Report:
        tally, audited = self.tally, self.tally.audited_accepted
        is_certified = self.status is Status.CERTIFIED
        return Report(
            status=self.status,
            threshold=self.threshold if is_certified else None,
            bound=self.certificate.bound if is_certified else None,
            allowed_regret=self.terms.allowed_regret,
            labels=self.evidence.count,
            labels_needed=self.terms.labels_needed,
            local_share=tally.accepted / tally.requests if tally.requests else None,
            audits=tally.audited,
            audits_of_accepted=audited,
            false_accept_rate=tally.false_accepts / audited if audited else None,
            false_accept_interval=(
                binomial_lower(tally.false_accepts, audited, 0.025),
                binomial_upper(tally.false_accepts, audited, 0.025),
            ),
            fall_backs=tally.fall_backs,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "terms": self.terms.as_json(),
            "status": str(self.status),
            "generation": self.generation,
            "tally": dict(vars(self.tally)),
            "evidence": self.evidence.as_json(),
            "younger": self._younger.as_json() if self._younger is not None else None,
            "drift": self.drift.as_json(),
            "past": self.past.as_json(),
            "since": self._since,
            "next_look": self._next_look,
            "next_anchor": self._next_anchor,
        }

    @classmethod
    def of_sample(cls, sample: Sequence[Audited], terms: Terms, fingerprint: str = "") -> Promise:
        """Certified by labels that are all there: they are looked at once, so the test may be the exact one, which
        certifies more than one that may be looked at after every label."""
        promise = cls(terms, fingerprint)
        for one in sample:
            promise.evidence.add(*one)
            promise.past.add(promise.evidence.place_of(one.score), max(0.0, one.regret))
        tally = promise.tally
        promise._since = tally.requests = tally.labels = tally.audited = len(sample)
        found = promise.evidence.look_once(terms.allowed_regret, 1 - terms.confidence)
        if found.is_certified:
            promise.threshold, promise.status = found.threshold, Status.CERTIFIED
            promise._anchor()
        return promise

    @classmethod
    def from_json(cls, data: Mapping[str, Any], terms: Terms, fingerprint: str = "") -> Promise:
        """As it was; begun anew where the promise, or what it is made for, is another now. Raises: ValueError for what
        is no such state."""
        promise = cls(terms, fingerprint)
        try:
            is_same = data["version"] == VERSION and data["fingerprint"] == fingerprint
            if not (is_same and data["terms"] == terms.as_json()):
                return promise
            promise._restore(data)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not a promise's state: {exc}") from exc
        return promise

    def _restore(self, data: Mapping[str, Any]) -> None:
        terms = self.terms
        self.status = Status(data["status"])
        self.generation = int(data["generation"])
        self.tally = Tally(**data["tally"])
        self.evidence = Evidence.from_json(data["evidence"], terms.grid, terms.reading)
        if data["younger"] is not None:
            self._younger = Evidence.from_json(data["younger"], terms.grid, terms.reading)
        self.drift = Drift.from_json(data["drift"])
        self.past = Past.from_json(data["past"], len(terms.grid) + 1)
        self._since = int(data["since"])
        self._next_look, self._next_anchor = int(data["next_look"]), int(data["next_anchor"])
        self.threshold = self.evidence.threshold
        self._is_fixed = terms.fixed and self.threshold < UNCERTIFIED
        if self._is_fixed:  # it may have been learned on other traffic: what is usual here is still to be seen
            self.drift, self.past, self._since = Drift(), Past(len(terms.grid) + 1), 0
            self._anchor()
        self.audit_rate = self._rate()
