"""Conditions in plain language: does a message fit a description? Judged by a model's yes or no, and by how near the
meanings of the two are.

A model's yes or no leans to one side whatever it reads. So it is first asked about the description itself and about
messages that say nothing of it, and its log-odds are held against the middle of the two (prior calibration by
contrast; against an empty message alone, a good model's plain no would become a perhaps). A model that does not keep
even those apart is not asked again: small ones tell nothing, where the cosines of sentence vectors tell most
(measured: docs/policies.md). Both are added up, as log-odds: those of a model that knows are large, and decide.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from gateway.capability.wording import wording_of
from gateway.chat import ChatRequest, Json, text_of
from gateway.checks.asking import aside, choices_of
from gateway.checks.judge import bare, mappings_in, tokens_of
from gateway.errors import GatewayError
from gateway.routing.likeness import UNRELATED_SHARE, everyday, likeness
from gateway.routing.services import ServedModel, Services
from gateway.routing.signals import Noted
from gateway.trace import CHECK, Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
PATIENCE_S = 2.0
REMEMBERED = 2048  # verdicts, by hashes of messages
TOP = 20  # likeliest tokens that are asked for
UNRELATED = ("N/A", "What is the tallest mountain in Africa?", "Write a haiku about autumn leaves.")
LEAST_APART = 1.0  # log-odds between what fits and what does not, for a model to be believed
ODDS_PER_COSINE = 25.0  # (0.31 - 0.08) / 0.09²: means and spread of cosines of messages that fit, and that do not
ODDS_OF_A_WORD, LEAST_LIKELY = 4.0, 1e-9
MOST_NEAR = 3.0  # log-odds: cosines alone are never surer than that, and a model may be
RETRY_S, REST_S = 30.0, 10.0
SIGNAL = "is_about"


@dataclass(frozen=True)
class Description:
    """`by`: the model that judges; None: the one that models.yaml names, if it does."""

    texts: tuple[str, ...]
    by: str | None = None


def question(description: str, message: str) -> list[Json]:
    """The message is data, and comes as JSON: what stands in it cannot end it. It comes last, so that engines need not
    read again what is before it."""
    written = orjson.dumps(message).decode()
    asked = f"Statement: {description}.\nA user wrote: {written}\nIs the statement true? Yes or No?"
    return [{"role": "system", "content": "Answer with Yes or No."}, {"role": "user", "content": asked}]


def log_odds_of_yes(choice: Json) -> float | None:
    """Of its first word; None where that is neither yes nor no.

    The one of the two that is not among the likeliest is at most as likely as the last of them. Without
    log-probabilities the word alone counts.
    """
    for token in tokens_of(choice):
        if bare(token.get("token")):  # no white space, no quotes
            shown = list(_likely([*mappings_in(token.get("top_logprobs"))] or [token]))
            yes, no = (sum(p for word, p in shown if word == wanted) for wanted in ("yes", "no"))
            if not yes + no:
                return None
            least = min(p for _, p in shown) if len(shown) > 1 else max(LEAST_LIKELY, 1 - shown[0][1])
            return math.log(max(yes, least)) - math.log(max(no, least))
    message = choice.get("message")
    words = text_of(message.get("content")).split() if isinstance(message, Mapping) else []
    return {"yes": ODDS_OF_A_WORD, "no": -ODDS_OF_A_WORD}.get(bare(words[0])) if words else None


def _likely(tokens: list[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for one in tokens:
        logprob = one.get("logprob")
        if isinstance(logprob, int | float) and logprob <= 0:
            yield bare(one.get("token")), max(LEAST_LIKELY, math.exp(logprob))


class Conditions:
    """One or several descriptions, any of which may fit. By cosines alone where nobody judges."""

    def __init__(self, said: Description, judge: ServedModel | None, services: Services) -> None:
        self.said, self._judge = said, judge
        self._embeddings, self._errands, self._in_turn = services.embeddings, services.errands, services.in_turn
        self._rows: NDArray[np.float32] | None = None
        self._floors: list[float] = []
        self._middles: dict[str, float | None] = {}  # of a judge's log-odds; None: it cannot tell
        self._trying: asyncio.Task[None] | None = None
        self._known: OrderedDict[bytes, Noted] = OrderedDict()
        self._preparing: asyncio.Task[None] | None = None
        self._retry_at = self._try_at = self._ask_at = 0.0

    @property
    def shown(self) -> Json:
        return {"text": list(self.said.texts)} | ({"by": self._judge.name} if self._judge is not None else {})

    async def prepare(self) -> None:
        self._begin()
        if self._judge is not None and self._judge.is_loaded():
            self._begin_trying(self._judge)
        waiting = {task for task in (self._preparing, self._trying) if task is not None}
        if waiting:
            await asyncio.wait(waiting)

    def _begin(self) -> None:
        if self._rows is None and self._preparing is None and time.monotonic() >= self._retry_at:
            self._preparing = self._errands.start(self._prepare())

    def _begin_trying(self, judge: ServedModel) -> None:
        is_tried = len(self._middles) == len(self.said.texts)
        if not is_tried and self._trying is None and time.monotonic() >= self._try_at:
            self._trying = self._errands.start(self._try_out(judge))

    async def _prepare(self) -> None:
        try:
            async with self._in_turn:
                vectors = await self._embeddings.of_known((*self.said.texts, *everyday()))
        except GatewayError as error:
            self._retry_at = time.monotonic() + RETRY_S
            log.warning("is_about: no vectors for now: %s", error.message)
        else:
            import numpy as np

            rows = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
            count = len(self.said.texts)
            common = [likeness(rows[n : n + 1], rows[count:], 1) for n in range(count)]
            self._floors = [float(np.quantile(one, UNRELATED_SHARE)) for one in common]
            self._rows = rows[:count]
        finally:
            self._preparing = None

    async def judge(self, request: ChatRequest, trace: Trace) -> Noted:
        text = wording_of(request).asked
        if not text:
            return Noted(False, {"abstained": True, "why": "no text"})
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return Noted(known.value, {**known.note, "remembered": True})
        found = await self._look(text, request, trace)
        if "why" not in found.note:  # else it is worth another try
            self._known[key] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    async def _look(self, text: str, request: ChatRequest, trace: Trace) -> Noted:
        near = await self._cosines(text)
        note: Json = {} if near is None else {"near": round(max(near), 2)}
        if self._judge is None:
            if near is None:
                return Noted(False, {"abstained": True, "why": "no vectors, and nobody to judge"})
            return Noted(max(near) > 0, note)
        said, why = await self._asked(self._judge, text, request, trace)
        if why:
            return Noted(near is not None and max(near) > 0, {**note, "why": why})
        sums = [odds + (0.0 if near is None else near[n]) for n, odds in enumerate(said)]
        can_tell = any(middle is not None for middle in self._middles.values())
        return Noted(max(sums) > 0, note | ({"said": round(max(said), 2)} if can_tell else {"judge": "cannot tell"}))

    async def _cosines(self, text: str) -> list[float] | None:
        """Log-odds of each description, by how near it is; None where there are no vectors."""
        if self._rows is None:
            self._begin()
            return None
        vector = await self._embeddings.of(text)
        if vector is None:
            return None
        import numpy as np

        cosines = np.vecdot(self._rows, np.frombuffer(vector, "<f4"))
        pairs = zip(cosines.tolist(), self._floors, strict=True)
        odds = (ODDS_PER_COSINE * (cosine - floor) for cosine, floor in pairs)
        return [max(-MOST_NEAR, min(MOST_NEAR, one)) for one in odds]

    async def _try_out(self, judge: ServedModel) -> None:
        """Beside requests: what the judge makes of each description itself, and of messages about anything else."""
        try:
            trace = Trace("request", SIGNAL)
            for one in self.said.texts:
                odds = [await self._odds(judge, one, text, _soon(), trace) for text in (one, *UNRELATED)]
                told = [value for value in odds if value is not None]
                if len(told) < len(odds):
                    self._try_at = time.monotonic() + RETRY_S
                    return
                fits, others = told[0], sum(told[1:]) / len(UNRELATED)
                self._middles[one] = (fits + others) / 2 if fits - others >= LEAST_APART else None
                if self._middles[one] is None:
                    log.warning("is_about: model '%s' cannot tell what this is: %s", judge.name, one)
        finally:
            self._trying = None

    async def _asked(
        self, judge: ServedModel, text: str, request: ChatRequest, trace: Trace
    ) -> tuple[list[float], str]:
        """What the model's word adds to each description; or why there is none."""
        if judge.responder is None or not judge.is_loaded():
            judge.wake()
            return [], f"model '{judge.name}' is not loaded"
        if len(self._middles) < len(self.said.texts):
            self._begin_trying(judge)
            return [], f"model '{judge.name}' is being tried out"
        if time.monotonic() < self._ask_at:
            return [], f"model '{judge.name}' did not say in time a moment ago"
        added, request = [], _soon(request)
        for one in self.said.texts:
            middle = self._middles[one]
            if middle is None:  # it cannot tell
                added.append(0.0)
                continue
            with trace.span(CHECK, SIGNAL) as span:
                odds = await self._odds(judge, one, text, request, span)
            if odds is None:  # others are not to wait for it, too
                self._ask_at = time.monotonic() + REST_S
                return [], f"model '{judge.name}' did not say in time"
            added.append(odds - middle)
        return added, ""

    async def _odds(
        self, judge: ServedModel, description: str, message: str, request: ChatRequest, span: Trace
    ) -> float | None:
        assert judge.responder is not None  # else nobody asks it
        body = {
            "model": judge.name,
            "messages": question(description, message),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": TOP,
        }
        found = await choices_of(judge.responder, aside(request, body), span)
        return log_odds_of_yes(found[0]) if found else None


def _soon(request: ChatRequest | None = None) -> ChatRequest:
    return (request or ChatRequest({})).before(time.monotonic() + PATIENCE_S)
