"""`budget_left`: US dollars that this request may still cost; None where nobody has limited it."""

import math
from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal

HEADER = "x-gateway-max-cost-usd"


@signal("budget_left", "number")
def budget_left(request: ChatRequest, argument: Any) -> float | None:
    if request.caps:
        return min(cap.left_usd for cap in request.caps)
    return _asked(request.headers.get(HEADER))  # `explain` spends nothing, and sets no caps


def _asked(said: str | None) -> float | None:
    try:
        limit = float(said or "nan")
    except ValueError:
        return None
    return limit if math.isfinite(limit) and limit >= 0 else None
