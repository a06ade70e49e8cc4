"""Rows that are written in batches off the path of who makes them, and old ones that are deleted now and then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from gateway.store.complaints import Complaints

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_PRUNE_S = 3.0  # after the start, when there is much else to do
ROWS_A_WRITE = 2000  # one transaction: 0.1 s


@dataclass(frozen=True, slots=True)
class Pace:
    """How many items may wait, how long one waits at most (less once the queue is half full), and when to prune."""

    max_queued: int = 10_000
    flush_every_s: float = 1.0
    prune_every_s: float = 600.0
    prune_every_rows: int = 50_000


class WriteBehind(Generic[T]):
    """Use it in one event loop, between `start` and `close`.

    Args:
        what, things: for the log, such as "the journal" and "requests".
        write: one transaction; it may get the same items again after it has failed or was cancelled.
        prune: deletes what is too old; called soon after the start, and as `pace` says.
        clock: seconds, for complaints.
    Counters: `dropped` items that will never be written; `failures` of writing or pruning, which is then tried again.
    `queue`: an item stays in it until it is committed. `closing`: set once `close` was called.
    """

    def __init__(
        self,
        what: str,
        things: str,
        write: Callable[[Sequence[T]], Awaitable[None]],
        prune: Callable[[], Awaitable[object]],
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        self.failures = 0
        self.queue: deque[T] = deque()
        self.closing = asyncio.Event()
        self._what, self._things, self._write, self._prune, self._pace = what, things, write, prune, pace
        self._room = pace.max_queued
        self._wake_at = pace.max_queued // 2
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._prune_due = asyncio.Event()
        self._rows_since_prune = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._complaints = Complaints(logger, clock=clock)
        self._dropped_told = 0

    def start(self) -> None:
        """Write and prune in the background; the first pruning begins soon."""
        self._tasks = [
            asyncio.create_task(self._keep_writing(), name=f"{self._what} writes"),
            asyncio.create_task(self._keep_pruning(), name=f"{self._what} prunes"),
        ]

    def add(self, item: T) -> bool:
        """Never waits, never raises. False where there is no room for it."""
        queue = self.queue
        waiting = len(queue)
        if waiting >= self._room:
            self.dropped += 1
            return False
        queue.append(item)
        if waiting >= self._wake_at:
            self._wake.set()
        return True

    async def flush(self) -> bool:
        """Write what was added before this call. False where that failed: the rest then waits for the next try."""
        async with self._writing:
            left = len(self.queue)
            while left > 0:
                batch = list(islice(self.queue, min(left, ROWS_A_WRITE)))
                try:
                    await self._write(batch)
                except Exception as exc:  # locked, disk full: whatever it is, it must not end the task
                    self.fail("written", exc)
                    return False
                for _ in batch:
                    self.queue.popleft()
                left -= len(batch)
                self._rows_since_prune += len(batch)
            if self._rows_since_prune >= self._pace.prune_every_rows:
                self._prune_due.set()
        if self.dropped > self._dropped_told:
            self._dropped_told = self.dropped
            lost = f"{self.dropped} {self._things} were not recorded so far"
            self._complaints.say(f"{self._what} cannot keep up: {lost}")
        return True

    async def close(self) -> None:
        """Write what waits, and stop. What cannot be written now is lost, and said so in the log."""
        self._room = 0
        self.closing.set()
        self._wake.set()
        self._prune_due.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if not await self.flush():
            self.dropped += len(self.queue)
            lost = f"{len(self.queue)} {self._things} were not recorded"
            logger.error("%s in %s: it could not be written", lost, self._what)
            self.queue.clear()

    def fail(self, what: str, error: Exception) -> None:
        """Count it, and say so now and then. `what` it could not be, such as "written"."""
        self.failures += 1
        # `orig` is the driver's own message; SQLAlchemy's would print the rows
        reason = getattr(error, "orig", None) or type(error).__name__
        counts = f"{len(self.queue)} {self._things} wait, {self.dropped} were dropped so far"
        self._complaints.say(f"{self._what} could not be {what}: {reason}; {counts}")

    async def _keep_writing(self) -> None:
        pause_s = self._pace.flush_every_s
        while not self.closing.is_set():
            await _wait(self._wake, pause_s)
            self._wake.clear()
            if not await self.flush():
                await _wait(self.closing, pause_s)  # a full queue wakes: do not try without a pause

    async def _keep_pruning(self) -> None:
        await _wait(self._prune_due, FIRST_PRUNE_S)
        while not self.closing.is_set():
            self._prune_due.clear()
            self._rows_since_prune = 0
            try:
                await self._prune()
            except Exception as exc:
                self.fail("pruned", exc)
            if not self.closing.is_set():
                await _wait(self._prune_due, self._pace.prune_every_s)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
