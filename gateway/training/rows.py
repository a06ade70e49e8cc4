"""Samples as rows of tokens: what several begin with stands there once. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

IGNORED = -100  # torch's cross entropy counts no such label
FEWEST_SHARED = 16  # tokens
MOST_IN_ROW = 1024  # tokens of samples that share nothing: all of a row see a mask of its width squared


@dataclass(frozen=True)
class Sample:
    """A chat in tokens. `labels`: the tokens that are learned, `IGNORED` where one is only read."""

    ids: list[int]
    labels: list[int]

    @property
    def first(self) -> int:
        """Place of the first token that is learned, from 1 on."""
        return next((n for n, label in enumerate(self.labels) if n and label != IGNORED), len(self.labels) - 1)


@dataclass(frozen=True)
class Row:
    """Samples that begin alike, in one row of tokens: their beginning, then the rest of each.

    Args:
        positions: of each token in its own sample.
        segments: 0 for the beginning, that all see; n for the rest of sample n.
        sources, targets: from which place of the row which token is to be told.
    """

    ids: list[int]
    positions: list[int]
    segments: list[int]
    sources: list[int]
    targets: list[int]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Row:
        shared = common(samples) if len(samples) > 1 else 0
        shared = shared if shared >= FEWEST_SHARED else 0
        row = cls(samples[0].ids[:shared], list(range(shared)), [0] * shared, [], [])
        for number, one in enumerate(samples, 1):
            offset = len(row.ids) - shared
            row.ids.extend(one.ids[shared:])
            row.positions.extend(range(shared, len(one.ids)))
            row.segments.extend([number] * (len(one.ids) - shared))
            for place in range(one.first, len(one.ids)):
                if one.labels[place] != IGNORED:
                    row.sources.append(place - 1 + offset if place > shared else shared - 1)
                    row.targets.append(one.labels[place])
        return row


def common(samples: Sequence[Sample]) -> int:
    """So many tokens do all begin with, before any that is learned."""
    shortest = min(one.first for one in samples)
    first = samples[0].ids
    return next((n for n in range(shortest) if any(one.ids[n] != first[n] for one in samples)), shortest)


def chunks(batch: Sequence[Sample]) -> list[list[Sample]]:
    """What goes into one row: those that begin alike, and the others as far as there is room."""
    alike: list[list[Sample]] = []
    for one in sorted(batch, key=lambda one: one.ids):
        if alike and common([alike[-1][0], one]) >= FEWEST_SHARED:
            alike[-1].append(one)
        else:
            alike.append([one])
    found = [some for some in alike if len(some) > 1]
    room = 0
    for one in (some[0] for some in alike if len(some) == 1):
        if len(one.ids) > room:
            found.append([])
            room = MOST_IN_ROW
        found[-1].append(one)
        room -= len(one.ids)
    return found


def batches(samples: Sequence[Sample], size: int, seed: int, epoch: int) -> list[list[Sample]]:
    """The same for the same seed and epoch, so that training goes on as it would have. Half a batch begins alike, where
    there are such, so that little is computed twice; the halves come in any order."""
    rng = random.Random(f"{seed}/{epoch}")
    order = sorted(samples, key=lambda one: (one.ids[:FEWEST_SHARED], rng.random()))
    half = max(1, size // 2)
    parts = [order[n : n + half] for n in range(0, len(order), half)]
    rng.shuffle(parts)
    mixed = [one for part in parts for one in part]
    return [mixed[n : n + size] for n in range(0, len(mixed), size)]
