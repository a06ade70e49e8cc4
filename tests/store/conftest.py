from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.trace import RequestTrace, Spend, Usage

Hop = tuple[str, str | None, float | None]  # model, why it was left, cost


@pytest.fixture
def make_trace() -> Callable[..., RequestTrace]:
    """A finished trace with one model hop for each (model, why it was left, cost)."""

    def make(
        *hops: Hop, name: str = "auto", ms: float = 5.0, status: int = 200, error: str | None = None
    ) -> RequestTrace:
        trace = RequestTrace(name, stream=True, key="app")
        trace.policy, trace.route, trace.status = "default", "rest", status
        for model, left, cost_usd in hops or (("core", None, 0.25),):
            with trace.span("model", model) as hop:
                hop.spend = Spend(model, Usage(10, 4), cost_usd, 0.1)
                hop.left = left
                trace.answered_by = trace.answered_by if left else model
        trace.error = error
        trace.ended = trace.started + ms / 1e3
        trace.first_chunk = trace.started + 0.001
        return trace

    return make
