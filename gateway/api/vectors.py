"""Requests that are answered with JSON and are no chats: embeddings and reranks. Limits, disconnects, deadlines, money,
errors and the journal hold for them as for a chat."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import orjson

from gateway.api.asgi import Receive, Scope, Send, send_whole
from gateway.api.body import read_body, until_client_leaves
from gateway.api.entrance import entered, key_of
from gateway.api.envelopes import envelope_of
from gateway.api.openai import number_header
from gateway.api.reply import Reply, gateway_object, trace_headers
from gateway.chat import Answer, Cap, CostCap, Json
from gateway.embedding import EmbeddingRequest, RerankRequest
from gateway.errors import InvalidRequest, MethodNotAllowed
from gateway.gateway import Gateway
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.trace import RequestTrace

MAX_TEXTS = 2048  # of one request, as OpenAI has it
R = TypeVar("R", EmbeddingRequest, RerankRequest)


class VectorDialect(Protocol[R]):
    def read(self, raw: bytes, caller: Mapping[str, Any]) -> R:
        """Args: `caller` is `scope["gateway"]`. Raises: RequestError, with `param` naming the field at fault."""

    async def answer(self, gateway: Gateway, request: R, trace: RequestTrace) -> Json:
        """The reply's body. Raises: RequestError, BackendError."""


class VectorEndpoint(Generic[R]):
    """A plain ASGI callable."""

    def __init__(self, live: Live, runtime: Runtime, dialect: VectorDialect[R]) -> None:
        self._live, self._runtime, self._metrics = live, runtime, runtime.metrics
        self._dialect: VectorDialect[R] = dialect

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
            out = await self._answered(scope, receive, trace)
        except BaseException as error:
            await reply.end_by(error)
        else:
            trace.status = 200
            await send_whole(send, 200, trace_headers(trace, trace.totals(), trace.answered_by, cost=True), out)
        finally:
            self._metrics.in_flight -= 1
            trace.ended = time.monotonic()
            self._live.gateway.record(trace)

    async def _answered(self, scope: Scope, receive: Receive, trace: RequestTrace) -> bytes:
        raw = await read_body(scope, receive, self._live.body_limit_bytes)
        request = self._dialect.read(raw, scope["gateway"])
        trace.requested_model = request.model
        deadline_s = number_header(request.headers, "x-gateway-deadline-s")
        if deadline_s is not None:
            request = replace(request, deadline=trace.started + deadline_s)
        max_cost_usd = number_header(request.headers, "x-gateway-max-cost-usd")
        caps: tuple[Cap, ...] = () if max_cost_usd is None else (CostCap(trace, max_cost_usd),)
        caller = scope["gateway"]
        with until_client_leaves(scope, receive):
            async with entered(
                self._runtime, caller, trace, lambda _: request.estimated_tokens, request.deadline
            ) as entry:
                if entry is not None and (cap := entry.cap) is not None:
                    caps = (*caps, cap)
                if caps:
                    request = replace(request, caps=caps)
                with self._live.use(key_of(caller)) as gateway:
                    body = await self._dialect.answer(gateway, request, trace)
        about = gateway_object(trace, trace.totals(), Answer({"model": trace.answered_by}))
        return orjson.dumps({**body, "gateway": about})


def read_model(body: Json, caller: Mapping[str, Any]) -> None:
    """Puts the model that the path names into the body. Raises: InvalidRequest where none is named."""
    if caller["model"] is not None:
        body["model"] = caller["model"]
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("you must name a model: a string in 'model'", param="model")


def read_count(body: Json, name: str) -> int | None:
    """A field that is an integer of 1 or more, or not there. Raises: InvalidRequest."""
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidRequest(f"'{name}' must be an integer of 1 or more", param=name)
    return value
