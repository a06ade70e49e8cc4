"""What a draft is worth by its features, for each tier under a promise: combiners, from judged drafts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.learned_files import rounded
from gateway.learning.evidence import Evidence
from gateway.learning.fit import Context, Fitted, HeldOut
from gateway.learning.paired import difference
from gateway.learning.promise_fit import recertified
from gateway.quality.combiner import COLD, Combiner, Row
from gateway.quality.promise import Terms
from gateway.store.drafts import DraftRow

NAME, PROMISES = "combiners", "promises"
TERMS = "terms of promises"  # setting: by arm
MEASURE = "squared error of the chance that a draft is right"
Json = dict[str, Any]


@dataclass
class _Arm:
    """Drafts of one tier. Every one that went on to the strong model was compared with it; of those that were accepted
    only the audited ones were, and each of these stands for several."""

    drafts: list[DraftRow] = field(default_factory=list)
    accepted: int = 0

    @property
    def rows(self) -> list[Row]:
        compared = sum(draft.accepted for draft in self.drafts)
        stands_for = self.accepted / compared if compared else 1.0
        return [
            Row(draft.features, float(bool(draft.same)), stands_for if draft.accepted else 1.0) for draft in self.drafts
        ]


def fit_combiners(older: Evidence, newer: Evidence, context: Context) -> Sequence[Fitted]:
    """By arm. What is in use stays for those where the newer drafts do not show that the new one is better: another
    combiner is another promise, which begins with the labels that there are."""
    from gateway.quality.combiner_fit import FEWEST, fit_and_predict

    before: Mapping[str, Json] = (context.in_use.get(NAME) or {}).get("combiners") or {}
    newest = {draft.arm: _tier_of(draft) for draft in (*older.drafts, *newer.drafts)}
    fresh, tried = _by_arm(older.drafts, newest), _by_arm(newer.drafts, newest)
    found: dict[str, Json] = {}
    promises: dict[str, Json] = {}
    errors: list[tuple[float, float]] = []
    count = 0
    for arm, own in sorted(fresh.items()):
        rows = own.rows
        if len(rows) < FEWEST or len({row.label for row in rows}) < 2:
            continue
        combiner, chances = fit_and_predict(rows)
        combiner = Combiner.from_json(rounded(combiner.as_json()))  # as it will be read
        used = Combiner.from_json(before[arm]) if arm in before else COLD
        missed = _errors(used, combiner, tried[arm].rows) if arm in tried else []
        if missed and difference([then for then, _ in missed], [now for _, now in missed]).is_above_zero:
            found[arm], count = combiner.as_json(), count + len(rows)
            errors += missed
            terms = context.settings.get(TERMS, {}).get(arm)
            if terms is not None:
                said = dict(zip((id(draft) for draft in own.drafts), chances, strict=True))
                fingerprint = f"{newest[arm]}-{combiner.fingerprint}"
                promises[arm] = _promise((older, newer), arm, newest, said, combiner, terms, fingerprint)
    if not found:
        return []
    held_out = _held_out(errors)
    documents = [(NAME, {**before, **found})]
    if promises:
        former = (context.in_use.get(PROMISES) or {}).get(PROMISES) or {}
        documents.append((PROMISES, {**former, **promises}))
    return [Fitted(name, {"version": 1, name: one}, count, held_out, needs="better") for name, one in documents]


def _promise(
    parts: Sequence[Evidence],
    arm: str,
    newest: Mapping[str, str],
    said: Mapping[int, float],
    combiner: Combiner,
    terms: Terms,
    fingerprint: str,
) -> Json:
    """On all labels: scored out of fold where the combiner was fitted on them, by itself where it was not.

    Args: `said`: chances out of fold, by the `id()` of the draft.
    """
    drafts = [one for part in parts for one in part.drafts if one.arm == arm and _tier_of(one) == newest[arm]]
    chances = [said[id(one)] if id(one) in said else combiner.predict(one.features) for one in drafts]
    return recertified(drafts, chances, terms, fingerprint).as_json()


def _tier_of(draft: DraftRow) -> str:
    """Of another model or prompt, drafts are others; what they were judged by does not matter here."""
    return draft.fingerprint.rpartition("-")[0] or draft.fingerprint


def _by_arm(drafts: Sequence[DraftRow], newest: Mapping[str, str]) -> dict[str, _Arm]:
    found: dict[str, _Arm] = defaultdict(_Arm)
    for draft in drafts:
        if _tier_of(draft) == newest[draft.arm] and draft.features:  # without: a hard check has failed it
            found[draft.arm].accepted += draft.accepted
            if draft.same is not None:
                found[draft.arm].drafts.append(draft)
    return found


def _errors(used: Combiner, fitted: Combiner, rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Squared, each counted as often as its draft stands for others."""
    total = sum(row.weight for row in rows)
    shares = [row.weight * len(rows) / total for row in rows]
    return [
        (share * (used.predict(row.features) - row.label) ** 2, share * (fitted.predict(row.features) - row.label) ** 2)
        for row, share in zip(rows, shares, strict=True)
    ]


def _held_out(errors: Sequence[tuple[float, float]]) -> HeldOut:
    then, now = [error for error, _ in errors], [error for _, error in errors]
    return HeldOut(MEASURE, len(errors), sum(then) / len(then), sum(now) / len(now), difference(then, now))
