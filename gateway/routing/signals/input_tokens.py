"""`input_tokens`: size of messages and tools, or of prompts, in tokens of the model that the route asks first."""

import math
from functools import partial

from gateway.chat import ChatRequest
from gateway.routing.signals import Bounds, signal
from gateway.tokens import MOST_BY_TEMPLATE, Count, Counter, at_least, at_most, estimate_request


def bounds(request: ChatRequest, counter: Counter | None) -> Bounds:
    body = request.body
    most = at_most(body, counter.template_tokens if counter else MOST_BY_TEMPLATE)
    high = math.inf if most is None else most
    return Bounds(high, min(estimate_request(body), high), partial(at_least, body))


@signal("input_tokens", "number", by_model=True, bounds=bounds)
async def input_tokens(request: ChatRequest, counter: Counter | None) -> Count:
    return await counter.count(request.body) if counter else Count(estimate_request(request.body), estimated=True)
