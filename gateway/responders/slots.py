"""Places for so many requests at once: those that find none wait for one, a few of them, by their priority."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import BackendTimeout, Overloaded

WAITING_PER_SLOT = 4
WEIGHT = 0.1  # of the newest stay in their mean


class Slots:
    """Places are given in order of priority, and of arrival within it. Where the queue is full, who has the lowest
    priority and came last is turned away.

    Args:
        count: places; None: without a limit.
        waiting: requests that may wait; else four to a place.
    """

    def __init__(self, count: int | None, waiting: int | None = None) -> None:
        self._numbers = itertools.count()
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap; those that left are passed over
        self.taken_now = self.waiting = self.turned_away = 0
        self._mean_s = 1.0
        self.limit(count, waiting)

    def limit(self, count: int | None, waiting: int | None = None) -> None:
        """Other limits. Who has a place keeps it."""
        self.count = count
        self._most_waiting = waiting if waiting is not None else (count or 0) * WAITING_PER_SLOT
        self._hand_on()

    @asynccontextmanager
    async def taken(
        self, deadline: float | None, name: str, priority: int = 0, wait_s: float | None = None
    ) -> AsyncIterator[None]:
        """Args: `deadline`: `time.monotonic()`; `wait_s`: how long to wait at most.

        Raises: Overloaded, BackendTimeout.
        """
        if self.count is not None and (self.taken_now >= self.count or self.waiting):
            await self._wait(deadline, name, priority, wait_s)
        else:
            self.taken_now += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean_s += WEIGHT * (time.monotonic() - began - self._mean_s)
            self.taken_now -= 1
            self._hand_on()

    async def _wait(self, deadline: float | None, name: str, priority: int, wait_s: float | None) -> None:
        if self.waiting >= self._most_waiting:
            self._make_room(name, priority)
        given = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (-priority, next(self._numbers), given))
        self.waiting += 1
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        is_due = left_s is not None and (wait_s is None or left_s <= wait_s)
        try:
            async with asyncio.timeout(left_s if is_due else wait_s):
                await given
        except BaseException as error:
            if not given.done():
                given.cancel()
            elif not given.cancelled() and given.exception() is None:  # given just as it left
                self.taken_now -= 1
                self._hand_on()
            if not isinstance(error, TimeoutError):
                raise
            if is_due:
                raise BackendTimeout(f"'{name}' was busy until the deadline") from None
            raise self._full(f"'{name}' is busy: no place was free within {wait_s:g} s") from None
        finally:
            self.waiting -= 1

    def _make_room(self, name: str, priority: int) -> None:
        """Raises: Overloaded, unless somebody of lower priority waits, who is turned away instead."""
        last = max((one for one in self._queue if not one[2].done()), default=None)
        if last is None or -last[0] >= priority:
            raise self._full(f"'{name}' is busy and its queue is full")
        last[2].set_exception(self._full(f"'{name}' is busy, and others that wait for it have a higher priority"))

    def _full(self, message: str) -> Overloaded:
        self.turned_away += 1
        wait_s = self._mean_s * (self.waiting + 1) / max(1, self.count or 1)
        return Overloaded(message, retry_after_s=min(60.0, max(1.0, wait_s)))

    def _hand_on(self) -> None:
        while self._queue and (self.count is None or self.taken_now < self.count):
            given = heapq.heappop(self._queue)[2]
            if not given.done():
                self.taken_now += 1
                given.set_result(None)
