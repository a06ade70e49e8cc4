"""How a check asks a model: beside the conversation, with its limits, and what it costs in the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.chat import Answer, ChatRequest, Json, Responder
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.trace import Trace

SESSION = "x-gateway-session"


class AsksModel:
    """`asked`: the model, once it is bound; None where that is inactive."""

    asked: Responder | None = None


def again(request: ChatRequest, body: Mapping[str, Any]) -> ChatRequest:
    """The same conversation with another body: deadline, cost caps and caller stay."""
    return replace(request, body=body, extra=None, stay_with=None, can_move_on=False)


def aside(request: ChatRequest, body: Mapping[str, Any]) -> ChatRequest:
    """Another conversation for the same caller, within the same deadline and cost caps: it must not take the place of
    the caller's own in a model's memory."""
    headers = {name: value for name, value in request.headers.items() if name != SESSION}
    return replace(again(request, body), headers=headers, must_show=frozenset(), maker_of=None)


async def choices_of(asked: Responder, request: ChatRequest, span: Trace) -> list[Json]:
    """The choices of the model's answer; none where it has no answer, and the span says why."""
    try:
        answer: Answer = await asked.respond(request, discard, span)
    except GatewayError as exc:
        span.note(unanswered=exc.code)
        return []
    return [choice for choice in answer.body.get("choices") or () if isinstance(choice, dict)]


async def discard(chunk: Chunk) -> None:
    pass
