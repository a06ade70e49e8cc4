"""What a model was given with a request, shards and an adapter: for its trace, reports, and checks of its answer."""

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


ADAPTER = "adapter"  # of a trace's hop of that kind


@dataclass(frozen=True)
class Adapted:
    """A request of a kind that an adapter has learned.

    Args:
        serving: the adapter that answers it, "" where the model alone does.
        tried: the one that is being tried on it, whether or not it answers; "" where none is.
        rate: share of the kind's held-out requests that the one that answers had right.
        pairs: that it was trained on, of this kind.
        watched: chosen beforehand, for its answer to be compared with a larger model's.
    """

    kind: str
    serving: str = ""
    tried: str = ""
    rate: float = 0.0
    pairs: int = 0
    watched: bool = False

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "serving": self.serving, "tried": self.tried, "watched": self.watched}
