"""Asking another gateway: what is left of the time and of the money goes with the request, and what it has spent comes
back. So a deadline and a cost limit hold over any number of gateways behind each other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gateway.chat import ChatRequest
from gateway.trace import Trace
from gateway.transport import Headers

WAY_BACK_S = 0.25  # before the deadline it is to have told that it was late, so that its own words reach the client
WAY_BACK_PART = 0.1  # of what is left, at most
LEAST_S = 0.001
COST_HEADER = "x-gateway-cost-usd"


def headers_of(request: ChatRequest) -> dict[str, str]:
    """What another gateway is told of this request, beside how many it has passed."""
    headers = {"x-gateway-session": request.conversation}
    if request.deadline is not None:
        left_s = request.deadline - time.monotonic()
        headers["x-gateway-deadline-s"] = f"{max(LEAST_S, left_s - min(WAY_BACK_S, WAY_BACK_PART * left_s)):.3f}"
    if request.caps:
        headers["x-gateway-max-cost-usd"] = f"{max(0.0, _least_left_usd(request)):.10f}"
    return headers


def traced(headers: Headers, span: Trace) -> Headers:
    """The same, and for any upstream: which hop of which trace it is that asks."""
    return headers if span.context is None else Headers({**headers, **span.context.headers(span.span_id)})


def admit_cost(request: ChatRequest, name: str) -> None:
    """It keeps to the limits itself, as long as there is something left. Raises: CostCapReached."""
    for cap in request.caps:
        if cap.left_usd < 0 or (cap.left_usd == 0 and cap.max_usd > 0):  # under 0 from the start it uses what is free
            raise cap.refusal(f"model '{name}' is not asked: nothing is left of ${cap.max_usd:g}")


def _least_left_usd(request: ChatRequest) -> float:
    return min(cap.left_usd for cap in request.caps)


def cost_told(said: object, headers: Mapping[str, str]) -> float | None:
    """What the whole of the request has cost there, failed attempts too; None where it does not know, or say.

    Args: `said` is the `gateway` object of its answer, which is more exact than its headers.
    """
    told: Any = said.get("cost_usd") if isinstance(said, Mapping) else headers.get(COST_HEADER)
    try:
        cost_usd = float(told) if isinstance(told, str | int | float) else -1.0
    except ValueError:
        return None
    return cost_usd if 0.0 <= cost_usd < float("inf") else None


def joules_told(said: object) -> float | None:
    """The same of energy."""
    told: Any = said.get("energy_j") if isinstance(said, Mapping) else None
    is_number = isinstance(told, int | float) and not isinstance(told, bool)
    return float(told) if is_number and 0 <= told < float("inf") else None
