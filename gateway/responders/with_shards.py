"""A model that is given shards with each request."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.chat import Answer, ChatRequest, Emit, Responder
from gateway.chunks import Chunk
from gateway.errors import ContextTooLong
from gateway.given import FACT, Given
from gateway.shards.bookcase import Bookcase
from gateway.shards.orders import Reader, Wanted
from gateway.trace import Trace

WITHOUT = "x-gateway-no-shards"


@dataclass(frozen=True)
class WithShards:
    """`inner` is the model `reader`, and gets the request with the shards that help it. What is not proven for it, it
    does not get. Where they leave the request no room, it is asked without."""

    name: str
    inner: Responder
    reader: Reader
    bookcase: Bookcase
    wanted: Wanted = Wanted()

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        opened = self.bookcase.opened
        if opened is None or request.is_prompt or not request.messages or not is_wished(request):
            return await self.inner.respond(request, emit, trace)
        shelf, has_spoken = opened.shelf, False

        async def pass_on(chunk: Chunk) -> None:
            nonlocal has_spoken
            has_spoken = True
            await emit(chunk)

        with trace.span("shards", self.name) as span:
            asked, given = await shelf.give(request, self.reader, self.wanted)
            span.note(**{FACT: given})
            if not given.shards:
                return await self.inner.respond(request, emit, span)
            try:
                return await self.inner.respond(asked, pass_on, span)
            except ContextTooLong:
                if has_spoken:
                    raise
                shelf.forget(request, self.reader)
                span.note(**{FACT: Given(self.reader.name, considered=given.considered)}, no_room=True)
                return await self.inner.respond(request, emit, span)


def is_wished(request: ChatRequest) -> bool:
    return request.headers.get(WITHOUT, "").strip().lower() in ("", "0", "false", "no")
