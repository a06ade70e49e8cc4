"""The journal in numbers, as `gateway report` prints them. All sums are made by the database."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.database import Database
from gateway.store.tables import JOURNAL

MOST_PATHS = 20
MOST_GROUPS = 100  # models and routes come from the configuration, past ones too
MOST_IDS = 500  # in one query


@dataclass(frozen=True, slots=True)
class Tally:
    """Some requests, counted. Tokens and cost are those of the whole chain.

    Args:
        errors: requests that ended in an error, in the status or inside the stream.
        known_cost_usd: the least that was spent: requests of unknown cost (`unknown_cost` of them) add nothing.
    """

    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    known_cost_usd: float
    unknown_cost: int

    @property
    def cost_usd(self) -> float | None:
        """None once the cost of any of them is not known."""
        return None if self.unknown_cost else self.known_cost_usd


@dataclass(frozen=True, slots=True)
class Summary:
    """The requests since `since` (unix seconds; None for all there are).

    Groups are (name, tally), most requests first. The rate and the times are of answered requests only: a refusal in
    half a millisecond says nothing about a model. None where there are none.
    """

    since: float | None
    total: Tally
    by_model: tuple[tuple[str | None, Tally], ...]  # who answered; None: nobody
    by_path: tuple[tuple[str, Tally], ...]  # the first 20
    by_route: tuple[tuple[str, Tally], ...]  # policy/route; "-" for either where none was chosen
    answered: int
    escalated: int
    p50_ms: float | None
    p95_ms: float | None

    @property
    def escalation_rate(self) -> float | None:
        """Share in [0, 1] of answered requests that another model answered than the one asked first."""
        return self.escalated / self.answered if self.answered else None


ROW = JOURNAL.c
ANSWERED = ROW.model.is_not(None)


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


MEASURES = (
    func.count(),
    _count(or_(ROW.status >= 400, ROW.error.is_not(None))),
    func.coalesce(func.sum(ROW.input_tokens), 0),
    func.coalesce(func.sum(ROW.output_tokens), 0),
    func.coalesce(func.sum(ROW.cost_usd), 0.0),
    _count(ROW.cost_usd.is_(None)),
)


def _tally(values: Sequence[Any]) -> Tally:
    requests, errors, input_tokens, output_tokens, cost_usd, unknown_cost = values
    return Tally(int(requests), int(errors), int(input_tokens), int(output_tokens), float(cost_usd), int(unknown_cost))


async def summarize(database: Database, since: float | None = None, until: float | None = None) -> Summary:
    """Memory is bounded whatever the journal's size; each of its queries reads all rows since then.

    Args: `until` is the first moment after them; None: now.
    """
    within = true() if since is None else ROW.created >= since
    within = within if until is None else and_(within, ROW.created < until)
    async with database.read() as connection:  # all of one moment
        total = (await connection.execute(select(*MEASURES).where(within))).one()
        answered, escalated = (
            await connection.execute(select(func.count(), _count(ROW.escalated)).where(within, ANSWERED))
        ).one()
        by_model = await _groups(connection, within, [ROW.model], MOST_GROUPS)
        by_path = await _groups(connection, within, [ROW.path], MOST_PATHS)
        by_route = await _groups(connection, within, [ROW.policy, ROW.route], MOST_GROUPS)
        p50_ms = await _quantile_ms(connection, within, answered, 0.50)
        p95_ms = await _quantile_ms(connection, within, answered, 0.95)
    return Summary(
        since=since,
        total=_tally(total),
        by_model=tuple((name, tally) for (name,), tally in by_model),
        by_path=tuple((path, tally) for (path,), tally in by_path),
        by_route=tuple((f"{policy or '-'}/{route or '-'}", tally) for (policy, route), tally in by_route),
        answered=answered,
        escalated=int(escalated),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
    )


async def _groups(
    connection: AsyncConnection, within: ColumnElement[bool], columns: Sequence[ColumnElement[Any]], most: int
) -> list[tuple[tuple[Any, ...], Tally]]:
    query = select(*columns, *MEASURES).where(within).group_by(*columns)
    query = query.order_by(func.count().desc(), *columns).limit(most)
    width = len(columns)
    return [(tuple(row[:width]), _tally(row[width:])) for row in await connection.execute(query)]


async def _quantile_ms(
    connection: AsyncConnection, within: ColumnElement[bool], count: int, share: float
) -> float | None:
    """The nearest-rank quantile; the database sorts, and on disk where it has to."""
    if not count:
        return None
    rank = math.ceil(share * count) - 1
    query = select(ROW.ms).where(and_(within, ANSWERED)).order_by(ROW.ms).limit(1).offset(rank)
    return float((await connection.execute(query)).scalar_one())


async def costs_of(database: Database, ids: Sequence[str]) -> dict[str, float]:
    """What requests have cost in dollars, those whose cost is known."""
    found: dict[str, float] = {}
    async with database.read() as connection:
        for begin in range(0, len(ids), MOST_IDS):
            own = JOURNAL.c.id.in_(ids[begin : begin + MOST_IDS])
            rows = await connection.execute(select(JOURNAL.c.id, JOURNAL.c.cost_usd).where(own))
            found |= {id: cost for id, cost in rows if cost is not None}
    return found
