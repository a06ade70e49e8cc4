"""`gateway learn probe`: a new model's row in the table of outcomes, from questions whose answers are known."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.capability.table import Cell, Key
from gateway.chat import ChatRequest, CostCap, Json, Responder
from gateway.checks import with_parts
from gateway.checks.judge import Judge
from gateway.chunks import Chunk
from gateway.draft import Draft
from gateway.errors import BackendError, CostCapReached
from gateway.learning.probe_prompts import ProbePrompt
from gateway.tasks import together
from gateway.trace import Trace

CONCURRENT = 2
TIMEOUT_S = 120.0  # of one question
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Answered:
    """One question. `score` None: nobody could say whether it is right; `error`: why there is no answer."""

    prompt: ProbePrompt
    score: float | None
    latency_s: float
    cost_usd: float | None
    output_tokens: int | None
    answer: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Probed:
    """`stopped`: the money was spent before all had been asked. `cost_usd`: what is known of it, a judge's too."""

    model: str
    answered: tuple[Answered, ...]
    took_s: float
    cost_usd: float
    stopped: bool

    def by_topic(self) -> Json:
        topics: dict[str, list[Answered]] = defaultdict(list)
        for one in self.answered:
            topics[one.prompt.topic].append(one)
        return {name: _told(topics[name]) for name in sorted(topics)} | {"all": _told(self.answered)}

    def cells(self, clusters: Sequence[int | None], now: float) -> dict[Key, Cell]:
        """What it has to say, by cluster of its questions. Errors say nothing of what a model can do."""
        found: dict[Key, Cell] = {}
        for one, cluster in zip(self.answered, clusters, strict=True):
            if one.error is None:
                cell = found.setdefault((-1 if cluster is None else cluster, self.model), Cell(now))
                cell.note(one.score, one.cost_usd, one.latency_s, one.output_tokens)
        return found


def _told(answered: Sequence[Answered]) -> Json:
    scores = [one.score for one in answered if one.score is not None]
    done = [one for one in answered if one.error is None]
    costs = [one.cost_usd for one in done if one.cost_usd is not None]
    lengths = [one.output_tokens for one in done if one.output_tokens is not None]
    return {
        "asked": len(answered),
        "scored": len(scores),
        "right": _mean(scores),
        "errors": len(answered) - len(done),
        "latency_s": _mean([one.latency_s for one in done]),
        "cost_usd": _mean(costs),
        "output_tokens": _mean(lengths),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


async def probe(
    name: str,
    model: Responder,
    prompts: Sequence[ProbePrompt],
    *,
    judge: Responder | None = None,
    max_cost_usd: float | None = None,
    step: Step | None = None,
) -> Probed:
    """Ask them, two at a time. Under a limit of money a model of unknown price is not asked at all.

    Raises: BackendError where the model answers none of the first questions.
    """
    spent = Trace("probe", name)
    caps = (CostCap(spent, max_cost_usd),) if max_cost_usd is not None else ()
    started, waiting = time.monotonic(), list(reversed(prompts))
    answered: list[Answered] = []
    failures: list[BackendError] = []
    stopped = False

    async def work() -> None:
        nonlocal stopped
        while waiting and not stopped:
            prompt = waiting.pop()
            try:
                answered.append(await _ask(name, model, prompt, judge, caps, spent))
            except CostCapReached as exc:
                stopped = True
                failures.append(exc)
            except BackendError as exc:
                failures.append(exc)
                answered.append(Answered(prompt, None, 0.0, None, None, error=exc.reason))
                if len(failures) == len(answered) and len(failures) >= 2 * CONCURRENT:
                    waiting.clear()  # it answers nothing: no use in going on
            if step is not None:
                step(len(answered), len(prompts))

    await together(*(work() for _ in range(CONCURRENT)))
    if failures and all(one.error is not None for one in answered):
        raise failures[0]
    order = {id(prompt): place for place, prompt in enumerate(prompts)}
    answered.sort(key=lambda one: order[id(one.prompt)])
    return Probed(name, tuple(answered), time.monotonic() - started, spent.known_cost_usd, stopped)


async def _ask(
    name: str,
    model: Responder,
    prompt: ProbePrompt,
    judge: Responder | None,
    caps: tuple[CostCap, ...],
    spent: Trace,
) -> Answered:
    request = ChatRequest(prompt.body | {"model": name}, caps=caps, deadline=time.monotonic() + TIMEOUT_S)
    with spent.span("probe", prompt.topic) as span:
        started = time.monotonic()
        answer = await model.respond(request, _discard, span)
        took_s = time.monotonic() - started
        text = next(iter(answer.texts), "")
        usage, cost_usd = _spent(span)
        if prompt.is_checkable:
            score: float | None = float(prompt.is_right(text))
        else:
            score = None if judge is None else await _judged(judge, request, answer.body, span)
        return Answered(prompt, score, took_s, cost_usd, usage, text)


async def _judged(judge: Responder, request: ChatRequest, body: Json, span: Trace) -> float | None:
    check: Any = with_parts(Judge(model="judge"), asked=judge)
    verdict = await check(request, Draft.of(body), span)
    score: float | None = verdict.score
    return score


def _spent(span: Trace) -> tuple[int | None, float | None]:
    """Tokens of the answer, and what they cost."""
    spends = [hop.spend for hop in span.models() if hop.spend is not None]
    if not spends:
        return None, None
    costs = [spend.cost_usd for spend in spends]
    cost_usd = None if None in costs else sum(cost for cost in costs if cost is not None)
    return sum(spend.usage.output_tokens for spend in spends), cost_usd


async def _discard(chunk: Chunk) -> None:
    pass
