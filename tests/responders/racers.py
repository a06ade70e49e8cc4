"""Models that a test tells what to say and when, and what a client hears of a race between them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from gateway.chat import Answer, ChatRequest, Emit, Responder
from gateway.checks.regex import Regex
from gateway.chunks import Chunk
from gateway.draft import Draft
from gateway.responders.cascade import Cascade
from gateway.responders.hold import WHOLE, Racing, Tier
from gateway.trace import Price, Spend, Trace, Usage

AT_ONCE, NEVER = Racing(after_s=0.0), Racing(after_s=3000.0)
PATIENT = Racing(after_s=0.0, prefer="earlier")


@dataclass
class Model:
    """A leaf that says what the test tells it, when it tells it."""

    name: str
    price: Price | None = Price(1.0, 1.0)
    defaults: dict[str, object] = field(default_factory=dict)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    was_cancelled: bool = False
    requests: list[ChatRequest] = field(default_factory=list)
    told: asyncio.Queue[tuple[object, asyncio.Event]] = field(default_factory=asyncio.Queue)

    async def say(self, *deltas: str | dict[str, object]) -> None:
        """Once it is asked. Comes back when they are emitted."""
        await within(self.asked.wait())
        for delta in deltas:
            await self._tell({"content": delta} if isinstance(delta, str) else delta)

    async def end(self, error: BaseException | None = None) -> None:
        await within(self.asked.wait())
        await self._tell(error)
        await within(self.gone.wait())

    async def answer(self, *words: str) -> None:
        await self.say(*words)
        await self.end()

    async def _tell(self, what: object) -> None:
        done = asyncio.Event()
        self.told.put_nowait((what, done))
        await within(done.wait())

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        self.requests.append(request)
        draft, words = Draft(), 0
        with trace.span("model", self.name) as span:
            try:
                while True:
                    self.asked.set()
                    what, done = await self.told.get()
                    if isinstance(what, dict):
                        data = {"model": self.name, "choices": [{"index": 0, "delta": what}]}
                        draft.add(data)
                        words += 1
                        try:
                            if request.stream:
                                await emit(Chunk(data))
                        finally:
                            done.set()
                        continue
                    done.set()
                    if what is not None:
                        assert isinstance(what, BaseException)
                        raise what
                    ending = {"model": self.name, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
                    draft.add(ending)
                    if request.stream:
                        await emit(Chunk(ending))
                    draft.head["model"] = self.name
                    return Answer(draft.completion())
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise
            finally:
                span.spend = Spend(self.name, Usage(10, words, estimated=self.was_cancelled), 0.001 * words, 0.0)
                self.gone.set()


async def within(waiting: Awaitable[Any]) -> Any:
    async with asyncio.timeout(5):
        return await waiting


@dataclass
class Asked:
    """A request under way, and what its client has heard."""

    task: asyncio.Task[Answer]
    trace: Trace
    heard: list[Chunk]

    @property
    def text(self) -> str:
        return "".join(choice["delta"].get("content") or "" for chunk in self.heard for choice in chunk.choices)

    async def answer(self) -> Answer:
        answer: Answer = await within(self.task)
        assert len(asyncio.all_tasks()) == 1, "somebody runs on"
        assert {chunk.model for chunk in self.heard} <= {answer.model}
        assert all(hop.spend is not None for hop in self.trace.models())
        assert all(hop.ended is not None for hop in self.trace.walk() if hop is not self.trace)
        return answer


def ask(cascade: Responder, *, stream: bool = True, text: str = "hi", **fields: Any) -> Asked:
    trace, heard = Trace("request", ""), list[Chunk]()

    async def emit(chunk: Chunk) -> None:
        heard.append(chunk)

    request = ChatRequest({"messages": [{"role": "user", "content": text}], "stream": stream}, **fields)
    return Asked(asyncio.create_task(cascade.respond(request, emit, trace)), trace, heard)


def held(name: str, responder: Responder, *checks: Any, race: Racing | None = None) -> Tier:
    """A tier whose whole draft these checks want to see."""
    return Tier(name, responder, checks, WHOLE, race=race)


def pair(racing: Racing | None = AT_ONCE, *, last: Any = None) -> tuple[Model, Model, Cascade]:
    """A small one whose whole draft must say "good", and a large one that may say anything."""
    small, large = Model("small"), Model("large")
    first = held("small", small, Regex("good"), race=racing)
    return small, large, Cascade([first, held("large", large, last) if last else Tier("large", large)])
