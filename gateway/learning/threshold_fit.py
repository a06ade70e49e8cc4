"""Thresholds that rules name as `learned.NAME`, so that a wanted share of requests lies above each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.learning.evidence import Evidence
from gateway.learning.fit import Context, Fitted, HeldOut
from gateway.learning.paired import nearer

NAME = "thresholds"
LEARNED = "learned."
LEAST = 50  # requests, below which a quantile is a guess
MEASURE = "distance from the wanted share"
Json = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """`share` of the requests to `policies` whose `signal` is to lie at the threshold or above it."""

    signal: str
    policies: frozenset[str]
    share: float


def fit_thresholds(older: Evidence, newer: Evidence, context: Context) -> Fitted | None:
    """One document for all of them; those that nothing new is known of stay as they are."""
    wanted: Mapping[str, Wanted] = context.settings.get(NAME, {})
    before = dict((context.in_use.get(NAME) or {}).get("thresholds") or {})
    found, rows = {}, 0
    for name, one in sorted(wanted.items()):
        values = values_of(older, one)
        if len(values) >= LEAST:
            found[name] = {"value": threshold_for_share(values, one.share), "share": one.share, "rows": len(values)}
            rows += len(values)
    if not found:
        return None
    document = {"version": 1, "thresholds": {**before, **found}}
    return Fitted(NAME, document, rows, _held_out(wanted, before, found, newer))


def threshold_for_share(values: Sequence[float], share: float) -> float:
    """Pick the value at or above which so many of the requests lie.

    Args:
        values: one a request of the past, at least one.
        share: wanted share of requests at or above the threshold, in [0, 1].
    Returns: the (1 - share) quantile; just above the largest value where none is to lie there.
    Raises: ValueError if `values` is empty or `share` is out of range.
    Source: threshold calibration in RouteLLM (Ong et al. 2024, arXiv:2406.18665).
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("wants values, and a share from 0 to 1")
    ordered = sorted(values)
    place = round((1 - share) * len(ordered))
    return ordered[place] if place < len(ordered) else math.nextafter(ordered[-1], math.inf)


def values_of(evidence: Evidence, wanted: Wanted) -> list[float]:
    """The signal of each request of these policies that it was read for, as the journal has it."""
    found = []
    for one in evidence.rows:
        if one.row.policy in wanted.policies:
            for entry in one.facts.get("signals") or ():
                value = entry.get("value")
                if entry.get("signal") == wanted.signal and isinstance(value, int | float):
                    found.append(float(value))
    return found


def _held_out(
    wanted: Mapping[str, Wanted], before: Mapping[str, Any], found: Mapping[str, Any], newer: Evidence
) -> HeldOut | None:
    """Of the first of them that had a value before; a new name is no worse than none."""
    for name in found:
        if name not in before:
            continue
        values = values_of(newer, wanted[name])
        if not values:
            continue
        was = before[name]["value"] if isinstance(before[name], Mapping) else before[name]
        share, now = wanted[name].share, found[name]["value"]
        then, after = ([float(value >= limit) for value in values] for limit in (was, now))
        misses = [abs(sum(above) / len(values) - share) for above in (then, after)]
        return HeldOut(MEASURE, len(values), misses[0], misses[1], nearer(then, after, share))
    return None


def names_in(when: Any) -> Iterator[tuple[str, str]]:
    """(signal, name) of each `learned.NAME` that a condition compares with."""
    if isinstance(when, Mapping):
        for signal, value in when.items():
            if isinstance(value, Mapping):
                for operand in value.values():
                    name = _name(operand)
                    if name is not None:
                        yield str(signal), name
            yield from names_in(value)
    elif isinstance(when, list):
        for item in when:
            yield from names_in(item)


def _name(operand: Any) -> str | None:
    if isinstance(operand, str) and operand.startswith(LEARNED):
        return operand.removeprefix(LEARNED)
    if isinstance(operand, Mapping) and isinstance(operand.get("learned"), str):
        return str(operand["learned"])
    return None
