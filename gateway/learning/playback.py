"""A policy played on recordings: its real tree, with leaves that give what was answered then, at what that cost, after
as long as it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from gateway.chat import PASSED, Answer, ChatRequest, Emit, Json, Verdict
from gateway.checks import Check
from gateway.checks.logprob import Logprob
from gateway.draft import Draft
from gateway.errors import BackendError, BackendTimeout, CostCapReached
from gateway.learning.recorded import NotRecorded, Outcome, Recording
from gateway.responders.cached import Cached
from gateway.routing.policy import Facts
from gateway.routing.signals import Signal, Value
from gateway.trace import Spend, Trace, Usage


class RecordedFailure(BackendError):
    """As it failed then, for the same reason."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model '{model}' gave no answer: {reason}")
        self.reason = reason


class Tape:
    """The recording of the moment. A model's one answer is one draw: asked again, it might have said anything."""

    def __init__(self) -> None:
        self.put_in(Recording("", None, {}), ChatRequest({}))

    def put_in(self, recording: Recording, request: ChatRequest) -> None:
        """`request` is that of the recording, as it is made to the policy."""
        self.recording, self._said = recording, request.body.get("messages")
        self.asked: list[str] = []
        self._due: dict[float, float] = {}  # by deadline: the same moment on the clock of the replay
        self.missing: str | None = None

    def take(self, model: str, request: ChatRequest) -> Outcome:
        """Raises: NotRecorded."""
        if request.body.get("messages") is not self._said:
            raise self.not_recorded(f"{model}: asked something else")
        outcome = self.recording.outcomes.get(model)
        if outcome is None:
            raise self.not_recorded(model)
        if model in self.asked:
            raise self.not_recorded(f"{model}: asked twice")
        self.asked.append(model)
        return outcome

    def not_recorded(self, what: str) -> NotRecorded:
        self.missing = self.missing or what
        return NotRecorded(what)

    def seconds_left(self, deadline: float | None) -> float | None:
        """Of what time is left on the replay's clock. A deadline is first seen when it is set, or just after."""
        if deadline is None:
            return None
        now = asyncio.get_running_loop().time()
        due = self._due.setdefault(deadline, now + deadline - time.monotonic())
        return due - now


@dataclass(frozen=True)
class RecordedModel:
    """A leaf."""

    name: str
    tape: Tape

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        outcome = self.tape.take(self.name, request)
        self._admit(request, outcome)
        with trace.span("model", self.name) as span:
            usage = Usage(outcome.input_tokens or 0, outcome.output_tokens or 0, estimated=True)
            span.spend = Spend(self.name, usage, outcome.cost_usd, outcome.latency_s or 0.0)
            await self._wait(request, outcome)
            if outcome.error is not None:
                raise RecordedFailure(self.name, outcome.error)
            return Answer(completion(self.name, outcome, request))

    def _admit(self, request: ChatRequest, outcome: Outcome) -> None:
        for cap in request.caps:
            if outcome.cost_usd is None or outcome.cost_usd > cap.left_usd:
                raise CostCapReached(f"model '{self.name}' costs more than what is left of ${cap.max_usd}")

    async def _wait(self, request: ChatRequest, outcome: Outcome) -> None:
        left_s = self.tape.seconds_left(request.deadline)
        if outcome.latency_s is None:
            return
        if left_s is not None and left_s < outcome.latency_s:
            await asyncio.sleep(max(0.0, left_s))
            raise BackendTimeout(f"model '{self.name}' did not answer in time")
        await asyncio.sleep(outcome.latency_s)


def completion(model: str, outcome: Outcome, request: ChatRequest) -> Json:
    """The answer as a `chat.completion` object."""
    message: Json = {"role": "assistant", "content": outcome.answer}
    if outcome.tool_calls:
        message["tool_calls"] = list(outcome.tool_calls)
    finish_reason = outcome.finish_reason or ("tool_calls" if outcome.tool_calls else "stop")
    choice: Json = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
    if request.wants_logprobs and outcome.logprobs is not None:
        choice["logprobs"] = {"content": _tokens(outcome.logprobs), "refusal": None}
    usage = {"prompt_tokens": outcome.input_tokens or 0, "completion_tokens": outcome.output_tokens or 0}
    return {"id": "recorded", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage}


