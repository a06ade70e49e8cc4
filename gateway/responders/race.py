"""Tiers that are asked beside each other: the next one need not wait until the one before it has failed.

Each runs in a task of its own and speaks into a hold of its own. None is heard before it has claimed the answer, which
one of them does, once; then the others are cancelled, and what they spent stands in the trace as soon as they are gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from gateway.backends.admission import UNLIMITED_ANSWER_TOKENS
from gateway.chat import Answer, ChatRequest, Emit, Responder
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.responders.attempts import Attempts
from gateway.responders.hold import WHOLE, Hold, Racing, Rejected, Tier
from gateway.tokens import estimate_request
from gateway.trace import RACED, Price, Trace, Usage

log = logging.getLogger(__name__)


async def race(attempts: Attempts, emit: Emit, trace: Trace) -> Answer:
    """Raises: as the cascade that it is a way to run."""
    running = _Race(attempts, emit, trace)
    try:
        return await running.run()
    finally:
        await running.clear()


def clock() -> float:
    """The event loop's, which its timers go by."""
    return asyncio.get_running_loop().time()


class RacingHold(Hold):
    """Lets nothing through before it is released, whatever its checks say.

    `has_passed`: its checks want no more of it kept back; `has_words`: it has more to say than that it thinks.
    """

    def __init__(
        self,
        emit: Emit,
        request: ChatRequest,
        tier: Tier,
        span: Trace,
        *,
        can_reject: bool,
        changed: Callable[[], None],
    ) -> None:
        super().__init__(emit, request, tier, span, can_reject=can_reject)
        self._changed = changed
        self._started = clock()
        self._waits_for_whole = self._size == WHOLE or not request.stream
        self._is_timed = False
        self._flows = asyncio.Event()
        self.has_passed = self.has_words = False

    async def __call__(self, chunk: Chunk) -> None:
        if self.released:
            await self._flows.wait()  # what was held goes first
            await self._pass(chunk)
            return
        had_words = self.has_words
        self.has_words = had_words or bool(chunk.word_count) or chunk.is_last_of_a_choice
        if not self.has_passed:
            await super().__call__(chunk)
        else:
            self._held.append(chunk)
            if self.has_words and not had_words:
                self._changed()

    async def _let_through(self) -> None:
        self.has_passed = True
        self._note_time()
        self._changed()

    async def judge(self, answer: Answer) -> list[str]:
        if not self.has_passed:
            self._note_time()
        return await super().judge(answer)

    async def release(self) -> None:
        await super().release()
        self._flows.set()

    def overtake(self) -> None:
        """Nobody waits for it any longer: it would have taken longer than this."""
        self._note_time(at_least=True)

    def _note_time(self, *, at_least: bool = False) -> None:
        if not self._is_timed:
            self._is_timed = True
            took_s = clock() - self._started
            self._tier.odds.note_time(took_s, whole=self._waits_for_whole, at_least=at_least)

    def time_of_half(self) -> float | None:
        """When half of such drafts have been there."""
        median_s = self._tier.odds.median_s(whole=self._waits_for_whole)
        return None if median_s is None else self._started + median_s


