"""A chat, whatever the dialect: one path for streamed and whole answers."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from gateway.access.keys import KeyInfo
from gateway.access.ledger import Entry
from gateway.access.limits import PRIORITIES
from gateway.api.asgi import Receive, Scope, Send
from gateway.api.body import read_body, until_client_leaves
from gateway.api.dialect import Dialect
from gateway.api.entrance import entered, key_of
from gateway.api.envelopes import envelope_of
from gateway.api.openai import number_header
from gateway.api.reply import Reply
from gateway.chat import Answer, ChatRequest
from gateway.errors import MethodNotAllowed
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.tokens import estimate_request
from gateway.trace import RequestTrace


class ChatEndpoint:
    """A plain ASGI callable."""

    def __init__(self, live: Live, runtime: Runtime, dialect: Dialect) -> None:
        self._live, self._runtime, self._dialect = live, runtime, dialect
        self._metrics = runtime.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['path']} takes POST", headers={"allow": "POST"})
        caller = scope["gateway"]
        key = key_of(caller)
        tenant = key.tenant if key is not None else None
        trace = RequestTrace(
            id=caller["id"],
            key=caller["key"],
            tenant=tenant,
            endpoint=scope["path"],
            context=caller["context"],
        )
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
                if key is None and self._runtime.gate.count is None:  # nothing to keep to, as for most
                    answer = await self._ask(request, None, reply, trace, max_cost_usd)
                else:
                    tokens = partial(tokens_of, request)
                    async with entered(self._runtime, caller, trace, tokens, request.deadline) as entry:
                        known = request if entry is None else _known(request, entry)
                        answer = await self._ask(known, key, reply, trace, max_cost_usd)
                await reply.finish(answer)
        except BaseException as error:
            await reply.end_by(error)
        finally:
            reply.close()
            self._metrics.in_flight -= 1
            trace.ended = time.monotonic()
            self._live.gateway.record(trace)

    async def _ask(
        self, request: ChatRequest, key: KeyInfo | None, reply: Reply, trace: RequestTrace, max_cost_usd: float | None
    ) -> Answer:
        gateway = self._live.take()
        try:
            return await self._live.seen_by(gateway, key).answer(request, reply.emit, trace, max_cost_usd)
        finally:
            self._live.leave(gateway)


def tokens_of(request: ChatRequest, usual_answer: int) -> int:
    """What a request may come to, its answers included."""
    said = request.body.get("max_completion_tokens") or request.body.get("max_tokens") or usual_answer
    return estimate_request(request.body) + request.choice_count * int(said)


def _known(request: ChatRequest, entry: Entry) -> ChatRequest:
    """With what its key has to say."""
    key, cap = entry.key, entry.cap
    priority = PRIORITIES[key.limits.priority]
    if key.own_tenant is None and cap is None and not priority:
        return request
    return replace(request, tenant=key.own_tenant, priority=priority, caps=(cap,) if cap is not None else ())
