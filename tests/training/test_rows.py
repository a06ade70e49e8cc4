"""Rows of tokens: whoever reads a row learns the same as from each sample by itself."""

from __future__ import annotations

import random

from gateway.training.rows import FEWEST_SHARED, IGNORED, MOST_IN_ROW, Row, Sample, batches, chunks, common


def sample(*ids: int, learned: int = 2) -> Sample:
    return Sample(list(ids), [IGNORED] * (len(ids) - learned) + list(ids[len(ids) - learned :]))


def seen_by(row: Row, place: int) -> list[tuple[int, int]]:
    """(token, position) of what a place of a row sees, in order."""
    segment = row.segments[place]
    return [(row.ids[n], row.positions[n]) for n in range(place + 1) if row.segments[n] in (0, segment)]


def test_each_token_is_told_from_what_came_before_it_in_its_own_sample() -> None:
    rng = random.Random(1)
    shared = [rng.randrange(99) for _ in range(20)]
    for group in (
        [sample(*shared, *(rng.randrange(100, 999) for _ in range(rng.randint(3, 9)))) for _ in range(5)],
        [sample(*(rng.randrange(999) for _ in range(rng.randint(3, 9)))) for _ in range(5)],
        [sample(*shared, 7, 8, 9)],
    ):
        row = Row.of(group)
        told = []
        for source, target in zip(row.sources, row.targets, strict=True):
            told.append((tuple(seen_by(row, source)), target))
        wanted = [
            (tuple((one.ids[n], n) for n in range(place)), one.ids[place])
            for one in group
            for place in range(1, len(one.ids))
            if one.labels[place] != IGNORED
        ]
        assert told == wanted


def test_what_is_shared_stands_there_once_and_is_never_learned() -> None:
    same = list(range(FEWEST_SHARED + 4))
    group = [sample(*same, 100, 101, 102), sample(*same, 200, 201, 202)]
    row = Row.of(group)
    assert common(group) == len(same) and len(row.ids) == len(same) + 6
    twice = [sample(*same, 5, 6), sample(*same, 5, 6)]  # alike to the end: what is learned stays in each
    assert common(twice) == len(same) and len(Row.of(twice).targets) == 4


def test_rows_hold_what_begins_alike_and_of_the_others_as_many_as_there_is_room_for() -> None:
    alike = [sample(*range(30), n, n) for n in range(4)]
    others = [sample(*[1000 + n] * (MOST_IN_ROW // 2)) for n in range(3)]
    found = chunks([*others, *alike])
    assert sorted(len(some) for some in found) == [1, 2, 4]
    assert sum(len(some) for some in found) == 7


def test_batches_are_the_same_for_the_same_seed_and_hold_each_sample_once() -> None:
    samples = [sample(n % 3, *range(20), n, n) for n in range(50)]
    found = batches(samples, 8, 1, 0)
    assert found == batches(samples, 8, 1, 0) != batches(samples, 8, 1, 1)
    assert sorted(one.ids[-1] for batch in found for one in batch) == list(range(50))