class _Runner:
    """A tier that has been asked.

    `alone_until`: when, by the `clock`, others may speak before it is done; None: never. `has_lost`: it was cancelled.
    """

    def __init__(self, tier: Tier, hold: RacingHold, span: Trace, task: asyncio.Task[Answer | None]) -> None:
        self.tier, self.hold, self.span, self.task = tier, hold, span, task
        self.terms: Racing | None = tier.race
        self.alone_until = self._alone_until()
        self.has_lost = False

    def _alone_until(self) -> float | None:
        if self.terms is None:
            return None
        return self.hold.time_of_half() if self.terms.after_s is None else clock() + self.terms.after_s

    @property
    def has_failed(self) -> bool:
        return self.has_lost or (self._has_ended and self.task.result() is None)

    @property
    def has_answer(self) -> bool:
        return not self.has_lost and self._has_ended and self.task.result() is not None

    @property
    def _has_ended(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None

    def note_loss(self) -> None:
        """On all that it has asked, of which there may be several at the same time."""
        self.span.left = RACED
        for hop in self.span.models():
            hop.left = hop.left or RACED

    def may_be_overtaken(self, now: float) -> bool:
        """By a later one that has words to say, but is not at its end."""
        is_waited_for = self.alone_until is None or now < self.alone_until
        return self.terms is not None and self.terms.prefer == "first" and not is_waited_for


class _Race:
    def __init__(self, attempts: Attempts, emit: Emit, trace: Trace) -> None:
        self._attempts, self._emit, self._trace = attempts, emit, trace
        self._tiers, self._request = attempts.tiers, attempts.request
        self._runners: list[_Runner] = []
        self._news = asyncio.Event()

    async def run(self) -> Answer:
        self._start("")
        while True:
            self._news.clear()
            now = clock()
            winner = self._first_ready(now)
            if winner is not None:
                answer = await self._claim(winner)
                if answer is not None:
                    return answer
            elif (why := self._why_next(now)) is not None:
                self._start(why)
            elif all(runner.has_failed for runner in self._runners):
                return await self._attempts.make_do()
            else:
                await self._wait(now)

    def _start(self, why: str) -> None:
        position = len(self._runners)
        tier, can_reject = self._tiers[position], self._attempts.can_reject(position)
        span = self._trace.span("tier", tier.name)
        if why:
            span.note(raced=why)
        hold = RacingHold(self._emit, self._request, tier, span, can_reject=can_reject, changed=self._news.set)
        task = asyncio.create_task(self._attempt(position, hold, span))
        task.add_done_callback(lambda _: self._news.set())
        self._runners.append(_Runner(tier, hold, span, task))

    async def _attempt(self, position: int, hold: RacingHold, span: Trace) -> Answer | None:
        with span:
            return await self._attempts.make(position, hold, span)

    def _first_ready(self, now: float) -> _Runner | None:
        """Who may claim the answer: the earlier a tier is, the sooner."""
        ahead: list[_Runner] = []
        for runner in self._runners:
            if runner.has_answer:
                return runner
            if runner.has_failed:
                continue
            if runner.task.done() and not ahead:
                runner.task.result()  # raises what is not this tier's own failure, and no other can mend
            hold, has_rivals = runner.hold, bool(ahead)
            is_ready = hold.has_passed and (hold.has_words or not has_rivals) and not runner.task.done()
            if is_ready and all(rival.may_be_overtaken(now) for rival in ahead):
                return runner
            ahead.append(runner)
        return None

    def _why_next(self, now: float) -> str | None:
        """Why the next tier is to be asked now; empty where there is nobody beside it."""
        if len(self._runners) == len(self._tiers):
            return None
        running = [runner for runner in self._runners if not runner.has_failed]
        if not running:
            return ""
        last = self._runners[-1]
        if last.has_failed:
            why: str | None = "failed"
        elif last.task.done() or last.terms is None:
            why = None
        elif last.terms.doubt is not None and self._doubt(last.tier) > last.terms.doubt:
            why = "doubt"
        else:
            why = "time" if last.alone_until is not None and now >= last.alone_until else None
        return why if why is not None and self._may_run_beside(running) else None

    def _doubt(self, tier: Tier) -> float:
        """Chance that the next tier is needed."""
        return max(tier.odds.of_leaving, self._request.difficulty or 0.0)

    def _may_run_beside(self, running: Iterable[_Runner]) -> bool:
        """Is there money for all of them?"""
        if not self._request.caps:
            return True
        responders = (*(runner.tier.responder for runner in running), self._tiers[len(self._runners)].responder)
        most_usd = most_that(responders, self._request)
        return most_usd is not None and all(most_usd <= cap.left_usd for cap in self._request.caps)

    async def _wait(self, now: float) -> None:
        """Until something has happened, or somebody need not be waited for any longer."""
        times = [one.alone_until for one in self._runners if one.alone_until is not None and one.alone_until > now]
        try:
            async with asyncio.timeout(min(times) - now if times else None):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _claim(self, winner: _Runner) -> Answer | None:
        """Let one speak, and no other. None where it failed before the client could hear anything of it."""
        is_ahead = True
        for runner in self._runners:
            is_ahead = is_ahead and runner is not winner
            if runner is not winner and not runner.has_failed:
                if is_ahead:
                    runner.hold.overtake()
                self._lose(runner)
        await winner.hold.release()
        return await winner.task

    def _lose(self, runner: _Runner) -> None:
        runner.has_lost = True
        runner.note_loss()
        if runner.tier.checks and runner.task.done():
            runner.span.note(judged=False)  # it had passed: that it was not taken says nothing of it
        runner.task.cancel()

    async def clear(self) -> None:
        """Nobody runs on, however the race ended, and what they spent is in the trace."""
        for runner in self._runners:
            runner.task.cancel()
        ends = await asyncio.gather(*(runner.task for runner in self._runners), return_exceptions=True)
        for runner, end in zip(self._runners, ends, strict=True):
            if runner.span.ended is None:  # it had not even begun
                runner.span.ended = time.monotonic()
            if runner.has_lost:
                runner.note_loss()  # also on what was being asked just then
            is_expected = isinstance(end, (asyncio.CancelledError, GatewayError, Rejected))
            if runner.has_lost and isinstance(end, BaseException) and not is_expected:
                log.error("tier '%s' failed while another one answered", runner.tier.name, exc_info=end)


@runtime_checkable
class Composed(Protocol):
    """Asks some or all of its tiers."""

    @property
    def tiers(self) -> Iterable[Tier]: ...


@runtime_checkable
class Around(Protocol):
    """Asks what is in it."""

    inner: Responder


@runtime_checkable
class Priced(Protocol):
    """A leaf. `defaults`: what it is sent where the client says nothing."""

    price: Price | None
    defaults: Mapping[str, Any]


def most_that(responders: Iterable[Responder], request: ChatRequest) -> float | None:
    """US dollars that all of them may cost together; None where nobody knows."""
    total = 0.0
    for responder in responders:
        most: float | None = None
        if isinstance(responder, Composed):
            most = most_that((tier.responder for tier in responder.tiers), request)
        elif isinstance(responder, Around):
            most = most_that((responder.inner,), request)
        elif isinstance(responder, Priced):
            most = _most_of_leaf(responder, request)
        if most is None:
            return None
        total += most
    return total


def _most_of_leaf(leaf: Priced, request: ChatRequest) -> float | None:
    if leaf.price is None:
        return None
    said = request.body if request.limits_length else leaf.defaults
    limit = said.get("max_completion_tokens") or said.get("max_tokens")
    answers = max(request.choice_count, request.body.get("best_of") or 1)
    tokens = answers * (limit if isinstance(limit, int) else UNLIMITED_ANSWER_TOKENS)
    return leaf.price.cost_usd(Usage(estimate_request(request.body), tokens), busy_s=0.0)
