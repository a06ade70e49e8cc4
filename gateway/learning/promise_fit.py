"""A promise with another combiner: the same labels, noted in a new one with the new scores, so that it need not begin
anew. Scores are those of combiners that have not seen the draft."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.quality.promise import Promise, Terms
from gateway.store.drafts import DraftRow


def recertified(rows: Sequence[DraftRow], chances: Sequence[float], terms: Terms, fingerprint: str) -> Promise:
    """Args:
    rows: of one arm, oldest first; those that were marked for an audit and compared enter the bound.
    chances: of each row, predicted out of fold.
    """
    promise = Promise(terms, fingerprint)
    for row, chance in zip(rows, chances, strict=True):
        if is_vetoed(row):
            promise.note(0.0, False, row.audited, 0.0)
        elif row.audited and row.same is not None:
            promise.note(chance, False, True, float(not row.same))
    return promise


def is_vetoed(row: DraftRow) -> bool:
    """A hard check had failed it: traffic of which nothing is accepted."""
    return not row.features
