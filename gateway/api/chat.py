"""A chat, whatever the dialect: one path for streamed and whole answers."""

from __future__ import annotations

import time

from gateway.api.asgi import Receive, Scope, Send
from gateway.api.body import read_body, until_client_leaves
from gateway.api.dialect import Dialect
from gateway.api.envelopes import envelope_of
from gateway.api.openai import number_header
from gateway.api.reply import Reply
from gateway.errors import MethodNotAllowed
from gateway.live import Live
from gateway.telemetry.metrics import Metrics
from gateway.trace import RequestTrace


class ChatEndpoint:
    """A plain ASGI callable."""

    def __init__(self, live: Live, metrics: Metrics, dialect: Dialect) -> None:
        self._live, self._metrics, self._dialect = live, metrics, dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['path']} takes POST", headers={"allow": "POST"})
        caller = scope["gateway"]
        trace = RequestTrace(id=caller["id"], key=caller["key"], endpoint=scope["path"], context=caller["context"])
        reply = Reply(send, trace, envelope_of(scope["path"]))
        self._metrics.in_flight += 1
        try:
            raw = await read_body(scope, receive, self._live.body_limit_bytes)
            request, writer = await self._dialect.read(raw, scope, trace)
            trace.requested_model, trace.stream = request.model, request.stream
            reply.suit(writer, streams=request.stream)
            deadline_s = number_header(request.headers, "x-gateway-deadline-s")
            if deadline_s is not None:
                request = request.before(trace.started + deadline_s)
            max_cost_usd = number_header(request.headers, "x-gateway-max-cost-usd")
            with until_client_leaves(scope, receive):
                if request.stream:
                    reply.watch_silence()
                gateway = self._live.take()
                try:
                    answer = await gateway.answer(request, reply.emit, trace, max_cost_usd)
                finally:
                    self._live.leave(gateway)
                await reply.finish(answer)
        except BaseException as error:
            await reply.end_by(error)
        finally:
            reply.close()
            self._metrics.in_flight -= 1
            trace.ended = time.monotonic()
            self._live.gateway.record(trace)
