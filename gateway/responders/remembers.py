"""Answers that may remember something of their user: by a tool that the model calls, or by what the user said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from gateway.chat import Answer, ChatRequest, Emit, Json, Responder
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.shards import OPERATOR
from gateway.shards.bookcase import Bookcase
from gateway.shards.memory.extracting import extract
from gateway.shards.memory.memories import Memories
from gateway.shards.memory.remembering import FORGET, REMEMBER, TOOLS, Call, calls_of, is_said
from gateway.shards.shelf import user_of
from gateway.tools import name_of
from gateway.trace import Trace

log = logging.getLogger(__name__)
OURS = frozenset({REMEMBER, FORGET})
SOURCE = "conversation"


@dataclass(frozen=True)
class Remembers:
    """`inner`, for requests that name their user.

    With a `tool`, the model may call `remember` and `forget`: the calls are carried out here, and it is asked again for
    its answer; clients see nothing of them. What it wants kept has to stand in what the user said. With `extracts`,
    what users say of themselves is kept without any call.
    """

    inner: Responder
    bookcase: Bookcase
    tool: bool
    extracts: bool

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        opened, user = self.bookcase.opened, user_of(request)
        if opened is None or user is None or request.is_prompt:
            return await self.inner.respond(request, emit, trace)
        owner = _Owner(opened.memories, request.owner or OPERATOR, user)
        if self.tool and may_offer(request):
            answer = await self._with_tool(request, owner, emit, trace)
        else:
            answer = await self.inner.respond(request, emit, trace)
        if self.extracts and request.messages[-1].get("role") == "user":
            await owner.note_statements(request.last_user_text)
        return answer

    async def _with_tool(self, request: ChatRequest, owner: _Owner, emit: Emit, trace: Trace) -> Answer:
        offered = request.with_body(tools=[*(request.body.get("tools") or ()), *TOOLS])
        gate = _Gate(emit)
        answer = await self.inner.respond(offered, gate, trace)
        message: Json = (answer.body.get("choices") or [{}])[0].get("message") or {}
        calls = calls_of(message)
        if not calls:
            await gate.open()
            return answer
        results = [await owner.carry_out(call, request) for call in calls]
        trace.note(remembered=[call.action for call in calls])
        if gate.is_open:
            return without_calls(answer)
        made = [one for one in message.get("tool_calls") or () if name_of(one) in OURS]
        said = {"role": "assistant", "content": message.get("content"), "tool_calls": made}
        told = [
            {"role": "tool", "tool_call_id": call.id, "content": result}
            for call, result in zip(calls, results, strict=True)
        ]
        return await self.inner.respond(request.with_body(messages=[*request.messages, said, *told]), emit, trace)


def may_offer(request: ChatRequest) -> bool:
    """Not where the client has tools of these names, or wants none called."""
    if request.body.get("tool_choice") not in (None, "auto") or request.body.get("response_format"):
        return False
    return not any(name_of(tool) in OURS for tool in request.body.get("tools") or () if isinstance(tool, dict))


def without_calls(answer: Answer) -> Answer:
    """The answer as its client may see it: words, and calls of the client's own tools."""
    choices = []
    for choice in answer.body.get("choices") or ():
        message = dict(choice.get("message") or {})
        left = [call for call in message.pop("tool_calls", None) or () if name_of(call) not in OURS]
        reason = choice.get("finish_reason")
        if left:
            message["tool_calls"] = left
        elif reason == "tool_calls":
            reason = "stop"
        choices.append({**choice, "message": message, "finish_reason": reason})
    return replace(answer, body={**answer.body, "choices": choices})


class _Gate:
    """Holds chunks until it is known that the answer is for the client, and keeps our calls back."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._held: list[Chunk] = []
        self._ours: set[Any] = set()  # places of our calls
        self._others = False
        self.is_open = False

    async def __call__(self, chunk: Chunk) -> None:
        deltas = [choice.get("delta") or {} for choice in chunk.choices] if chunk.shape is None else []
        calls = [call for delta in deltas for call in delta.get("tool_calls") or () if isinstance(call, dict)]
        for call in calls:
            name = (call.get("function") or {}).get("name")
            if name in OURS:
                self._ours.add(call.get("index"))
            elif name:
                self._others = True
        if calls and all(call.get("index") in self._ours for call in calls):
            return
        if self.is_open:
            await self._emit(self._fitting(chunk))
            return
        self._held.append(chunk)
        if chunk.word_count and not (calls and self._ours):
            await self.open()

    async def open(self) -> None:
        self.is_open = True
        held, self._held = self._held, []
        for chunk in held:
            await self._emit(self._fitting(chunk))

    def _fitting(self, chunk: Chunk) -> Chunk:
        """The end of an answer that called nothing of the client's is an end like others."""
        if not self._ours or self._others or not chunk.is_last_of_a_choice:
            return chunk
        choices = [
            {**choice, "finish_reason": "stop"} if choice.get("finish_reason") == "tool_calls" else choice
            for choice in chunk.choices
        ]
        return Chunk({**chunk.data, "choices": choices})


@dataclass(frozen=True)
class _Owner:
    memories: Memories
    tenant: str
    user: str

    @property
    def writer(self) -> str:
        return writer_of(self.tenant, self.user)

    async def carry_out(self, call: Call, request: ChatRequest) -> str:
        """What the model is told of it."""
        said = "\n".join(text for role, text in request.turns if role == "user")
        try:
            if call.action == "forget":
                gone = await self.memories.forget(call.text, self.tenant, self.user)
                return _told("forgotten", [shard.fact for shard in gone])
            if not is_said(call.text, said):
                return orjson.dumps({"error": "only what the user has said can be remembered"}).decode()
            changes = await self.memories.remember(call.text, self.tenant, self.user, self.writer, SOURCE)
            return _told("remembered", [change.shard.fact for change in changes])
        except GatewayError as exc:
            return orjson.dumps({"error": exc.message}).decode()

    async def note_statements(self, text: str) -> None:
        found = await asyncio.to_thread(lambda: extract([{"role": "user", "content": text}]))
        if not found:
            return
        try:
            await self.memories.keep(found, self.tenant, self.user, self.writer, SOURCE, capped=True)
        except GatewayError as exc:
            log.info("nothing more is remembered of a user: %s", exc.message)


def writer_of(tenant: str, user: str) -> str:
    """A user writes for themselves, with a limit of their own."""
    return f"{tenant}/{user}"


def _told(action: str, facts: Sequence[str]) -> str:
    return orjson.dumps({action: list(facts)}).decode()
