"""The watch over a shard after its release: promote it, keep it or retire it, as its requests pass or fail.

A shard is withheld from a small random share of conversations, so that its lift is measured. Three questions are asked
with each request, so the answers must hold whenever they are asked (anytime-valid):

- *Has it fallen?* A Shiryaev-Roberts statistic against "the pass rate is still what was shown, less a margin" (an
  e-detector: Shin, Ramdas and Rinaldo 2022, arXiv:2203.03532). It starts anew at each request, so that a good past
  hides nothing.
- *Does it hurt, or do nothing?* The product of two mixture likelihood ratios, one for each arm (Robbins 1970),
  against "its lift is at least 0" and "at least 0.03".
- *Does it help?* The chance, under uniform priors, that the rate with it is above the rate without.

The watch keeps ten numbers in `Standing.alarm`. Evidence fades by 2 % a day, so what is said of error rates holds for
about 50 days at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from random import Random
from typing import NamedTuple

from gateway.shards import SERVED, Json, Standing, State
from gateway.shards.proving.rates import chance_above, log_beta, mean_and_sd

DAY_S = 86_400.0
KEPT_A_DAY = 0.98

SHARE_ON_TRIAL = 0.1
"""Of the conversations that a shard on trial is withheld from. To see a lift of 20 points takes about 20 requests
without it at any share up to a fifth: a larger one is only sooner done, and slower to see a fall."""
SHARE_LIVE = 0.05
"""Of a live one: enough to see in the long run that it is no longer needed."""

ALARM_AT = 250.0  # by simulation: see the table of the tests
KNOWN_AFTER = 30.0  # uses; from here on the alarm rises with their square, for so do the chances to be wrong
ALARM_AT_MOST = 1e6
FALLS_TO = 0.5  # of the rate: the fall that is looked for
MARGIN = 0.1
MARGIN_OF_PROOF = 0.1  # of the share that fails by the proof
MOST_ASKED = 0.95
Z_HISTORY = 1.645
DOUBT = 3.0
LONGEST_DOUBT = 100.0  # uses; what takes longer to show is no fall: it is the true rate
MIN_EXCUSE = 4

USELESS_LIFT = 0.03
ERROR_RATE = 0.01
MIN_USELESS = 100
MIN_PROMOTE = 20
CHANCE_TO_PROMOTE = 0.95
PATIENCE = 200  # requests without it: a lift of 10 points is 2.7 standard errors by then
NARROWINGS = 60
NEVER = 1e-12

PROOF_WEIGHT = 0.5
LIFT_SCALE = 0.2
Z_LIFT = 1.645
WEIGHT_OF_RELEVANCE = 0.6


class Action(StrEnum):
    KEEP = "keep"
    PROMOTE = "promote"
    RETIRE = "retire"


@dataclass(frozen=True)
class Finding:
    action: Action
    why: str = ""


KEEP = Finding(Action.KEEP)
STATE_AFTER = {Action.PROMOTE: State.LIVE, Action.RETIRE: State.RETIRED}


class Arms(NamedTuple):
    """Requests that were given the shard and that were not, and how many passed; less than whole once they fade."""

    shown: float = 0.0
    shown_passed: float = 0.0
    withheld: float = 0.0
    withheld_passed: float = 0.0

    def plus(self, other: Arms) -> Arms:
        return Arms(self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3])

    def times(self, factor: float) -> Arms:
        return Arms(*(factor * number for number in self))

    @property
    def beta_shown(self) -> tuple[float, float]:
        return 1.0 + self.shown_passed, 1.0 + self.shown - self.shown_passed

    @property
    def beta_withheld(self) -> tuple[float, float]:
        return 1.0 + self.withheld_passed, 1.0 + self.withheld - self.withheld_passed


class Watch(NamedTuple):
    """Args:
    past: requests before there was any doubt; `doubted`: those since. All of them tell of the lift.
    fall: the statistic of a fall.
    at: unix time of the last request; None: not known.
    """

    past: Arms = Arms()
    doubted: Arms = Arms()
    fall: float = 0.0
    at: float | None = None

    @property
    def arms(self) -> Arms:
        return self.past.plus(self.doubted)

    def as_json(self) -> Json:
        return {"past": list(self.past), "doubted": list(self.doubted), "fall": self.fall, "at": self.at}

    @classmethod
    def of(cls, standing: Standing) -> Watch:
        data = standing.alarm
        if not data:
            return cls(Arms(standing.shown, standing.shown_passed, standing.withheld, standing.withheld_passed))
        return cls(Arms(*data["past"]), Arms(*data["doubted"]), data["fall"], data["at"])

    def faded(self, now: float | None) -> Watch:
        """As it counts by now: two per cent less for each day since the last request."""
        if now is None or (self.at is not None and now <= self.at):
            return self
        kept = 1.0 if self.at is None else KEPT_A_DAY ** ((now - self.at) / DAY_S)
        return Watch(self.past.times(kept), self.doubted.times(kept), kept * self.fall, now)


def watch(
    standing: Standing,
    was_shown: bool,
    passed: bool,
    baseline: float,
    now: float | None = None,
    *,
    reader_fell: bool = False,
) -> tuple[Standing, Finding]:
    """Count one request, and say what follows from all of them.

    Args:
        standing: before it; a candidate or a retired one is counted and nothing more.
        was_shown: False if the shard was withheld from this request.
        passed: the answer passed its checks, or was found good otherwise.
        baseline: of its proof, see `Proof.baseline`; in [0, 1].
        now: unix time, by which old evidence fades; None: nothing fades.
        reader_fell: the reader is known to do worse on requests without any shard; then a fall is not the shard's.
    Returns: the standing after it, its state as found, and the finding.
    """
    seen = Watch.of(standing).faded(now)
    fall = _fall_after(seen, passed, baseline) if was_shown else seen.fall
    request = Arms(1.0, float(passed)) if was_shown else Arms(0.0, 0.0, 1.0, float(passed))
    seen = Watch(seen.past, seen.doubted.plus(request), fall, seen.at)
    shown, withheld = standing.shown + was_shown, standing.withheld + (not was_shown)
    finding = KEEP
    if standing.state in SERVED and was_shown:
        seen, finding = _judge_fall(seen, reader_fell)
    elif standing.state in SERVED:
        finding = _judge_lift(seen.arms, standing.state is State.TRIAL, shown, withheld)
    after = replace(
        standing,
        state=STATE_AFTER.get(finding.action, standing.state),
        shown=shown,
        shown_passed=standing.shown_passed + (was_shown and passed),
        withheld=withheld,
        withheld_passed=standing.withheld_passed + (passed and not was_shown),
        alarm=_settled(seen).as_json(),
    )
    return after, finding


def _settled(seen: Watch) -> Watch:
    """Once a doubt is over, what was seen under it is history like any other."""
    if seen.doubted.shown >= LONGEST_DOUBT:
        return Watch(past=seen.arms, at=seen.at)
    return Watch(seen.arms, Arms(), seen.fall, seen.at) if seen.fall < DOUBT else seen


def _fall_after(seen: Watch, passed: bool, baseline: float) -> float:
    rate = least_rate(seen.past, baseline)
    return (seen.fall + 1.0) * (FALLS_TO if passed else (1.0 - FALLS_TO * rate) / (1.0 - rate))


def least_rate(past: Arms, baseline: float) -> float:
    """The pass rate that a shard must keep: by its proof, corrected by what was seen since, and less a margin. So a
    lucky proof is forgotten, and a long good past raises what is asked."""
    mean, sd = mean_and_sd(*past.beta_shown)
    low, high = mean - Z_HISTORY * sd - MARGIN, mean + Z_HISTORY * sd - MARGIN
    return max(0.0, min(max(baseline - MARGIN_OF_PROOF * (1.0 - baseline), low), high, MOST_ASKED))


def _judge_fall(seen: Watch, reader_fell: bool) -> tuple[Watch, Finding]:
    since = seen.doubted
    uses = seen.past.shown + since.shown
    if seen.fall < min(ALARM_AT * max(1.0, uses / KNOWN_AFTER) ** 2, ALARM_AT_MOST):
        return seen, KEEP
    if reader_fell or _all_fell(
        seen
    ):  # the requests got harder, or the reader worse: start afresh from what is seen now
        return Watch(past=since, at=seen.at), KEEP
    return seen, Finding(Action.RETIRE, f"it fell: {since.shown_passed:.0f} of its last {since.shown:.0f} uses passed")


def _all_fell(seen: Watch) -> bool:
    """Did requests without the shard get worse as well, so that it is not to blame?"""
    then, since = seen.past, seen.doubted
    if since.withheld < MIN_EXCUSE:
        return False
    got_worse = chance_above(then.beta_withheld, since.beta_withheld) >= CHANCE_TO_PROMOTE
    return got_worse and chance_above(since.beta_shown, since.beta_withheld) >= 0.5


def _judge_lift(arms: Arms, is_trial: bool, shown: int, withheld: int) -> Finding:
    limit = -math.log(ERROR_RATE)
    rates = f"{_percent(arms.beta_shown)} pass with it, {_percent(arms.beta_withheld)} without"
    if against_lift(arms, 0.0) >= limit:
        return Finding(Action.RETIRE, f"it hurts: {rates}")
    if min(arms.shown, arms.withheld) >= MIN_USELESS and against_lift(arms, USELESS_LIFT) >= limit:
        return Finding(Action.RETIRE, f"no use: {rates}")
    if not is_trial:
        return KEEP
    if min(arms.shown, arms.withheld) >= MIN_PROMOTE and chance_of_lift(arms) >= CHANCE_TO_PROMOTE:
        return Finding(Action.PROMOTE, f"it helps: {rates}")
    if min(shown, withheld) >= PATIENCE:
        return Finding(Action.RETIRE, f"no gain shown in {shown + withheld} uses: {rates}")
    return KEEP


def _percent(shape: tuple[float, float]) -> str:
    return f"{(shape[0] - 1.0) / max(sum(shape) - 2.0, 1.0):.0%}"


def chance_of_lift(arms: Arms) -> float:
    """That more pass with it than without, by these requests alone."""
    (high, sd), (low, other_sd) = mean_and_sd(*arms.beta_shown), mean_and_sd(*arms.beta_withheld)
    if high <= low + 0.5 * math.hypot(sd, other_sd):  # far from certain: spare the integral
        return 0.5 * (1.0 + math.erf((high - low) / math.hypot(sd, other_sd) / math.sqrt(2.0)))
    return chance_above(arms.beta_shown, arms.beta_withheld)


def against_lift(arms: Arms, least: float) -> float:
    """Log evidence against "the lift is at least this"; whenever it is looked at, it exceeds log(1/x) by chance with
    probability x at most.

    For each pair of rates with that lift: how much likelier is what was seen under a uniform mixture of rates? The
    pair that is hardest to refute counts. The logarithm is convex in the rates, so that pair is on the border, and
    is found by narrowing.
    """
    if arms.shown_passed * arms.withheld - arms.withheld_passed * arms.shown >= least * arms.shown * arms.withheld:
        return 0.0
    mixtures = log_beta(*arms.beta_shown) + log_beta(*arms.beta_withheld)

    def against(withheld_rate: float) -> float:
        shown = _log_likelihood(arms.beta_shown, withheld_rate + least)
        return mixtures - shown - _log_likelihood(arms.beta_withheld, withheld_rate)

    low, high = 0.0, 1.0 - least
    for _ in range(NARROWINGS):
        third = (high - low) / 3.0
        if against(low + third) < against(high - third):
            high -= third
        else:
            low += third
    return max(0.0, against((low + high) / 2.0))


def _log_likelihood(shape: tuple[float, float], rate: float) -> float:
    rate = min(max(rate, NEVER), 1.0 - NEVER)
    return (shape[0] - 1.0) * math.log(rate) + (shape[1] - 1.0) * math.log1p(-rate)


def faded(standing: Standing, now: float) -> Arms:
    """The requests since its release, as they count by now."""
    return Watch.of(standing).faded(now).arms


def lift(standing: Standing, now: float) -> tuple[float, float]:
    """Mean and standard deviation of what it adds to the pass rate: by its requests, and by its proof at half weight
    (few cases, and those alike)."""
    shown, withheld = _shapes(standing, now)
    (high, sd), (low, other_sd) = mean_and_sd(*shown), mean_and_sd(*withheld)
    return high - low, math.hypot(sd, other_sd)


def _shapes(standing: Standing, now: float) -> tuple[tuple[float, float], tuple[float, float]]:
    proof, arms = standing.evidence, faded(standing, now)
    cases = PROOF_WEIGHT * proof.get("cases", 0)
    with_it, without = (PROOF_WEIGHT * proof.get(name, 0) for name in ("passed_with", "passed_without"))
    counted = arms.plus(Arms(cases, with_it, cases, without))
    return counted.beta_shown, counted.beta_withheld


def utility(standing: Standing, now: float) -> float:
    """How surely it helps, in [0, 1]: the normal distribution at the lower bound (5 %) of its lift, in steps of 20
    points. Nothing known: 0.0; a bound of 0: 0.5; of 30 points: 0.93."""
    mean, sd = lift(standing, now)
    return 0.5 * (1.0 + math.erf((mean - Z_LIFT * sd) / LIFT_SCALE / math.sqrt(2.0)))


def rank(relevance: float, standing: Standing, now: float) -> float:
    """For choosing among shards that fit a request: relevance in [0, 1] counts for 0.6, utility for 0.4."""
    return WEIGHT_OF_RELEVANCE * relevance + (1.0 - WEIGHT_OF_RELEVANCE) * utility(standing, now)


def draw(standing: Standing, now: float, random: Random) -> float:
    """A draw of its lift from what is known, in [-1, 1]. Whoever takes the rival with the highest draw samples by
    Thompson's rule: it tries what may be best and soon leaves what is not."""
    shown, withheld = _shapes(standing, now)
    return random.betavariate(*shown) - random.betavariate(*withheld)


def share_withheld(state: State) -> float:
    return SHARE_ON_TRIAL if state is State.TRIAL else SHARE_LIVE


def is_withheld(shard: str, conversation: str, share: float, salt: str = "") -> bool:
    """Is this shard kept from this conversation? The same for each of its turns and on every worker; independent of
    other shards. Those withheld at a small share are withheld at any larger one."""
    parts = (salt.encode(), shard.encode(), conversation.encode())
    digest = blake2b(b"".join(len(part).to_bytes(8, "big") + part for part in parts), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64
