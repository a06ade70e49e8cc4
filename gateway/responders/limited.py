"""Limits around any node: how many at once, how long, how much money."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from gateway.chat import Answer, ChatRequest, CostCap, Emit, Responder
from gateway.responders.slots import Slots
from gateway.trace import Trace


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
            async with self.slots.taken(request.deadline, self.name, request.priority):
                return await self.inner.respond(request, emit, span)
