"""`key`: name of the API key that the request came with; None where the server is open."""

from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal


@signal("key", "text")
def key(request: ChatRequest, argument: Any) -> str | None:
    return request.key
