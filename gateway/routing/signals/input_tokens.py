"""`input_tokens`: size of messages and tools in tokens. An estimate: nobody has asked the model's tokenizer."""

from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal
from gateway.tokens import estimate_request


@signal("input_tokens", "number")
async def input_tokens(request: ChatRequest, argument: Any) -> int:
    return estimate_request(request.body)
