"""The journal: one row a request, written in batches off the request's path, bounded in memory, age and size. What was
spent is written with the rows, in sums that stay when those are deleted."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, true
from sqlalchemy.exc import IntegrityError, OperationalError

from gateway.costs.ledger import Ledger
from gateway.store import usage
from gateway.store.database import Database, place_in
from gateway.store.rows import JournalRow, values_of
from gateway.store.summary import Summary, summarize
from gateway.store.tables import FEEDBACK, JOURNAL
from gateway.store.write_behind import Pace, WriteBehind
from gateway.trace import RequestTrace

ROWS_A_TURN = 4  # made into JSON before other tasks get a turn, at some 25 us a row
ROWS_A_STATEMENT = (512, 64, 8, 1)
"""Each statement wants turns of SQLite's thread and of the event loop, and where requests keep both busy those are
long: a statement a row wrote 200 rows a second beside 2,000 requests. Of a few sizes, for the driver keeps each."""
TURNS = 8  # at most for those of one write: where there is much to do a turn takes long, and many rows come in it
ROWS_A_DELETE = 1000
PAGES_A_RELEASE = 1000
PRUNE_EVERY_S = 600.0
PRUNE_EVERY_ROWS = 50_000  # some 50 MB: a busy gateway does not outgrow its cap in ten minutes


class Journal:
    """Takes finished traces and writes them in the background. Use it in one event loop, between `start` and `close`.

    Args:
        max_rows_queued: traces that may wait to be written; past that, new ones are dropped and counted.
        flush_every_s: how long a trace waits at most (less once the queue is half full).
        max_age_days: older rows are deleted.
        max_size_mb: the oldest rows are deleted while the whole database takes more than this, in MiB.
        clock: unix seconds, for ages.
        others_bytes: of the database, what others keep within a limit of their own.
        on_spent: told of sums that have been written.
    Counters: `dropped` traces that will never be written; `failures` of writing or pruning, which is then tried again.
    """

    def __init__(
        self,
        database: Database,
        max_rows_queued: int = 10_000,
        flush_every_s: float = 1.0,
        max_age_days: float = 30,
        max_size_mb: float = 512,
        clock: Callable[[], float] = time.time,
        others_bytes: Callable[[], int] = int,
        on_spent: Callable[[Ledger], None] = lambda spent: None,
    ) -> None:
        self._database = database
        self.limit(max_age_days, max_size_mb)
        self._clock = clock
        self._others_bytes, self._on_spent = others_bytes, on_spent
        pace = Pace(max_rows_queued, flush_every_s, PRUNE_EVERY_S, PRUNE_EVERY_ROWS)
        self._writer = WriteBehind[RequestTrace]("the journal", "requests", self._write, self.prune, pace, clock)
        self._queue, self._add = self._writer.queue, self._writer.add
        self._usage_bytes = 0  # of the database, about: not for the journal's limit to count
        self._rowless = Ledger()  # spent by requests that get no row

    @property
    def dropped(self) -> int:
        return self._writer.dropped

    @property
    def failures(self) -> int:
        return self._writer.failures

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return len(self._queue)

    @property
    def lag_s(self) -> float:
        """How long the first of them has waited."""
        first = self._queue[0] if self._queue else None
        return 0.0 if first is None or first.ended is None else max(0.0, time.monotonic() - first.ended)

    def limit(self, max_age_days: float, max_size_mb: float) -> None:
        """Other limits, from the next pruning on."""
        self._max_age_s = max_age_days * 86_400
        self._max_size_bytes = max_size_mb * 2**20

    async def start(self) -> None:
        """Start writing and pruning in the background."""
        self._writer.start()

    def record(self, trace: RequestTrace) -> None:
        """Queue a finished trace, which nobody changes any more. Never waits, never raises."""
        if trace.ended is None:
            trace.ended = time.monotonic()
        if not self._add(trace):
            self._rowless.note(trace)

    def record_spend(self, trace: RequestTrace) -> None:
        """Count what a request has spent that the gateway made for itself, and that gets no row."""
        self._rowless.note(trace)

    async def flush(self) -> bool:
        """Write what was recorded before this call. False where that failed: the rows then wait for the next try."""
        is_written = await self._writer.flush()
        if is_written and self._rowless.usage:
            is_written = await self._write_rowless()
        return is_written

    async def prune(self) -> int:
        """Delete what is too old, then the oldest while the database is too large. Returns the rows deleted.

        Raises: SQLAlchemyError where the database refuses.
        """
        closing, deleted = self._writer.closing, 0
        async with self._database.write() as connection:
            await usage.fold(connection, self._clock() - usage.HOURS_KEPT_S)
            self._usage_bytes = await usage.size_bytes(connection)
        too_old = JOURNAL.c.created < self._clock() - self._max_age_s
        while not closing.is_set() and (count := await self._delete_oldest(too_old)):
            deleted += count
        while not closing.is_set() and await self._size_bytes() > self._max_size_bytes:
            if not (count := await self._delete_oldest(true())):
                break
            deleted += count
            await self._delete_orphans()
        await self._delete_orphans()
        while not closing.is_set() and await self._database.release_pages(PAGES_A_RELEASE):
            pass
        return deleted

    async def close(self) -> None:
        """Write what waits, and stop. What cannot be written now is lost, and said so in the log."""
        await self._writer.close()
        if self._rowless.usage:
            await self._write_rowless()

    async def find(self, trace_id: str) -> JournalRow | None:
        """The row of a request, also of one that still waits to be written."""
        for trace in self._queue:
            if trace.id == trace_id:
                return JournalRow(*values_of(trace))
        async with self._database.read() as connection:
            row = (await connection.execute(select(JOURNAL).where(JOURNAL.c.id == trace_id))).one_or_none()
        return None if row is None else JournalRow(*row)

    async def summary(self, since: float | None = None) -> Summary:
        """The requests since then (unix seconds) in numbers, those that wait to be written too."""
        await self.flush()
        return await summarize(self._database, since)

    async def _write(self, traces: Sequence[RequestTrace]) -> None:
        rows: list[tuple[Any, ...]] = []
        spent = Ledger()
        rows_a_turn = max(ROWS_A_TURN, math.ceil(len(traces) / TURNS))
        for start in range(0, len(traces), rows_a_turn):
            for trace in traces[start : start + rows_a_turn]:
                rows.append(values_of(trace))
                spent.note(trace)
            await asyncio.sleep(0)
        try:
            await self.insert(rows, spent)
        except OperationalError:
            raise
        except Exception:  # some row of it cannot be stored; it must not keep the others out
            await self._insert_each(rows, traces)
        if self._rowless.usage:
            await self._write_rowless()

    async def insert(self, rows: Sequence[tuple[Any, ...]], spent: Ledger) -> None:
        """All of it or nothing: what was spent is counted where its row is written, and only then."""
        async with self._database.join() as connection:
            one = f"({', '.join([place_in(connection)] * len(JOURNAL.c))})"
            for some in _in_sizes(rows, self._database.kind.MOST_VALUES // len(JOURNAL.c)):
                # past SQLAlchemy's parameter handling, which costs the event loop 17 µs more a row than SQLite does
                sql = f"INSERT INTO {JOURNAL.name} VALUES {', '.join([one] * len(some))}"
                await connection.exec_driver_sql(sql, tuple(chain.from_iterable(some)))
            await usage.add(connection, spent)
        self._on_spent(spent)

    async def _insert_each(self, rows: Sequence[tuple[Any, ...]], traces: Sequence[RequestTrace]) -> None:
        rowless: list[RequestTrace] = []
        for row, trace in zip(rows, traces, strict=True):
            spent = Ledger()
            spent.note(trace)
            try:
                await self.insert([row], spent)
            except OperationalError:
                raise
            except IntegrityError:
                pass  # it is there, and so is what it spent: an earlier try was cut off after its commit
            except Exception as exc:
                self._writer.dropped += 1
                self._writer.fail("given a row", exc)
                rowless.append(trace)
        for trace in rowless:  # only now: until here the whole batch may be tried again
            self._rowless.note(trace)

    async def _write_rowless(self) -> bool:
        """False where it failed: it is tried again with the next rows."""
        spent, self._rowless = self._rowless, Ledger()
        try:
            await self.insert((), spent)
        except Exception as exc:
            self._rowless.add(spent)
            self._writer.fail("given what was spent", exc)
            return False
        return True

    async def _size_bytes(self) -> int:
        return await self._database.journal_bytes(self._usage_bytes + self._others_bytes())

    async def _delete_oldest(self, condition: ColumnElement[bool]) -> int:
        """One slice, one transaction, so that writers get their turn. Returns the rows deleted."""
        oldest = select(JOURNAL.c.id).where(condition).order_by(JOURNAL.c.created).limit(ROWS_A_DELETE)
        async with self._database.write() as connection:
            result = await connection.execute(delete(JOURNAL).where(JOURNAL.c.id.in_(oldest)))
        return result.rowcount

    async def _delete_orphans(self) -> None:
        """Ratings from before the oldest row: what they rated is gone."""
        oldest = select(func.min(JOURNAL.c.created)).scalar_subquery()
        since = func.coalesce(oldest, self._clock() - self._max_age_s)
        async with self._database.write() as connection:
            await connection.execute(delete(FEEDBACK).where(FEEDBACK.c.created < since))


def _in_sizes(rows: Sequence[tuple[Any, ...]], most: int) -> Iterator[Sequence[tuple[Any, ...]]]:
    """All of them, in pieces of the sizes of a statement that has no more than `most`."""
    start = 0
    for size in ROWS_A_STATEMENT:
        while size <= most and len(rows) - start >= size:
            yield rows[start : start + size]
            start += size
