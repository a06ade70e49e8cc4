"""`input_tokens`: size of messages and tools, or of prompts, in tokens of the model that the route asks first."""

import math

from gateway.chat import ChatRequest
from gateway.routing.signals import Bounds, signal
from gateway.tokens import MOST_BY_TEMPLATE, Count, Counter, at_least, at_most, estimate_request


def bounds(request: ChatRequest, counter: Counter | None) -> Bounds:
    most = at_most(request.body, counter.template_tokens if counter else MOST_BY_TEMPLATE)
    high = math.inf if most is None else most
    low = at_least(request.body)
    return Bounds(low, high, min(max(low, estimate_request(request.body)), high))


@signal("input_tokens", "number", by_model=True, bounds=bounds)
async def input_tokens(request: ChatRequest, counter: Counter | None) -> Count:
    return await counter.count(request.body) if counter else Count(estimate_request(request.body), estimated=True)
