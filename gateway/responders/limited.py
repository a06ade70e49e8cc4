"""Limits around any node: how many at once, how long, how much money."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from gateway.chat import Answer, ChatRequest, CostCap, Emit, Responder
from gateway.errors import BackendTimeout, Overloaded
from gateway.trace import Trace

WAITING_PER_SLOT = 4


class Slots:
    """So many requests at once, some more waiting in order, the rest turned away."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._waiting = 0
        self._most_waiting = count * WAITING_PER_SLOT

    @asynccontextmanager
    async def taken(self, deadline: float | None, name: str) -> AsyncIterator[None]:
        """Raises: Overloaded, BackendTimeout."""
        if self._free.locked() and self._waiting >= self._most_waiting:
            raise Overloaded(f"'{name}' is busy and its queue is full")
        self._waiting += 1
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                await self._free.acquire()
        except TimeoutError:
            raise BackendTimeout(f"'{name}' was busy until the deadline") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()


@dataclass(frozen=True)
class Limited:
    """`inner` within limits. The deadline and the cap travel with the request: leaves keep to them, so that a cascade
    inside can still answer with the draft it has."""

    name: str
    inner: Responder
    slots: Slots | None = None
    timeout_s: float | None = None
    max_cost_usd: float | None = None

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        with trace.span("limited", self.name) as span:
            if self.timeout_s is not None:
                request = request.before(time.monotonic() + self.timeout_s)
            if self.max_cost_usd is not None:
                request = replace(request, caps=(*request.caps, CostCap(span, self.max_cost_usd)))
            if self.slots is None:
                return await self.inner.respond(request, emit, span)
            async with self.slots.taken(request.deadline, self.name):
                return await self.inner.respond(request, emit, span)
