"""A model that picks where others write: a request for one of some stated options is answered with the likeliest."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.backends.replies import as_chunk
from gateway.backends.scoring import Scorer, Scores
from gateway.chat import Answer, ChatRequest, Emit, Json, Responder
from gateway.chunks import Chunk
from gateway.closed import Closed, closed_answer
from gateway.responders.priors import Priors
from gateway.trace import Trace, new_id

BLANK = "N/A"
MOST_SHOWN = 20  # options beside the answer in its log-probabilities, as many as OpenAI shows
FACT = "typed"  # of a trace's hop of kind "typed"


class ScoringLeaf(Scorer, Responder, Protocol):
    pass


@dataclass(frozen=True)
class Typed:
    """`inner` answers all other requests, as if this were not here.

    What the model is inclined to answer anyway is taken off before the options are compared: `priors` learn it.

    Args:
        model: names the model as it is now, for `priors`.
    """

    name: str
    inner: ScoringLeaf
    priors: Priors
    model: str

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        closed = closed_answer(request) if self.inner.can_score and can_be_picked(request) else None
        if closed is None or not _may_say(closed, request):
            return await self.inner.respond(request, emit, trace)
        with trace.span("typed", self.name) as span:
            scores, picked = await self._pick(closed, request, span)
            limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
            if isinstance(limit, int) and limit < scores.tokens[picked.best]:
                return await self.inner.respond(request, emit, span)
            completion = self._completion(closed, request, scores, picked)
            if request.stream:
                await emit(Chunk(as_chunk(completion)))
            return Answer(completion)

    async def _pick(self, closed: Closed, request: ChatRequest, span: Trace) -> tuple[Scores, Picked]:
        answered = {text.strip() for role, text in request.turns if role == "assistant"}
        prior = self.priors.find(self.model, closed.options, is_taught=not answered.isdisjoint(closed.options))
        blank = blanked(request) if prior.means is None and closed.stands_apart else None
        scores = await self.inner.score(request, closed.options, span, blank=blank)
        if scores.blank and prior.means is None:
            prior.start(scores.blank)
        picked = Picked.of(prior.corrected(scores.logprobs))
        prior.note(scores.logprobs)
        facts: Json = {
            "form": closed.form,
            "options": len(closed.options),
            "p": round(math.exp(picked.logprobs[picked.best]), 4),
            "margin": round(picked.margin, 4),
            "mass": round(scores.mass, 6),
            "calls": scores.calls,
        }
        span.note(**{FACT: facts | ({"floored": scores.floored} if scores.floored else {})})
        return scores, picked

    def _completion(self, closed: Closed, request: ChatRequest, scores: Scores, picked: Picked) -> Json:
        said, tokens = closed.options[picked.best], scores.tokens[picked.best]
        prompt = scores.prompt
        usage = {
            "prompt_tokens": prompt.input_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt.input_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": prompt.cached_tokens},
        }
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": said, "refusal": None},
            "logprobs": _shown(closed, request, picked) if request.wants_logprobs else None,
            "finish_reason": "stop",
        }
        return {
            "id": f"chatcmpl-{new_id()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [choice],
            "usage": usage,
        }


@dataclass(frozen=True, slots=True)
class Picked:
    """`logprobs`: of each option, and their probabilities sum to 1; `best` is the place of the likeliest, `margin` what
    its probability is above the next one's."""

    logprobs: Sequence[float]
    best: int
    margin: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Picked:
        top = max(scores)
        whole = top + math.log(math.fsum(math.exp(score - top) for score in scores))
        logprobs = [score - whole for score in scores]
        first, second = sorted(logprobs, reverse=True)[:2]
        return cls(logprobs, scores.index(top), math.exp(first) - math.exp(second))


def can_be_picked(request: ChatRequest) -> bool:
    """One text answer to a text, sampled from nothing but what the model thinks."""
    return request.choice_count == 1 and not request.body.get("logit_bias") and not request.media


def _may_say(closed: Closed, request: ChatRequest) -> bool:
    """No option holds what would stop the answer."""
    said = request.body.get("stop")
    stops = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    return not any(stop in option for stop in stops if isinstance(stop, str) and stop for option in closed.options)


def blanked(request: ChatRequest) -> ChatRequest:
    """The same conversation, with nothing asked at its end."""
    *before, last = request.messages
    return request.with_body(messages=[*before, {**last, "content": BLANK}])


def _shown(closed: Closed, request: ChatRequest, picked: Picked) -> Json:
    """One token that is the whole option, as far as clients and checks can see."""
    wanted = request.body.get("top_logprobs")
    most = wanted if isinstance(wanted, int) else MOST_SHOWN
    order = sorted(range(len(closed.options)), key=lambda place: -picked.logprobs[place])
    rows = [_token(closed.options[place], picked.logprobs[place]) for place in order]
    return {"content": [{**rows[0], "top_logprobs": rows[:most]}], "refusal": None}


def _token(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
