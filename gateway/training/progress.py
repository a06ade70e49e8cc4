"""How the loop has come along: what stays here, and what is right, over time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from gateway.store.database import Database
from gateway.store.outcomes import OutcomeRow, Outcomes
from gateway.store.tables import JOURNAL

BINS = 24
BESIDE = ("audit", "trial")  # routes of requests that nobody waits for
SMALLEST_BIN = 5  # requests: fewer tell nothing


@dataclass(frozen=True)
class Point:
    """A stretch of time. `count`: requests in it."""

    at: float
    share: float
    count: int


@dataclass(frozen=True)
class Mark:
    """An adapter came into a state."""

    at: float
    said: str


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Progress:
    """Args:
    local: share of the requests of policies that was answered here.
    right: share of what adapters were compared on that they had right; `before`: that what answers without them had.
    """

    local: Series
    right: Series
    before: Series
    marks: tuple[Mark, ...] = ()

    @property
    def all(self) -> tuple[Series, ...]:
        return tuple(one for one in (self.local, self.right, self.before) if one.points)


async def gather(
    database: Database, models: Collection[str], policies: Collection[str], since: float = 0.0
) -> tuple[list[tuple[float, bool]], list[OutcomeRow]]:
    """(moment and whether it was answered here, of each request; what adapters were compared on).

    Args: `models`: that run here; adapters of theirs count as they do."""
    query = select(JOURNAL.c.created, JOURNAL.c.model).where(
        JOURNAL.c.created >= since,
        JOURNAL.c.status < 400,
        JOURNAL.c.policy.in_(list(policies)),
        JOURNAL.c.route.not_in(BESIDE),
    )
    async with database.read() as connection:
        rows = (await connection.execute(query.order_by(JOURNAL.c.created))).all()
    here = set(models)
    requests = [(created, (model or "").partition(":")[0] in here) for created, model in rows]
    return requests, await Outcomes(database).find(since=since)


def progress(
    requests: Sequence[tuple[float, bool]], outcomes: Sequence[OutcomeRow], marks: Sequence[Mark] = ()
) -> Progress:
    moments = [at for at, _ in requests] + [row.created for row in outcomes]
    begin, end = min(moments, default=0.0), max(moments, default=0.0)
    right = [(row.created, row.right) for row in outcomes]
    before = [(row.created, row.before) for row in outcomes]
    within = tuple(mark for mark in marks if begin <= mark.at <= end)
    return Progress(
        Series("answered here", _binned(requests, begin, end)),
        Series("right with adapters", _binned(right, begin, end)),
        Series("right without them", _binned(before, begin, end)),
        within,
    )


def _binned(values: Sequence[tuple[float, bool]], begin: float, end: float) -> tuple[Point, ...]:
    """Stretches of like length; one with very few goes together with the next."""
    width = (end - begin) / BINS or 1.0
    points: list[Point] = []
    held: list[tuple[float, bool]] = []
    for number in range(BINS):
        last = number == BINS - 1
        until = begin + width * (number + 1)
        held += [one for one in values if begin + width * number <= one[0] and (one[0] < until or last)]
        if len(held) >= SMALLEST_BIN or (last and held and not points):
            middle = sum(at for at, _ in held) / len(held)
            points.append(Point(middle, sum(good for _, good in held) / len(held), len(held)))
            held = []
    return tuple(points)
