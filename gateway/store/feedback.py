"""Ratings of answers. Each is kept, with its time: a trace may be rated again and again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from sqlalchemy import func, insert, select

from gateway.errors import InvalidRequest
from gateway.store.database import Database
from gateway.store.tables import FEEDBACK

MAX_METRIC = 64
MAX_TEXT = 4000
MAX_RATINGS = 100  # of one trace

Value = bool | float | str


@dataclass(frozen=True, slots=True)
class Rating:
    """One rating of one trace. `created` in unix seconds; `key`: name of the key that gave it."""

    id: int
    trace_id: str
    created: float
    key: str | None
    metric: str
    value: Value
    comment: str | None


class Feedback:
    """The ratings in a database. Whether a trace exists is the caller's to ask."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def add(
        self, trace_id: str, metric: str, value: Value, comment: str | None = None, key: str | None = None
    ) -> int:
        """Keep a rating; returns its id.

        Raises: InvalidRequest for a trace that has 100 already, a metric that is not 1 to 64 printable characters, a
            number that is not finite, and a value or comment that is longer than 4000 characters or no valid Unicode.
        """
        if not (0 < len(metric) <= MAX_METRIC and metric.isprintable()):
            raise InvalidRequest(f"'metric' has to be 1 to {MAX_METRIC} printable characters", param="metric")
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise InvalidRequest("'value' has to be a finite number", param="value")
        for param, text in (("value", value), ("comment", comment)):
            if isinstance(text, str) and (len(text) > MAX_TEXT or not _is_text(text)):
                raise InvalidRequest(f"'{param}' may be at most {MAX_TEXT} characters of valid Unicode", param=param)
        row = {
            "trace_id": trace_id,
            "created": self._clock(),
            "key": key,
            "metric": metric,
            "value": orjson.dumps(value).decode(),
            "comment": comment,
        }
        ratings = select(func.count()).where(FEEDBACK.c.trace_id == trace_id)
        async with self._database.write() as connection:
            if (await connection.execute(ratings)).scalar_one() >= MAX_RATINGS:
                raise InvalidRequest(f"this trace has {MAX_RATINGS} ratings already", param="trace")
            result = await connection.execute(insert(FEEDBACK).values(row).returning(FEEDBACK.c.id))
            return int(result.scalar_one())

    async def of(self, trace_id: str) -> tuple[Rating, ...]:
        """The ratings of a trace, in the order they came."""
        query = select(FEEDBACK).where(FEEDBACK.c.trace_id == trace_id).order_by(FEEDBACK.c.id)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(Rating(**{**row, "value": orjson.loads(row["value"])}) for row in rows)


def _is_text(text: str) -> bool:
    """False for half a surrogate pair, which a command line can carry and no database takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
