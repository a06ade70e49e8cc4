"""What was spent, by hour: written with the journal's rows, and kept when those are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any

from sqlalchemy import Table, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.costs.ledger import SIDE, WHERE, Ledger, RivalSums, UsageSums
from gateway.store.database import place_in
from gateway.store.tables import RIVALS, USAGE

HOURS_KEPT_S = 35 * 86_400  # older ones are summed to days
DAY_S = 86_400
BYTES_A_ROW = 250  # about, with the index of its key


def _upsert(table: Table, key: Sequence[str], sums: type[Any], place: str) -> str:
    """Adds to a row, or makes it. As text: past SQLAlchemy's parameter handling, as the journal's rows go."""
    keys, columns = ", ".join(key), [one.name for one in fields(sums)]
    places = ", ".join([place] * (len(key) + len(columns)))
    added = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in columns)
    names = f"{keys}, {', '.join(columns)}"
    return f"INSERT INTO {table.name} ({names}) VALUES ({places}) ON CONFLICT ({keys}) DO UPDATE SET {added}"


async def add(connection: AsyncConnection, ledger: Ledger) -> None:
    """In the connection's transaction, as one with what else is written there."""
    sides = ((USAGE, WHERE, UsageSums, ledger.usage), (RIVALS, SIDE, RivalSums, ledger.rivals))
    for table, key, sums, found in sides:
        rows: Mapping[Any, Any] = found
        if rows:
            values = [((*map(_fit, place),), astuple(one)) for place, one in rows.items()]
            values.sort(key=lambda row: row[0])  # in the one order in which all add: none waits for each other
            sql = _upsert(table, key, sums, place_in(connection))
            await connection.exec_driver_sql(sql, [(*place, *one) for place, one in values])


def _fit(part: object) -> object:
    """As the database takes it, whatever it is: no name is worth losing what was spent under it."""
    if isinstance(part, str):
        return part if part.isascii() else part.encode("utf-8", "replace").decode()
    return part if isinstance(part, int) else f"<{type(part).__name__}>"


async def fold(connection: AsyncConnection, before: float) -> None:
    """Sum hours that ended before that time (unix seconds) to days of UTC: a year of a thousand keys is then no more
    than some hundred thousand rows."""
    until = int(before) // DAY_S * DAY_S
    for table, key, sums in ((USAGE, WHERE, UsageSums), (RIVALS, SIDE, RivalSums)):
        rest, columns = ", ".join(key[1:]), [one.name for one in fields(sums)]
        names, totals = ", ".join(columns), ", ".join(f"sum({name})" for name in columns)
        old = f"hour < {until} AND hour % {DAY_S} != 0"
        day = f"hour - hour % {DAY_S}"
        added = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in columns)
        await connection.execute(
            text(
                f"INSERT INTO {table.name} (hour, {rest}, {names}) SELECT {day}, {rest}, {totals} FROM {table.name} "
                f"WHERE {old} GROUP BY {day}, {rest} "
                f"ON CONFLICT (hour, {rest}) DO UPDATE SET {added}"
            )
        )
        await connection.execute(text(f"DELETE FROM {table.name} WHERE {old}"))


async def size_bytes(connection: AsyncConnection) -> int:
    """Of the database, about."""
    counts = [await connection.scalar(select(func.count()).select_from(table)) for table in (USAGE, RIVALS)]
    return sum(count or 0 for count in counts) * BYTES_A_ROW
