"""A model in whose place adapters of it answer, each the kind of request that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.chat import Answer, ChatRequest, Emit, Responder, lazy
from gateway.given import ADAPTER
from gateway.trace import Trace
from gateway.training.specialists import Place, Specialists


@dataclass(frozen=True)
class WithAdapters:
    """`place.base` answers what no adapter has learned, and what one is only tried on."""

    place: Place
    specialists: Specialists

    @lazy
    def members(self) -> Sequence[Responder]:
        return (self.place.base, *self.place.adapters.values())

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        adapted = await self.specialists.pick(self.place, request)
        if adapted is None:
            return await self.place.base.respond(request, emit, trace)
        with trace.span("adapter", self.place.model) as span:
            span.note(**{ADAPTER: adapted})
            responder = self.place.adapters.get(adapted.serving, self.place.base)
            return await responder.respond(request, emit, span)
