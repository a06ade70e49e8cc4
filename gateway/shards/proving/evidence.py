"""Does a shard help its reader? Judged by paired replay: each case is run without the shard and with it.

Sources: the score interval of a paired difference (Tango 1998, Statistics in Medicine 17:891), the exact test of
McNemar (a sign test of the cases that changed), exact bounds of a rate (Clopper and Pearson 1934) and of a lot
(hypergeometric).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from gateway.shards import Json, Origin, State
from gateway.shards.proving.rates import (
    chance_of_lift,
    exact_p_value,
    lot_lower_bound,
    lot_tail,
    paired_interval,
    quantile,
    upper_bound,
)

AIMED = (Origin.SOURCE, Origin.PARAPHRASE, Origin.HELD_OUT)
MIN_CASES = 3
FEW_CASES = 6  # below this, one lost case outweighs what the gains can show
MIN_CONTROLS = 4  # that are right without the shard: others cannot get worse
MIN_PASS_SHARE = 0.6
SURE_LIFT = 0.05  # lower bound of the lift, for a shard with which fewer pass
MIN_GAIN = 2
CHANCE_TO_TRY = 0.85
CHANCE_TO_LIVE = 0.95
BASELINE_SHARE = 0.1

LOT_SHARE = 1 / 3  # of a lot that has to help; the rest does nothing, for harm has a bound of its own
LOT_CONFIDENCE = 0.95
LOT_MAX_HARM = 0.05
LOT_GOOD_SHARE = 0.65  # of a lot worth having: 15 of 23 sentences of 28 articles helped a 135M reader
LOT_POWER = 0.9


@dataclass(frozen=True)
class Outcome:
    """One case, replayed. Tokens are those of the prompt."""

    origin: Origin
    passed_without: bool
    passed_with: bool
    tokens_without: int = 0
    tokens_with: int = 0


@dataclass(frozen=True)
class Tally:
    """Cases of one origin. `gained` passed only with the shard, `lost` only without it."""

    cases: int = 0
    without: int = 0
    with_shard: int = 0
    gained: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Proof:
    """What the replay of one shard on one reader showed.

    Args:
        why: one line for people.
        by_origin: of each origin that has cases.
        cases, passed_without, passed_with, gained, lost: of all that the shard is meant for, so not of controls.
        lift: share gained less share lost, with its 95 % interval.
        p_value: two-sided, of "it changes nothing".
        harmed, could_be_harmed: cases, controls too, that were right without it: how many went wrong, of how many.
        harm_high: upper bound of their share, one-sided at 95 %.
        tokens_added: to a prompt, in the mean.
    """

    admitted: bool
    why: str
    by_origin: Mapping[Origin, Tally] = field(default_factory=dict)
    cases: int = 0
    passed_without: int = 0
    passed_with: int = 0
    gained: int = 0
    lost: int = 0
    lift: float = 0.0
    lift_low: float = -1.0
    lift_high: float = 1.0
    p_value: float = 1.0
    harmed: int = 0
    could_be_harmed: int = 0
    harm_high: float = 1.0
    tokens_added: float = 0.0

    @property
    def chance_of_lift(self) -> float:
        return chance_of_lift(self.gained, self.lost)

    @property
    def is_near(self) -> bool:
        """It helps with some, and passes half as many as are needed: with more examples it may do."""
        return self.gained > 0 and 2 * self.passed_with >= MIN_PASS_SHARE * self.cases

    @property
    def baseline(self) -> float:
        """What the pass rate with the shard is at least, for the watch over it."""
        return baseline(self.passed_with, self.cases)

    def as_json(self) -> Json:
        return asdict(self) | {"by_origin": {str(origin): asdict(tally) for origin, tally in self.by_origin.items()}}

    @classmethod
    def from_json(cls, data: Json) -> Proof:
        """Of what `as_json` has written; more may have been noted beside it."""
        by_origin = {Origin(name): Tally(**tally) for name, tally in data["by_origin"].items()}
        return cls(**{**_known(cls, data), "by_origin": by_origin})


def _known(kind: type[Proof | LotProof], data: Json) -> Json:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def admit(outcomes: Sequence[Outcome]) -> Proof:
    """Admitted if at least 60 % of the cases it is meant for pass with it, at least two more than without, held-out
    ones get no worse and one of them passes, and no control regresses.

    Fewer than 60 % are enough for a trial where the lift is sure: the cases are mostly what the reader had failed at,
    and what it fails at again, its checks find. (Dates in free text, a reader of 135M: 4 of 25 right without worked
    examples and 8 with them. Its cascade needs the larger model for four requests less.)"""
    by_origin = {origin: tallied for origin in Origin if (tallied := tally(outcomes, (origin,))).cases}
    aimed, everything = tally(outcomes, AIMED), tally(outcomes, tuple(Origin))
    low, high = paired_interval(aimed.gained, aimed.lost, aimed.cases)
    fault = _fault(aimed, by_origin.get(Origin.HELD_OUT, Tally()), by_origin.get(Origin.CONTROL, Tally()))
    return Proof(
        admitted=not fault,
        why=fault or _praise(aimed, by_origin[Origin.CONTROL]),
        by_origin=by_origin,
        cases=aimed.cases,
        passed_without=aimed.without,
        passed_with=aimed.with_shard,
        gained=aimed.gained,
        lost=aimed.lost,
        lift=(aimed.gained - aimed.lost) / aimed.cases if aimed.cases else 0.0,
        lift_low=low,
        lift_high=high,
        p_value=exact_p_value(aimed.gained, aimed.lost),
        harmed=everything.lost,
        could_be_harmed=everything.without,
        harm_high=upper_bound(everything.lost, everything.without),
        tokens_added=mean_tokens_added(outcomes),
    )


def _fault(aimed: Tally, held_out: Tally, control: Tally) -> str:
    """The first reason not to admit it, or nothing."""
    if aimed.cases < MIN_CASES:
        return f"too few cases: {aimed.cases}, and at least {MIN_CASES} are needed"
    if _is_weak(aimed) and paired_interval(aimed.gained, aimed.lost, aimed.cases)[0] < SURE_LIFT:
        return f"too weak: {aimed.with_shard} of {aimed.cases} cases pass with it, and {MIN_PASS_SHARE:.0%} are needed"
    if aimed.gained - aimed.lost < MIN_GAIN:
        return f"no use: {aimed.with_shard} of {aimed.cases} cases pass with it, {aimed.without} without"
    if aimed.lost and (aimed.cases < FEW_CASES or chance_of_lift(aimed.gained, aimed.lost) < CHANCE_TO_TRY):
        return f"unclear: {aimed.gained} of {aimed.cases} cases are gained by it and {aimed.lost} lost"
    if held_out.cases and held_out.with_shard < max(1, held_out.without):
        passes = f"{held_out.with_shard} of {held_out.cases} held-out cases pass with it, {held_out.without} without"
        return f"learned by heart: {passes}"
    if control.without < MIN_CONTROLS:
        return f"too few controls: {control.without} are right without it, and at least {MIN_CONTROLS} are needed"
    if control.lost:
        return f"harm: {control.lost} of {control.without} controls are right without it and wrong with it"
    return ""


def _is_weak(aimed: Tally | Proof) -> bool:
    passed = aimed.with_shard if isinstance(aimed, Tally) else aimed.passed_with
    return passed < MIN_PASS_SHARE * aimed.cases


def _praise(aimed: Tally, control: Tally) -> str:
    return (
        f"{aimed.with_shard} of {aimed.cases} cases pass with it, {aimed.without} without; "
        f"none of {control.without} controls got worse"
    )


def tally(outcomes: Iterable[Outcome], origins: Sequence[Origin]) -> Tally:
    those = [one for one in outcomes if one.origin in origins]
    return Tally(
        cases=len(those),
        without=sum(one.passed_without for one in those),
        with_shard=sum(one.passed_with for one in those),
        gained=sum(one.passed_with and not one.passed_without for one in those),
        lost=sum(one.passed_without and not one.passed_with for one in those),
    )


def mean_tokens_added(outcomes: Sequence[Outcome]) -> float:
    return sum(one.tokens_with - one.tokens_without for one in outcomes) / len(outcomes) if outcomes else 0.0


def state_after(proof: Proof | LotProof) -> State:
    """Live at once where the chance of a lift is at least 95 % (four gains and no loss are enough), else on trial."""
    if not proof.admitted:
        return State.CANDIDATE
    is_weak = isinstance(proof, Proof) and _is_weak(proof)
    return State.LIVE if proof.chance_of_lift >= CHANCE_TO_LIVE and not is_weak else State.TRIAL


def baseline(passed: int, cases: int) -> float:
    """The rate that nine in ten of those who give such a result are above (a uniform prior)."""
    return quantile(BASELINE_SHARE, 1.0 + passed, 1.0 + cases - passed)


@dataclass(frozen=True)
class LotProof:
    """What a random sample of a lot showed: a lot is what was added in one go, such as the facts of one document.

    Args:
        certifies: the quality that is shown, with the confidence; empty unless it is admitted.
        sampled: members of the sample; `helped` passed more cases with their shard than without, `hurt` fewer, or
            made a control wrong. The rest changed nothing.
        helped_low: share of the whole lot that is helped, at least, one-sided at 95 %.
        hurt_members: their ids.
        controls, regressed, harm_high: controls right without a shard, how many of them it made wrong, and the upper
            bound of that share, one-sided at 95 %.
        cases, passed_without, passed_with, gained, lost, tokens_added: as in `Proof`, of the whole sample.
    """

    admitted: bool
    why: str
    certifies: str = ""
    lot_size: int = 0
    sampled: int = 0
    helped: int = 0
    hurt: int = 0
    helped_low: float = 0.0
    hurt_members: tuple[str, ...] = ()
    controls: int = 0
    regressed: int = 0
    harm_high: float = 1.0
    cases: int = 0
    passed_without: int = 0
    passed_with: int = 0
    gained: int = 0
    lost: int = 0
    tokens_added: float = 0.0

    @property
    def chance_of_lift(self) -> float:
        """That a member is likelier to help than to hurt."""
        return chance_of_lift(self.helped, self.hurt)

    @property
    def baseline(self) -> float:
        return baseline(self.passed_with, self.cases)

    def as_json(self) -> Json:
        return asdict(self) | {"hurt_members": list(self.hurt_members)}

    @classmethod
    def from_json(cls, data: Json) -> LotProof:
        return cls(**{**_known(cls, data), "hurt_members": tuple(data["hurt_members"])})


def admit_lot(outcomes_per_member: Mapping[str, Sequence[Outcome]], lot_size: int) -> LotProof:
    """Admitted if, at 95 % confidence each, a third of the members help and at most 5 % of controls get worse.

    Args:
        outcomes_per_member: by id, of members drawn at random; `sample_size` says how many.
        lot_size: how many members there are.
    """
    gains = {id: _gain(outcomes) for id, outcomes in outcomes_per_member.items()}
    sampled, helped = len(gains), sum(gain > 0 for gain in gains.values())
    hurt = tuple(id for id, gain in gains.items() if gain < 0)
    everything = [one for outcomes in outcomes_per_member.values() for one in outcomes]
    aimed, control = tally(everything, AIMED), tally(everything, (Origin.CONTROL,))
    lot_size = max(lot_size, sampled)
    helped_low = lot_lower_bound(helped, sampled, lot_size, LOT_CONFIDENCE) / lot_size if sampled else 0.0
    harm_high = upper_bound(control.lost, control.without, LOT_CONFIDENCE)
    fault = _lot_fault(sampled, helped, helped_low, control, harm_high)
    quality = f"at least {helped_low:.0%} of {lot_size} help, and at most {harm_high:.1%} of controls get worse"
    return LotProof(
        admitted=not fault,
        why=fault or f"{helped} of {sampled} sampled members help, {len(hurt)} hurt",
        certifies="" if fault else f"{quality} (95 % confidence each)",
        lot_size=lot_size,
        sampled=sampled,
        helped=helped,
        hurt=len(hurt),
        helped_low=helped_low,
        hurt_members=hurt,
        controls=control.without,
        regressed=control.lost,
        harm_high=harm_high,
        cases=aimed.cases,
        passed_without=aimed.without,
        passed_with=aimed.with_shard,
        gained=aimed.gained,
        lost=aimed.lost,
        tokens_added=mean_tokens_added(everything),
    )


def _gain(outcomes: Sequence[Outcome]) -> int:
    """Cases that a member gains; less than nothing if it makes a control wrong."""
    aimed, control = tally(outcomes, AIMED), tally(outcomes, (Origin.CONTROL,))
    return -control.lost if control.lost else aimed.gained - aimed.lost


def _lot_fault(sampled: int, helped: int, helped_low: float, control: Tally, harm_high: float) -> str:
    if helped_low <= LOT_SHARE:
        return f"{helped} of {sampled} sampled members help: that a third of the lot do is not shown"
    if harm_high > LOT_MAX_HARM and control.lost:
        return f"harm: {control.lost} of {control.without} controls are right without a member and wrong with it"
    if harm_high > LOT_MAX_HARM:
        return (
            f"too few controls: {control.without} are right without a member, which bounds harm by {harm_high:.0%} only"
        )
    return ""


def sample_size(lot_size: int) -> int:
    """Members to draw at random, so that a lot of which 65 % help is admitted nine times in ten.

    With eight controls each, four of 184 may get worse.
    """
    good = math.ceil(LOT_GOOD_SHARE * lot_size)
    bad = math.floor(LOT_SHARE * lot_size)
    for sample in range(1, lot_size):
        enough = next(
            (k for k in range(sample + 1) if lot_tail(k, sample, bad, lot_size) <= 1.0 - LOT_CONFIDENCE), None
        )
        if enough is not None and lot_tail(enough, sample, good, lot_size) >= LOT_POWER:
            return sample
    return lot_size
