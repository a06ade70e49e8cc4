"""Which requests may be answered from a cache, and which answers may be kept in one."""

from __future__ import annotations

from gateway.chat import Answer, ChatRequest, Json
from gateway.errors import BackendTimeout, BackendUnavailable, BadBackendReply, CostCapReached, Overloaded
from gateway.trace import Trace

OFFERS = ("tools", "functions", "mcp_servers", "container", "web_search_options")
CALLS = ("tool_calls", "function_call")
MOST_USD = "x-gateway-max-cost-usd"
PASSING = frozenset(
    kind.reason for kind in (BackendTimeout, BackendUnavailable, BadBackendReply, CostCapReached, Overloaded)
)
"""Why a model may be left that would answer the same request another time."""


def has_tools(request: ChatRequest) -> bool:
    """Does it offer tools, or hold calls of any?"""
    bodies = [request.body] if request.extra is None else [request.body, request.extra.body]
    if any(body.get(name) for body in bodies for name in OFFERS):
        return True
    return any(
        message.get("role") in ("tool", "function") or any(message.get(name) for name in CALLS)
        for message in request.messages
    )


def wants_sound(request: ChatRequest) -> bool:
    """Sound that is answered is only kept for a while by who has made it."""
    return bool(request.body.get("audio"))


def is_whole(answer: Answer, request: ChatRequest, *, tools: bool) -> bool:
    """Did every choice come to its end, or to where the client wanted it cut, with something in it?"""
    choices = answer.body.get("choices")
    if answer.checks_failed or not isinstance(choices, list) or len(choices) < request.choice_count:
        return False
    return all(_is_whole(choice, request, tools) for choice in choices)


def _is_whole(choice: Json, request: ChatRequest, tools: bool) -> bool:
    message, reason = choice.get("message") or {}, choice.get("finish_reason")
    has_calls = any(message.get(name) for name in CALLS)
    if has_calls or reason in ("tool_calls", "function_call"):
        return tools and has_calls and reason in ("tool_calls", "function_call", "stop")
    if not (message.get("content") or message.get("refusal")) or message.get("audio"):
        return False
    return reason == "stop" or (reason == "length" and request.limits_length)


def made_do(request: ChatRequest, span: Trace) -> bool:
    """Might the next request be answered better, because this caller's money was limited, or because a model was left
    that was away or busy?"""
    if MOST_USD in request.headers:
        return True
    left = (hop.left for hop in span.walk(checks=False) if hop.left is not None)
    return any(reason in PASSING or reason.startswith("http_") for reason in left)
