"""`turns`: how many messages the user has sent in this conversation; a prompt is one."""

from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal


@signal("turns", "number")
def turns(request: ChatRequest, argument: Any) -> int:
    return sum(1 for role, _ in request.turns if role == "user")
