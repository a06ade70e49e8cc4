"""A second request beside one that is late: who speaks first answers, and the other is cancelled."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gateway.chat import Answer, ChatRequest, Emit, Responder
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.responders.race import clock, most_that
from gateway.trace import RACED, Trace

log = logging.getLogger(__name__)
KEPT, LEAST = 128, 20  # times remembered, of each sort, and those that make a percentile
UNKNOWN_S = 10.0  # what is waited for before so many are known
SHARE = 0.1  # of requests that may get a second one
SAVED = 5.0  # second requests that quiet times may leave over

Pair = Callable[[], tuple[Responder, Callable[[], Responder | None]]]


class FirstTokens:
    """How long requests to a model have waited for their first word lately, and those without a stream for the whole
    answer. Outlives a reload, as what it may still spend on second requests does."""

    def __init__(self) -> None:
        self._times: dict[bool, deque[float]] = {streams: deque(maxlen=KEPT) for streams in (False, True)}
        self._allowance = 1.0

    def note(self, seconds: float, *, streams: bool) -> None:
        self._times[streams].append(seconds)

    def percentile_s(self, percent: int, *, streams: bool) -> float | None:
        """None before enough is known."""
        times = sorted(self._times[streams])
        return times[math.ceil(len(times) * percent / 100) - 1] if len(times) >= LEAST else None

    def earn(self) -> None:
        """With each request."""
        self._allowance = min(SAVED, self._allowance + SHARE)

    def spend(self) -> bool:
        """May there be a second one now?"""
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True


@dataclass(frozen=True)
class Hedging:
    """When a second request is made: after so many seconds, or when so many percent of them have had their word."""

    first_tokens: FirstTokens
    after_s: float | None = None
    percent: int = 95

    def delay_s(self, *, streams: bool) -> float:
        if self.after_s is not None:
            return self.after_s
        found = self.first_tokens.percentile_s(self.percent, streams=streams)
        return UNKNOWN_S if found is None else found


@dataclass(frozen=True)
class Hedged:
    """`inner`, with somebody beside it where it is late.

    Args:
        name: of the model that `inner` is.
        pair: makes, for one request, who is asked first, and what says who comes second, or None.
        is_same: is the second one the same model elsewhere?
    """

    name: str
    inner: Responder
    pair: Pair
    hedging: Hedging
    is_same: bool = True

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        hedge = _Hedge(self, request, emit, trace)
        try:
            return await hedge.run()
        finally:
            await hedge.clear()


class _Runner:
    """One of the two, and its `emit`: what it says is held until it may speak."""

    def __init__(self, hedge: _Hedge, span: Trace, *, is_timed: bool) -> None:
        self._hedge, self.span, self.is_timed = hedge, span, is_timed
        self.started = clock()
        self._held: list[Chunk] = []
        self.task: asyncio.Task[Answer]

    async def __call__(self, chunk: Chunk) -> None:
        if self._hedge.speaker is self:
            await self._hedge.emit(chunk)
        elif self._hedge.request.stream:
            self._held.append(chunk)
            if not chunk.is_silent:
                await self.speak()

    async def speak(self) -> None:
        """Or wait for the end, where the other one does."""
        self._hedge.claim(self)
        if self._hedge.speaker is not self:
            await asyncio.get_running_loop().create_future()
        held, self._held = self._held, []
        for chunk in held:
            await self._hedge.emit(chunk)

    async def run(self, responder: Responder) -> Answer:
        with self.span:
            answer = await responder.respond(self._hedge.request, self, self.span)
            await self.speak()
            return answer

    def note_loss(self) -> None:
        for hop in (self.span, *self.span.models()):
            hop.left = hop.left or RACED


class _Hedge:
    """One request."""

    def __init__(self, hedged: Hedged, request: ChatRequest, emit: Emit, trace: Trace) -> None:
        self._hedged, self.request, self.emit, self._trace = hedged, request, emit, trace
        self._runners: list[_Runner] = []
        self.speaker: _Runner | None = None

    async def run(self) -> Answer:
        hedging = self._hedged.hedging
        hedging.first_tokens.earn()
        responder, second_of = self._hedged.pair()
        first = self._start(responder, is_timed=True)
        delay_s = hedging.delay_s(streams=self.request.stream)
        await asyncio.wait({first.task}, timeout=delay_s)
        if self.speaker is None and not first.task.done():
            second = second_of()
            if second is not None and self._can_pay(second) and hedging.first_tokens.spend():
                runner = self._start(second, is_timed=self._hedged.is_same)
                runner.span.note(hedged_after_ms=round(delay_s * 1e3, 1))
        return await self._first_answer()

    def _start(self, responder: Responder, *, is_timed: bool) -> _Runner:
        runner = _Runner(self, self._trace.span("hedge", self._hedged.name), is_timed=is_timed)
        runner.task = asyncio.create_task(runner.run(responder))
        self._runners.append(runner)
        return runner

    def _can_pay(self, second: Responder) -> bool:
        """Is there money for both?"""
        if not self.request.caps:
            return True
        most_usd = most_that((self._hedged.inner, second), self.request)
        return most_usd is not None and all(most_usd <= cap.left_usd for cap in self.request.caps)

    async def _first_answer(self) -> Answer:
        """Raises: as the speaker does, or where nobody has spoken, as the first one did."""
        waiting = {runner.task for runner in self._runners}
        while waiting and self.speaker is None:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return await (self.speaker or self._runners[0]).task

    def claim(self, runner: _Runner) -> None:
        """The first one to have a word has it."""
        if self.speaker is not None:
            return
        self.speaker = runner
        for one in self._runners:
            if one.is_timed and (one is runner or not one.task.done()):
                self._hedged.hedging.first_tokens.note(clock() - one.started, streams=self.request.stream)
            if one is not runner:
                one.note_loss()
                one.task.cancel()

    async def clear(self) -> None:
        """Nobody runs on, however it ended, and what they spent is in the trace."""
        for runner in self._runners:
            runner.task.cancel()
        ends = await asyncio.gather(*(runner.task for runner in self._runners), return_exceptions=True)
        for runner, end in zip(self._runners, ends, strict=True):
            if runner.span.ended is None:  # it had not even begun
                runner.span.ended = time.monotonic()
            if self.speaker is not None and runner is not self.speaker:
                runner.note_loss()
                if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError | GatewayError):
                    log.error("model '%s' failed beside one that answered", self._hedged.name, exc_info=end)
