"""What shards a reader was given with a request: for its trace, for reports, and for checks of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FACT = "shards"  # of a trace's hop of kind "shards"


@dataclass(frozen=True)
class Given:
    """Args:
    reader: the model.
    shards: ids of those that stand in the request, those of earlier turns too.
    notes: their sentences or passages.
    answers: of the worked examples.
    known: (answer, likeness to the request) of all examples of those shards, also of those that were not given.
    checks: that came with them, as a policy writes checks.
    chosen: ids of those chosen with this turn; `withheld`: those left out at random, to see what becomes of the
        answer without them.
    considered: what became of each that was found, as JSON.
    question: that they were chosen for.
    """

    reader: str
    shards: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    known: tuple[tuple[str, float], ...] = ()
    checks: tuple[Any, ...] = ()
    chosen: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    considered: Sequence[dict[str, Any]] = ()
    question: str = ""

    def as_json(self) -> dict[str, Any]:
        """For the journal: no texts, for those may be a user's own."""
        return {"given": list(self.shards), "withheld": list(self.withheld), "considered": list(self.considered)}
