"""Who may use a server now, and who waits: `slots` places, first come, first served."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from gateway.engines import Lease
from gateway.errors import BackendError, BackendTimeout, Overloaded

WAITERS_PER_SLOT = 4
REMEMBERED_LEASES = 32


class Places:
    """Places at one server. It is told whether there is a server: `open`, `hold` (one is coming), `refuse`."""

    def __init__(self, name: str, slots: int, now: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.slots = slots
        self.busy = 0
        self._lease: Lease | None = None
        self._refusal: Callable[[], BackendError] | None = None
        self._queue: deque[asyncio.Future[Lease]] = deque()
        self._held_s: deque[float] = deque(maxlen=REMEMBERED_LEASES)
        self._now = now

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def open(self, lease: Lease) -> None:
        self._lease, self._refusal = lease, None
        self._grant()

    def hold(self) -> None:
        self._lease = self._refusal = None

    def refuse(self, refusal: Callable[[], BackendError]) -> None:
        """Those who wait, and those who come, get this error."""
        self._lease, self._refusal = None, refusal
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.done():
                ticket.set_exception(refusal())

    async def take(self, deadline: float | None) -> Lease:
        """A place, to be given back once. Raises: BackendTimeout at the deadline, Overloaded, or what `refuse` said."""
        if self._refusal is not None:
            raise self._refusal()
        if deadline is not None and self._now() >= deadline:
            raise self._too_late()
        if self._lease is not None and self.busy < self.slots:  # then nobody is waiting: `_grant` sees to that
            self.busy += 1
            return self._lease
        if len(self._queue) >= WAITERS_PER_SLOT * self.slots:
            raise Overloaded(
                f"model '{self.name}' is busy: {self.busy} requests are being answered and {self.waiting} wait",
                retry_after_s=self._expected_wait_s(),
            )
        ticket: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._queue.append(ticket)
        try:
            async with asyncio.timeout(None if deadline is None else deadline - self._now()):
                return await ticket
        except TimeoutError:
            self._forget(ticket)
            raise self._too_late() from None
        except asyncio.CancelledError:
            self._forget(ticket)
            raise

    def give_back(self, held_s: float) -> None:
        self._held_s.append(held_s)
        self.busy -= 1
        self._grant()

    def _grant(self) -> None:
        while self._lease is not None and self._queue and self.busy < self.slots:
            ticket = self._queue.popleft()
            if not ticket.done():
                self.busy += 1
                ticket.set_result(self._lease)

    def _forget(self, ticket: asyncio.Future[Lease]) -> None:
        """Its waiter has gone. It may have been granted, or refused, since it was last looked at."""
        if ticket in self._queue:
            self._queue.remove(ticket)
        elif not ticket.cancelled() and ticket.exception() is None:
            self.busy -= 1
            self._grant()

    def _expected_wait_s(self) -> float:
        """Until somebody who came now would have a place, as long as recent leases took; 1 s at least."""
        mean_s = sum(self._held_s) / len(self._held_s) if self._held_s else 1.0
        return max(1.0, mean_s * (self.waiting + 1) / self.slots)

    def _too_late(self) -> BackendTimeout:
        return BackendTimeout(f"no time left to wait for model '{self.name}'")