def _tokens(logprobs: Sequence[float] | float) -> list[Json]:
    values = [logprobs] if isinstance(logprobs, float) else logprobs
    return [{"token": "", "logprob": value, "top_logprobs": []} for value in values]


class RecordedCheck:
    """A check that says of an answer whose words are not known what it said then, where it is the same check."""

    def __init__(self, inner: Check, tape: Tape) -> None:
        self._inner, self._tape = inner, tape
        self.name: str = inner.name
        self.can_fail_prefix, self.prefix_words = inner.can_fail_prefix, inner.prefix_words
        self.asks, self.needs = inner.asks, inner.needs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        model = str(draft.head.get("model"))
        outcome = self._tape.recording.outcomes.get(model)
        if outcome is None:
            raise self._tape.not_recorded(model)
        has_all = isinstance(outcome.logprobs, tuple)
        if has_all if "logprobs" in self.asks else outcome.has_words:
            return await self._inner(request, draft, trace)
        return await self._as_then(model, outcome, request, trace)

    async def _as_then(self, model: str, outcome: Outcome, request: ChatRequest, trace: Trace) -> Verdict:
        passed = outcome.checks.get(self.name)
        then = self._tape.recording.judged_by.get(model, {}).get(self.name)
        if passed is not None and (then is None or then == self._inner):
            return PASSED if passed else Verdict(False, "as recorded")
        if isinstance(self._inner, Logprob) and self._inner.min_above is None and outcome.logprobs is not None:
            body = completion(model, outcome, request.with_body(logprobs=True))  # its one number is the mean
            return await self._inner(request, Draft.of(body), trace)
        raise self._tape.not_recorded(f"{model}: {self.name}")


def with_recorded_checks(node: Any, tape: Tape) -> Any:
    """The same tree of responders, each check in it knowing what is on the tape. Nothing is answered from a cache: what
    came before may not have been recorded, and words that nobody kept are all the same."""
    if isinstance(node, Cached):
        return with_recorded_checks(node.inner, tape)
    if isinstance(node, tuple | list):
        changed = [with_recorded_checks(one, tape) for one in node]
        same = all(new is old for new, old in zip(changed, node, strict=True))
        return node if same else type(node)(changed)
    if not is_dataclass(node) or isinstance(node, type) or not _is_part_of_a_tree(node):
        return node
    changes = {}
    for one in fields(node):
        value = getattr(node, one.name)
        if one.name == "checks":
            changes["checks"] = tuple(RecordedCheck(check, tape) for check in value)
        elif one.init and (new := with_recorded_checks(value, tape)) is not value:
            changes[one.name] = new
    return replace(node, **changes) if changes else node


def _is_part_of_a_tree(node: Any) -> bool:
    return any(hasattr(node, name) for name in ("respond", "responder", "tier"))


class RecordedFacts(Facts):
    """Signals of a request whose words nobody kept: those that were read of it then."""

    __slots__ = ("_tape",)

    def __init__(self, request: ChatRequest, tape: Tape) -> None:
        super().__init__(request)
        self._tape = tape

    def read(self, signal: Signal, key: tuple[str, Any]) -> Value:
        value: Value = self._told(signal, key)
        return value

    compute = read

    async def wait_for(self, signal: Signal, key: tuple[str, Any]) -> Value:
        return self.read(signal, key)

    def bounds(self, signal: Signal, key: tuple[str, Any]) -> None:
        return None

    def _told(self, signal: Signal, key: tuple[str, Any]) -> Any:
        name, argument = key
        at = (name, None if argument is None or signal.by_model else str(argument))
        if at not in self._tape.recording.signals:
            raise self._tape.not_recorded(f"signal {name}")
        value = self._tape.recording.signals[at]
        return frozenset(value) if isinstance(value, list) else value
