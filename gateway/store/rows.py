"""A finished trace as a row of the journal. No bodies: what a user wrote or a model answered is in neither."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.costs.ledger import instead_of
from gateway.trace import ANSWER, RequestTrace

MAX_TEXT = 200  # characters of a name: the client chose `requested_model`, an upstream an error's code
MAX_TRACE_BYTES = 64 * 1024
MAX_INTEGER = 2**63 - 1  # upstreams say how many tokens they used, and may say anything


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One request; the fields are the table's columns, in their order.

    `created` is in unix seconds, the other times in milliseconds since it started.
    """

    id: str
    created: float
    key: str | None
    policy: str | None
    route: str | None
    requested_model: str
    model: str | None  # who answered; None where nobody did
    path: str
    stream: bool
    status: int
    error: str | None
    input_tokens: int  # of the whole chain, as are the output's and the cost
    output_tokens: int
    cost_usd: float | None  # None: not known
    escalated: bool  # another model answered than the one asked first
    ms: float
    first_chunk_ms: float | None
    trace: str  # JSON: the tree of hops
    tenant: str | None = None


def values_of(trace: RequestTrace) -> tuple[Any, ...]:
    """The fields of `JournalRow`, in their order. It never raises: what cannot be JSON is left out of `trace`."""
    totals = trace.totals()
    first_asked = totals.asked[0].name if totals.asked else None
    model = trace.answered_by
    ended = time.monotonic() if trace.ended is None else trace.ended
    first = trace.first_chunk
    return (
        trace.id,
        trace.created,
        trace.key,
        trace.policy,
        trace.route,
        _short(trace.requested_model),
        model,
        totals.path,
        trace.stream,
        trace.status,
        None if trace.error is None else _short(trace.error),
        min(totals.input_tokens, MAX_INTEGER),
        min(totals.output_tokens, MAX_INTEGER),
        totals.cost_usd,
        model is not None and first_asked is not None and model != first_asked,
        round((ended - trace.started) * 1e3, 2),
        None if first is None else round((first - trace.started) * 1e3, 2),
        _tree(trace),
        trace.tenant,
    )


def _tree(trace: RequestTrace) -> str:
    tree = trace.as_json()
    tree["name"] = _short(trace.name)
    if trace.purpose != ANSWER:
        tree["purpose"] = trace.purpose
    if trace.rivals and (instead := instead_of(trace)):
        tree["instead"] = instead
    try:
        text = orjson.dumps(tree, default=_told, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as exc:  # half a surrogate pair, an integer of more than 64 bits
        return _stump(trace, str(exc))
    if len(text) > MAX_TRACE_BYTES:
        return _stump(trace, f"{len(text)} bytes")
    return text.decode()


def _stump(trace: RequestTrace, why: str) -> str:
    return orjson.dumps({"kind": trace.kind, "name": _short(trace.name), "cut": why}).decode()


def _told(value: object) -> object:
    """A fact that is no JSON: as it tells itself, else its type only, for its text could hold anything."""
    as_json = getattr(value, "as_json", None)
    return as_json() if as_json is not None else f"<{type(value).__name__}>"


def _short(text: str) -> str:
    if text.isascii() and len(text) <= MAX_TEXT:
        return text
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()
