"""The journal: one row a request, written in batches off the request's path, bounded in memory, age and size."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select, true
from sqlalchemy.exc import IntegrityError, OperationalError

from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.store.rows import JournalRow, values_of
from gateway.store.summary import Summary, summarize
from gateway.store.tables import FEEDBACK, JOURNAL
from gateway.trace import RequestTrace

logger = logging.getLogger(__name__)

ROWS_A_WRITE = 250  # one executemany, one transaction
ROWS_A_TURN = 4  # made into JSON before other tasks get a turn, at some 25 us a row
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
    ) -> None:
        self.dropped = 0
        self.failures = 0
        self._database = database
        self._room = max_rows_queued
        self._wake_at = max_rows_queued // 2
        self._flush_every_s = flush_every_s
        self.limit(max_age_days, max_size_mb)
        self._clock = clock
        self._others_bytes = others_bytes
        self._queue: deque[RequestTrace] = deque()  # a trace stays in it until its row is committed
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._prune_due = asyncio.Event()
        self._closing = asyncio.Event()
        self._rows_since_prune = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._complaints = Complaints(logger, clock=clock)
        self._dropped_told = 0

    def limit(self, max_age_days: float, max_size_mb: float) -> None:
        """Other limits, from the next pruning on."""
        self._max_age_s = max_age_days * 86_400
        self._max_size_bytes = max_size_mb * 2**20

    async def start(self) -> None:
        """Start writing and pruning in the background; the first pruning begins at once."""
        self._tasks = [
            asyncio.create_task(self._keep_writing(), name="journal writes"),
            asyncio.create_task(self._keep_pruning(), name="journal prunes"),
        ]

    def record(self, trace: RequestTrace) -> None:
        """Queue a finished trace, which nobody changes any more. Never waits, never raises."""
        if trace.ended is None:
            trace.ended = time.monotonic()
        queue = self._queue
        waiting = len(queue)
        if waiting >= self._room:
            self.dropped += 1
            return
        queue.append(trace)
        if waiting >= self._wake_at:
            self._wake.set()

    async def flush(self) -> bool:
        """Write what was recorded before this call. False where that failed: the rows then wait for the next try."""
        async with self._writing:
            left = len(self._queue)
            while left > 0:
                batch = list(islice(self._queue, min(left, ROWS_A_WRITE)))
                try:
                    await self._write(batch)
                except Exception as exc:  # locked, disk full: whatever it is, it must not end the task
                    self._failed("written", exc)
                    return False
                for _ in batch:
                    self._queue.popleft()
                left -= len(batch)
                self._rows_since_prune += len(batch)
            if self._rows_since_prune >= PRUNE_EVERY_ROWS:
                self._prune_due.set()
        if self.dropped > self._dropped_told:
            self._dropped_told = self.dropped
            self._complaints.say(f"the journal cannot keep up: {self.dropped} requests were not recorded so far")
        return True

    async def prune(self) -> int:
        """Delete what is too old, then the oldest while the database is too large. Returns the rows deleted.

        Raises: SQLAlchemyError where the database refuses.
        """
        self._rows_since_prune = 0
        deleted = 0
        too_old = JOURNAL.c.created < self._clock() - self._max_age_s
        while not self._closing.is_set() and (count := await self._delete_oldest(too_old)):
            deleted += count
        while not self._closing.is_set() and await self._size_bytes() > self._max_size_bytes:
            if not (count := await self._delete_oldest(true())):
                break
            deleted += count
            await self._delete_orphans()
        await self._delete_orphans()
        while not self._closing.is_set() and await self._database.release_pages(PAGES_A_RELEASE):
            pass
        return deleted

    async def close(self) -> None:
        """Write what waits, and stop. What cannot be written now is lost, and said so in the log."""
        self._room = 0
        self._closing.set()
        self._wake.set()
        self._prune_due.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if not await self.flush():
            self.dropped += len(self._queue)
            logger.error("%d requests were not recorded in the journal: it could not be written", len(self._queue))
            self._queue.clear()

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

    async def _keep_writing(self) -> None:
        while not self._closing.is_set():
            await _wait(self._wake, self._flush_every_s)
            self._wake.clear()
            if not await self.flush():
                await _wait(self._closing, self._flush_every_s)  # a full queue wakes: do not try without a pause

    async def _keep_pruning(self) -> None:
        while not self._closing.is_set():
            self._prune_due.clear()
            try:
                await self.prune()
            except Exception as exc:
                self._failed("pruned", exc)
            if not self._closing.is_set():
                await _wait(self._prune_due, PRUNE_EVERY_S)

    async def _write(self, traces: Sequence[RequestTrace]) -> None:
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(traces), ROWS_A_TURN):
            rows.extend(values_of(trace) for trace in traces[start : start + ROWS_A_TURN])
            await asyncio.sleep(0)
        try:
            await self._insert(rows)
        except OperationalError:
            raise
        except Exception:  # some row of it cannot be stored; it must not keep the others out
            await self._insert_each(rows)

    async def _insert(self, rows: Sequence[tuple[Any, ...]]) -> None:
        async with self._database.write() as connection:
            # past SQLAlchemy's parameter handling, which costs the event loop 17 µs more a row than SQLite does
            sql = str(insert(JOURNAL).compile(dialect=connection.dialect))
            await connection.exec_driver_sql(sql, list(rows))

    async def _insert_each(self, rows: Sequence[tuple[Any, ...]]) -> None:
        for row in rows:
            try:
                await self._insert([row])
            except OperationalError:
                raise
            except IntegrityError:
                pass  # it is there: an earlier try was cut off after its commit
            except Exception as exc:
                self.dropped += 1
                self._failed("given a row", exc)

    async def _size_bytes(self) -> int:
        return await self._database.used_bytes() - self._others_bytes()

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

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        # `orig` is the driver's own message; SQLAlchemy's would print the rows
        reason = getattr(error, "orig", None) or type(error).__name__
        counts = f"{len(self._queue)} requests wait, {self.dropped} were dropped so far"
        self._complaints.say(f"the journal could not be {what}: {reason}; {counts}")


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
