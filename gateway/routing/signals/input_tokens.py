"""`input_tokens`: size of messages and tools, or of prompts, in tokens of the model that the route asks first."""

from gateway.chat import ChatRequest
from gateway.routing.signals import Bounds, signal
from gateway.tokens import Count, Counter, at_least, estimate_request, likely_and_most


def bounds(request: ChatRequest, counter: Counter | None) -> Bounds:
    if counter is None or counter.only_estimates:
        likely = estimate_request(request.body)
        return Bounds(likely, likely, is_all=True)
    return Bounds(*likely_and_most(request.body, counter.template_tokens))


def least(request: ChatRequest, counter: Counter | None) -> int:
    return at_least(request.body)


@signal("input_tokens", "number", by_model=True, bounds=bounds, least=least)
async def input_tokens(request: ChatRequest, counter: Counter | None) -> Count:
    return await counter.count(request.body) if counter else Count(estimate_request(request.body), estimated=True)
