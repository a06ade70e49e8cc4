"""`requested_model`: the `model` that the client sent, which may be one of a policy's aliases."""

from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal


@signal("requested_model", "text")
def requested_model(request: ChatRequest, argument: Any) -> str:
    return request.model
