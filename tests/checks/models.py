"""A model for the tests of checks that ask one."""

from __future__ import annotations

from typing import Any

from gateway.chat import Answer, ChatRequest, Emit
from gateway.errors import BackendUnavailable
from gateway.trace import Spend, Trace, Usage


class Says:
    """Answers each request with the next of its replies, the last one again and again; None is an error."""

    def __init__(self, *replies: str | dict[str, Any] | None, name: str = "other") -> None:
        self.name = name
        self._replies = list(replies)
        self.asked: list[ChatRequest] = []

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        reply = self._replies[min(len(self.asked), len(self._replies) - 1)]
        self.asked.append(request)
        with trace.span("model", self.name) as span:
            span.spend = Spend(self.name, Usage(10, 2), 0.001, 0.1)
            if reply is None:
                raise BackendUnavailable("it is away")
            choice = {"message": {"role": "assistant", "content": reply}} if isinstance(reply, str) else reply
            return Answer({"model": self.name, "choices": [{"index": 0, "finish_reason": "stop", **choice}]})
