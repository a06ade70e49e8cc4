"""`metadata`: a value of the request's `metadata` object, by name."""

from collections.abc import Mapping

from gateway.chat import ChatRequest
from gateway.routing.signals import signal


@signal("metadata", "named")
def metadata(request: ChatRequest, argument: str) -> str | None:
    given = request.body.get("metadata")
    value = given.get(argument) if isinstance(given, Mapping) else None
    return None if value is None else str(value)
