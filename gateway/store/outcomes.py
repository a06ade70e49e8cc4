"""What became of requests that an adapter was tried on: numbers alone, no words."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select

from gateway.store.database import Database
from gateway.store.tables import ADAPTER_OUTCOMES


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One request, asked of the adapter and of what answered before it; see the table for its columns."""

    created: float
    adapter: str
    kind: str
    state: str
    share: float
    right: bool
    before: bool


class Outcomes:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: OutcomeRow) -> None:
        """Raises: SQLAlchemyError."""
        values = {name: getattr(row, name) for name in OutcomeRow.__dataclass_fields__}
        async with self._database.join() as connection:
            await connection.execute(insert(ADAPTER_OUTCOMES).values(**values))

    async def find(self, adapter: str | None = None, *, since: float = 0.0) -> list[OutcomeRow]:
        """Oldest first."""
        columns = (column for column in ADAPTER_OUTCOMES.c if column is not ADAPTER_OUTCOMES.c.id)
        query = select(*columns).where(ADAPTER_OUTCOMES.c.created >= since).order_by(ADAPTER_OUTCOMES.c.id)
        if adapter is not None:
            query = query.where(ADAPTER_OUTCOMES.c.adapter == adapter)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [OutcomeRow(**row) for row in rows]
