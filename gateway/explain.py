"""Why a request goes where it goes: its signals, each with its cost, and its route."""

from __future__ import annotations

from gateway.chat import ChatRequest, Json
from gateway.gateway import DIRECT, Gateway


async def explain(gateway: Gateway, request: ChatRequest) -> Json:
    """Raises: UnknownModel, InvalidRequest. `signals` holds every signal that a rule of the policy reads."""
    policy = gateway.policy_for(request)
    if policy is None:
        model = gateway.model(request.model)
        return {"policy": DIRECT, "route": request.model, "signals": [], "answer": {"model": model.name}}
    decision = await policy.decide(request)
    known = decision.facts.known
    read = len(known.signals)
    await policy.read_all(decision.facts)
    signals = [{**entry, "decided": i < read} for i, entry in enumerate(known.as_json(for_journal=False))]
    return {
        "policy": policy.name,
        "route": decision.route.name,
        "signals": signals,
        "answer": decision.route.plan,
        "routes": [route.name for route in policy.routes],
    }
