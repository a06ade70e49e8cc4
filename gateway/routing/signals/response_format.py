"""`response_format`: the form of answer asked for: text, json_object or json_schema."""

from collections.abc import Mapping
from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal


@signal("response_format", "text", values=("text", "json_object", "json_schema"))
def response_format(request: ChatRequest, argument: Any) -> str:
    wanted = request.body.get("response_format")
    return str(wanted.get("type", "text")) if isinstance(wanted, Mapping) else "text"
