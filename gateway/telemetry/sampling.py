"""Which requests become spans. Decided when they come in, for the rest costs nothing then; errors and escalations are
let in afterwards, so many a second at most."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from gateway.trace import RACED, RequestTrace
from gateway.trace_context import SAMPLED, TRACEPARENT, TraceContext, read_context

AFTERWARDS_PER_S = 25.0
AT_ONCE = 50.0
"""An upstream that is away makes an error of each request, and must not make the gateway slow as well."""


class Sampling:
    """`rate`: share of the requests, in [0, 1]; None while there are no spans at all. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate: float | None = None
        self._clock = clock
        self._left, self._counted = AT_ONCE, clock()

    def begin(self, headers: Mapping[str, str], trace_id: str) -> TraceContext | None:
        """The context of a request that has just come. Where somebody has decided before us, that counts."""
        context = read_context(headers, has_spans=self.rate is not None) if TRACEPARENT in headers else None
        if context is None and self.rate is not None and random.random() < self.rate:
            return TraceContext(trace_id, None, SAMPLED)
        return context

    def takes(self, trace: RequestTrace) -> bool:
        """Does this finished request become spans?"""
        if self.rate is None:
            return False
        if trace.context is not None and trace.context.is_sampled:
            return True
        return (is_error(trace) or is_escalated(trace)) and self._has_room()

    def _has_room(self) -> bool:
        now = self._clock()
        self._left = min(AT_ONCE, self._left + (now - self._counted) * AFTERWARDS_PER_S)
        self._counted = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def is_error(trace: RequestTrace) -> bool:
    """Was no answer given, or none to its end, and not for a fault of the client's? Its leaving is none of ours."""
    return trace.error is not None and (not 400 <= trace.status < 500 or trace.status == 429)


def is_escalated(trace: RequestTrace) -> bool:
    """Did a model's answer not do, so that another one was asked?"""
    return any(hop.left is not None and hop.left != RACED for hop in trace.totals().asked[:-1])
