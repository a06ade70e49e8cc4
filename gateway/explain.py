"""Why a request goes where it goes: its signals, each with its cost, and its route."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.chat import ChatRequest, Json, Responder
from gateway.gateway import DIRECT, Gateway
from gateway.responders.cascade import responders_in
from gateway.responders.choose import Choose


async def explain(gateway: Gateway, request: ChatRequest) -> Json:
    """`signals` holds every signal that a rule of the policy reads, `choices` what each `choose` node of the route
    would begin with, `promises` the thresholds that its drafts are held to. Raises: UnknownModel, InvalidRequest."""
    policy = gateway.policy_for(request)
    if policy is None:
        model = gateway.model(request.model)
        return {"policy": DIRECT, "route": request.model, "signals": [], "answer": {"model": model.name}}
    decision = await policy.decide(request)
    known = decision.facts.known
    read = len(known.signals)
    await policy.read_all(decision.facts)
    signals = [{**entry, "decided": i < read} for i, entry in enumerate(known.as_json(for_journal=False))]
    choices = [await node.explain(request) for node in choices_in(decision.route.answer)]
    told = gateway.promises.report() if policy.arms and gateway.promises is not None else []
    promises = [one for one in told if one["arm"].startswith(f"{policy.name}/{decision.route.name}/")]
    return {
        "policy": policy.name,
        "route": decision.route.name,
        "signals": signals,
        "answer": decision.route.plan,
        **({"choices": choices} if choices else {}),
        **({"promises": promises} if promises else {}),
        "routes": [route.name for route in policy.routes],
    }


def choices_in(responder: Responder) -> Iterator[Choose]:
    """The `choose` nodes of a tree, those nearest its root first."""
    return (one for one in responders_in(responder) if isinstance(one, Choose))
