"""Does the promise hold? Streams of requests whose drafts are right or wrong by chance, with a calibrated score."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import NormalDist

import numpy as np

from gateway.quality.certify import UNCERTIFIED, Reading
from gateway.quality.promise import Promise, Status, Terms

Say = Callable[[str], None]
NORMAL = NormalDist()


@dataclass(frozen=True)
class Traffic:
    """Args:
    local, strong: shares of requests that the small and the large model answer right, independently.
    auroc: of the score, which is the chance that the draft is right, from a binormal signal.
    step: by how much `local` falls from request `step_at` on; `shows`: in the scores too.
    """

    local: float = 0.6
    strong: float = 0.93
    auroc: float = 0.9
    requests: int = 5000
    step: float = 0.0
    step_at: int = 2500
    shows: bool = False

    @property
    def signal(self) -> float:
        return math.sqrt(2) * NORMAL.inv_cdf(self.auroc)

    def above(self, threshold: float, is_right: bool) -> float:
        """Chance that a right, or a wrong, draft scores at least so much."""
        if threshold == UNCERTIFIED:
            return 0.0
        cut = (math.log(threshold / (1 - threshold)) - math.log(self.local / (1 - self.local))) / self.signal
        return 1 - NORMAL.cdf(cut - (self.signal / 2 if is_right else -self.signal / 2))

    def share(self, threshold: float) -> float:
        """That is accepted, without the step."""
        return self.local * self.above(threshold, True) + (1 - self.local) * self.above(threshold, False)

    def regret(self, threshold: float, reading: Reading) -> float:
        losses = (1 - self.local) * self.above(threshold, False) * self.strong
        wins = self.local * self.above(threshold, True) * (1 - self.strong)
        return losses - wins if reading == "net" else losses

    def attainable(self, allowed: float, reading: Reading) -> float:
        """The largest share that keeps the promise: what somebody who knew all of this would accept."""
        shares = [self.share(one) for one in np.linspace(0.999, 0.001, 2000) if self.regret(one, reading) <= allowed]
        return max(shares, default=0.0)

    def draw(self, seed: int) -> Iterator[tuple[float, float]]:
        """(score, the larger model's quality less the draft's) of each request."""
        rng = np.random.default_rng(seed)
        count = self.requests
        late = np.arange(count) >= self.step_at
        local = np.where(late & self.shows, self.local - self.step, self.local)
        is_right = rng.random(count) < local
        signal = rng.standard_normal(count) + np.where(is_right, self.signal / 2, -self.signal / 2)
        scores = 1 / (1 + np.exp(-(math.log(self.local / (1 - self.local)) + self.signal * signal)))
        if not self.shows:
            is_right &= ~(late & (rng.random(count) < self.step / self.local))
        is_strong_right = rng.random(count) < self.strong
        return zip(scores.tolist(), (is_strong_right.astype(float) - is_right).tolist(), strict=True)


@dataclass
class Outcome:
    """Of one stream. `regret`: its mean, over all requests. `is_wrong`: a threshold was certified that is not."""

    regret: float = 0.0
    is_wrong: bool = False
    certified_at: int | None = None
    share: float = 0.0
    share_at_end: float = 0.0
    audits_paid: int = 0
    false_alarms: int = 0
    fell_back_after: int | None = None  # requests since the step
    audits_to_fall_back: int | None = None  # of accepted answers
    marks_to_fall_back: int | None = None  # and of those escalated
    certified_before_step: bool = False


def run(traffic: Traffic, terms: Terms, seed: int) -> Outcome:
    """One stream: decide, and note what came of it, for each request."""
    promise, outcome, draws = Promise(terms), Outcome(), random.Random(seed)
    regret, accepted_at_all, accepted_late, audited, marked = 0.0, 0, 0, 0, 0
    known: dict[float, bool] = {}
    for number, (score, net) in enumerate(traffic.draw(seed)):
        is_late = bool(traffic.step) and number >= traffic.step_at
        if number == traffic.step_at:
            audited = marked = 0
            outcome.certified_before_step = promise.status is Status.CERTIFIED
        was = promise.status
        accept, audit, generation = promise.decide(score, draws)
        value = net if terms.reading == "net" else max(0.0, net)
        if accept:
            regret += value
            accepted_at_all += 1
            accepted_late += number >= traffic.requests - 1000
            outcome.audits_paid += audit
        marked += audit
        audited += audit and accept
        promise.note(score, accept, audit, value if audit or not accept else None, generation)
        if was is not Status.CERTIFIED and promise.status is Status.CERTIFIED and outcome.certified_at is None:
            outcome.certified_at = number + 1
        if was is Status.CERTIFIED and promise.status is Status.FALLEN_BACK:
            if not is_late:
                outcome.false_alarms += 1
            elif outcome.fell_back_after is None:
                outcome.fell_back_after = number + 1 - traffic.step_at
                outcome.audits_to_fall_back, outcome.marks_to_fall_back = audited, marked
        if not is_late and promise.threshold not in known:
            known[promise.threshold] = traffic.regret(promise.threshold, terms.reading) > terms.allowed_regret
            outcome.is_wrong |= known[promise.threshold]
    outcome.regret = regret / traffic.requests
    outcome.share = accepted_at_all / traffic.requests
    outcome.share_at_end = accepted_late / 1000
    return outcome


@dataclass(frozen=True)
class Cell:
    """A row of the table."""

    traffic: Traffic
    terms: Terms

    @property
    def name(self) -> str:
        return f"{self.terms.reading} | {self.terms.target:g} | {self.traffic.auroc:g}"


def cells(step: float, shows: bool = False, audit_share: float = 0.05) -> list[Cell]:
    readings: tuple[Reading, ...] = ("strict", "net")
    kinds = product(readings, (0.95, 0.99), (0.8, 0.9, 0.95))
    return [
        Cell(
            Traffic(auroc=auroc, step=step, shows=shows),
            Terms(target, audit_share=audit_share, reading=reading, strong_quality=Traffic.strong),
        )
        for reading, target, auroc in kinds
    ]


def outcomes_of(cell: Cell, streams: int, pool: ProcessPoolExecutor | None = None) -> list[Outcome]:
    one = partial(run, cell.traffic, cell.terms)
    return list(pool.map(one, range(streams), chunksize=5) if pool else map(one, range(streams)))


def share_of(outcomes: Sequence[Outcome], is_so: Callable[[Outcome], bool]) -> float:
    return sum(map(is_so, outcomes)) / len(outcomes) if outcomes else 0.0


def quantile(values: Sequence[int | None], of_100: int) -> str:
    """None: it never came."""
    ranked = sorted(math.inf if value is None else value for value in values)
    found = ranked[min(len(ranked) - 1, len(ranked) * of_100 // 100)] if ranked else math.inf
    return "never" if found == math.inf else f"{found:g}"


CALM_HEADS = (
    "reading", "target", "AUROC", "violated", "ever certified wrongly", "first certified (p50, p90)", "local share",
    "in the last 1,000", "attainable", "audits of accepted", "false alarms a stream",
)  # fmt: skip
STEP_HEADS = (
    "reading", "target", "AUROC", "violated", "fallen back after requests (p50, p95)",
    "after audits of accepted answers (p50, p95)", "more than 200", "marked, with those escalated (p50, p95)",
)  # fmt: skip


def calm_row(cell: Cell, outcomes: Sequence[Outcome]) -> str:
    allowed, count = cell.terms.allowed_regret, len(outcomes)
    first = [one.certified_at for one in outcomes]
    return " | ".join(
        (
            cell.name,
            f"{share_of(outcomes, lambda one: one.regret > allowed):.1%}",
            f"{share_of(outcomes, lambda one: one.is_wrong):.1%}",
            f"{quantile(first, 50)}, {quantile(first, 90)}",
            f"{sum(one.share for one in outcomes) / count:.3f}",
            f"{sum(one.share_at_end for one in outcomes) / count:.3f}",
            f"{cell.traffic.attainable(allowed, cell.terms.reading):.3f}",
            f"{sum(one.audits_paid for one in outcomes) / count:.0f}",
            f"{sum(one.false_alarms for one in outcomes) / count:.3f}",
        )
    )


def step_row(cell: Cell, outcomes: Sequence[Outcome]) -> str:
    known = [one for one in outcomes if one.certified_before_step]
    requests, audits, marks = zip(
        *((one.fell_back_after, one.audits_to_fall_back, one.marks_to_fall_back) for one in known), strict=True
    )
    return " | ".join(
        (
            cell.name,
            f"{share_of(outcomes, lambda one: one.regret > cell.terms.allowed_regret):.1%}",
            f"{quantile(requests, 50)}, {quantile(requests, 95)}",
            f"{quantile(audits, 50)}, {quantile(audits, 95)}",
            f"{sum(value is None or value > 200 for value in audits) / len(audits):.1%}",
            f"{quantile(marks, 50)}, {quantile(marks, 95)}",
        )
    )


def measure(streams: int, jobs: int, say: Say) -> Iterator[str]:
    """Lines of three tables: without a step, with one that the scores do not show, and with one that they do."""
    with ProcessPoolExecutor(jobs) as pool:
        for title, step, shows, heads in (
            ("Exchangeable streams", 0.0, False, CALM_HEADS),
            ("20 points less right from the middle on, unseen by the scores", 0.2, False, STEP_HEADS),
            ("20 points less right from the middle on, and lower scores", 0.2, True, STEP_HEADS),
        ):
            yield f"\n{title}, {streams} of {Traffic.requests:,} requests:\n\n| {' | '.join(heads)} |"
            yield "|" + "---|" * len(heads)
            for cell in cells(step, shows):
                started = time.perf_counter()
                row = (step_row if step else calm_row)(cell, outcomes_of(cell, streams, pool))
                say(f"{cell.name}: {time.perf_counter() - started:.0f} s")
                yield f"| {row} |"
