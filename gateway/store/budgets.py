"""What keys have spent by day, summed up in the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, case, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.database import Database
from gateway.store.tables import BUDGETS

KEPT_DAYS = 400
SUMS = ("usd", "tokens", "requests")


@dataclass(frozen=True, slots=True)
class Sums:
    usd: float = 0.0
    tokens: int = 0
    requests: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.usd + other.usd, self.tokens + other.tokens, self.requests + other.requests)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.usd - other.usd, self.tokens - other.tokens, self.requests - other.requests)


Periods = Mapping[str, Sums]
"""By day (2026-01-31) and by month (2026-01)."""


class Budgets:
    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def is_shared(self) -> bool:
        """Other gateways may write, too."""
        return self._database.is_shared

    async def read(self, today: str, keys: Iterable[int] | None = None) -> dict[int, Periods]:
        """Of each key (None: of all), this day and this month."""
        async with self._database.read() as connection:
            return await _read(connection, today, keys)

    async def add(self, today: str, spent: Mapping[tuple[int, str], Sums]) -> dict[int, Periods]:
        """Args: `spent`: by key and day. Returns: what those keys have spent now, others' processes included."""
        rows = [{"key": key, "day": day, **asdict(sums)} for (key, day), sums in sorted(spent.items(), key=_place)]
        new = self._database.kind.upsert(BUDGETS)
        added = {name: BUDGETS.c[name] + new.excluded[name] for name in SUMS}
        async with self._database.join() as connection:
            await connection.execute(new.on_conflict_do_update(index_elements=["key", "day"], set_=added), rows)
            return await _read(connection, today, {key for key, _ in spent})

    async def prune(self, before: str) -> None:
        async with self._database.write() as connection:
            await connection.execute(delete(BUDGETS).where(BUDGETS.c.day < before))


def _place(row: tuple[tuple[int, str], Sums]) -> tuple[int, str]:
    """In the one order in which all add."""
    return row[0]


async def _read(connection: AsyncConnection, today: str, keys: Iterable[int] | None) -> dict[int, Periods]:
    within: list[ColumnElement[bool]] = [BUDGETS.c.day >= f"{today[:7]}-01", BUDGETS.c.day <= today]
    if keys is not None:
        within.append(BUDGETS.c.key.in_(keys))
    of_today = (func.sum(case((BUDGETS.c.day == today, BUDGETS.c[name]), else_=0)) for name in SUMS)
    query = select(BUDGETS.c.key, *(func.sum(BUDGETS.c[name]) for name in SUMS), *of_today).where(*within)
    rows = await connection.execute(query.group_by(BUDGETS.c.key))
    return {key: {today[:7]: Sums(*sums[:3]), today: Sums(*sums[3:])} for key, *sums in rows}
