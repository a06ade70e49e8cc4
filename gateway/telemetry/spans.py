"""Spans of OpenTelemetry from the trace of a finished request. What users and models have said is in none of them.

Imported only where spans are exported: opentelemetry takes 0.2 s to import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway import __version__
from gateway.telemetry import names
from gateway.telemetry.sampling import is_error
from gateway.trace import BROKEN_OFF, CHECK, RequestTrace, Trace
from gateway.trace_context import new_span_id

Value = str | int | float | bool | tuple[str, ...]
Attributes = dict[str, Value]

SCOPE = InstrumentationScope(names.SCOPE, __version__)
UNSET = Status(StatusCode.UNSET)
PORTS = {"http": 80, "https": 443}
A_NAME = re.compile(r"[\w.:/-]{1,64}")  # codes of errors may be an upstream's
MAX_MODEL = 128  # characters of the name that a client has sent


def spans_of(trace: RequestTrace, resource: Resource) -> list[ReadableSpan]:
    """The request, and a span for each hop below it."""
    return list(_Tree(trace, resource).spans())


class _Tree:
    def __init__(self, trace: RequestTrace, resource: Resource) -> None:
        self._trace, self._resource = trace, resource
        self._operation = names.OPERATIONS.get(trace.endpoint, names.CHAT)
        self._ended = trace.ended if trace.ended is not None else trace.started
        self._monotonic_began = trace.created - trace.started  # in unix seconds
        context = trace.context
        self._trace_id = int(context.trace_id if context is not None else trace.id, 16)
        self._state = TraceState.from_header([context.state]) if context is not None and context.state else TraceState()

    def spans(self) -> Iterator[ReadableSpan]:
        trace, context = self._trace, self._trace.context
        parent = context.parent_id if context is not None else None
        is_asked = bool(trace.endpoint)  # by a client; else the gateway asks by itself, to learn
        yield self._span(
            f"POST {trace.endpoint}" if is_asked else "request",
            trace.span_id,
            self._context(parent, is_remote=True) if parent is not None else None,
            self._of_request(),
            kind=SpanKind.SERVER if is_asked else SpanKind.INTERNAL,
            error=_error_name(trace.error) if is_error(trace) else None,
        )
        if trace.route and trace.children:
            yield self._span(
                f"route {trace.route}",
                new_span_id(),
                self._context(trace.span_id),
                {names.KIND: "route", names.POLICY: trace.policy or "", names.ROUTE: trace.route},
                ended=trace.children[0].started,
            )
        for child in trace.children:
            yield from self._below(child, trace)

    def _below(self, hop: Trace, parent: Trace) -> Iterator[ReadableSpan]:
        attributes = _of_hop(hop)
        name, kind = f"{hop.kind} {hop.name}", SpanKind.INTERNAL
        if hop.kind == "model":
            attributes |= _of_model(hop, self._operation)
            name = f"{self._operation} {attributes.get(names.REQUEST_MODEL, hop.name)}"
            kind = SpanKind.CLIENT if hop.upstream is not None else SpanKind.INTERNAL
        yield self._span(
            name,
            hop.span_id,
            self._context(parent.span_id),
            attributes,
            of=hop,
            kind=kind,
            error=hop.failure if hop.failure != BROKEN_OFF else None,
        )
        if (waited_ms := (hop.facts or {}).get("waited_ms")) is not None:
            woke = bool(hop.facts and hop.facts.get("woke"))
            yield self._span(
                f"{'load' if woke else 'wait for'} {hop.name}",
                new_span_id(),
                self._context(hop.span_id),
                {names.KIND: "engine", names.MODEL: hop.name, names.WOKE: woke},
                of=hop,
                ended=hop.started + waited_ms / 1e3,
            )
        for child in hop.children:
            yield from self._below(child, hop)

    def _span(
        self,
        name: str,
        span_id: str,
        parent: SpanContext | None,
        attributes: Attributes,
        *,
        of: Trace | None = None,
        ended: float | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        error: str | None = None,
    ) -> ReadableSpan:
        hop = of or self._trace
        if ended is None:
            ended = hop.ended if hop.ended is not None else self._ended
        if error is not None:
            attributes[names.ERROR_TYPE] = error
        return ReadableSpan(
            name,
            self._context(span_id),
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=Status(StatusCode.ERROR) if error is not None else UNSET,
            start_time=self._unix_ns(hop.started),
            end_time=self._unix_ns(max(hop.started, ended)),
            instrumentation_scope=SCOPE,
        )

    def _context(self, span_id: str, *, is_remote: bool = False) -> SpanContext:
        return SpanContext(self._trace_id, int(span_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED), self._state)

    def _unix_ns(self, monotonic: float) -> int:
        return int((monotonic + self._monotonic_began) * 1e9)

    def _of_request(self) -> Attributes:
        trace, totals = self._trace, self._trace.totals()
        out: Attributes = {names.KIND: "request", names.TRACE: trace.id, names.STREAM: trace.stream}
        if trace.endpoint:
            out |= {names.HTTP_METHOD: "POST", names.HTTP_ROUTE: trace.endpoint, names.HTTP_STATUS: trace.status}
        if trace.policy is not None:
            out |= {names.POLICY: trace.policy, names.QUALITY: trace.quality, names.OPERATION: self._operation}
            out[names.REQUEST_MODEL] = trace.requested_model[:MAX_MODEL]
        given = (
            (names.ROUTE, trace.route),
            (names.KEY, trace.key),
            (names.MODEL, trace.answered_by),
            (names.PATH, totals.path or None),
            (names.COST_USD, totals.cost_usd),
            (names.FIRST_CHUNK_S, trace.first_chunk - trace.started if trace.first_chunk is not None else None),
        )
        return out | {name: value for name, value in given if value is not None}


def _of_hop(hop: Trace) -> Attributes:
    out: Attributes = {names.KIND: hop.kind}
    if hop.left is not None:
        out[names.LEFT] = hop.left
    elif hop.failure == BROKEN_OFF:
        out[names.LEFT] = BROKEN_OFF
    for name, value in (hop.facts or {}).items():
        if name == "judged":
            out[names.JUDGED] = bool(value)
        elif isinstance(value, float) and hop.kind in ("tier", CHECK):
            out[f"{names.SCORE}{name}"] = value
    return out


def _of_model(hop: Trace, operation: str) -> Attributes:
    facts, spend = hop.facts or {}, hop.spend
    out: Attributes = {names.OPERATION: operation, names.MODEL: hop.name, **upstream_attributes(hop.name, hop.upstream)}
    if (model := facts.get("response_model")) is not None:
        out[names.RESPONSE_MODEL] = model
    if ends := facts.get("finish_reasons"):
        out[names.FINISH_REASONS] = tuple(ends)
    if (first_ms := facts.get("first_token_ms")) is not None:
        out |= {names.REQUEST_STREAM: True, names.FIRST_CHUNK: first_ms / 1e3}
    if (address := facts.get("address")) is not None:
        out[names.ADDRESS] = address
    if hop.dropped:
        out[names.DROPPED] = hop.dropped[:16]
    if spend is not None:
        out |= {names.INPUT_TOKENS: spend.usage.input_tokens, names.OUTPUT_TOKENS: spend.usage.output_tokens}
        out |= {names.CACHED_TOKENS: spend.usage.cached_tokens} if spend.usage.cached_tokens else {}
        out |= {names.ESTIMATED: True} if spend.usage.estimated else {}
        out |= {names.COST_USD: spend.cost_usd} if spend.cost_usd is not None else {}
    return out


@lru_cache(maxsize=1024)
def upstream_attributes(model: str, upstream: tuple[str, str, str] | None) -> dict[str, str | int]:
    """Who was asked for one of our models: provider, its name there, server. Not to be changed."""
    if upstream is None:  # it runs in this process
        return {names.PROVIDER: names.SERVICE, names.REQUEST_MODEL: model}
    provider, their_name, url = upstream
    out: dict[str, str | int] = {
        names.PROVIDER: names.PROVIDERS.get(provider, provider),
        names.REQUEST_MODEL: their_name or model,
    }
    parts = urlsplit(url)
    if parts.scheme.endswith("+unix"):
        out[names.SERVER_ADDRESS] = unquote(parts.netloc)
    elif parts.hostname:
        out[names.SERVER_ADDRESS] = parts.hostname
        if (port := parts.port or PORTS.get(parts.scheme)) is not None:
            out[names.SERVER_PORT] = port
    return out


def _error_name(code: str | None) -> str:
    return code if code is not None and A_NAME.fullmatch(code) else names.OTHER_ERROR
