"""Counting a request's tokens without answering it."""

from __future__ import annotations

from gateway.chat import ChatRequest
from gateway.gateway import Gateway
from gateway.tokens import Count, estimate_request


async def count_input(gateway: Gateway, request: ChatRequest) -> Count:
    """Tokens of messages and tools, as the model counts them that the request's route asks first.

    Raises: UnknownModel, InvalidRequest.
    """
    policy = gateway.policy_for(request)
    if policy is None:
        counter = gateway.model(request.model).counter
    else:
        counter = (await policy.decide(request)).route.counter
    if counter is None:
        return Count(estimate_request(request.body), estimated=True)
    return await counter.count(request.body)
