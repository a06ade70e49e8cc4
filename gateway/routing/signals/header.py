"""`header`: a header of the request, by name in any case. Credentials are not to be seen here."""

from gateway.chat import ChatRequest
from gateway.routing.signals import signal


@signal("header", "named")
def header(request: ChatRequest, argument: str) -> str | None:
    return request.headers.get(argument.lower())
