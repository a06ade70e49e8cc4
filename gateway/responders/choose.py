"""Ask whom it pays to ask: before each hop the rule of `capability/choosing.py` picks who is next, or ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from gateway.capability.budget import Budget
from gateway.capability.cards import Card
from gateway.capability.choosing import Choice, Option, Rate, choose
from gateway.capability.estimates import Asked, Estimate, after_passing, drawn, estimate
from gateway.capability.profiles import CLUSTER, PASSED, Look, Profiles
from gateway.chat import Answer, ChatRequest, Emit, Json, Responder
from gateway.chunks import Chunk
from gateway.errors import BackendError, ChecksFailed, ContextTooLong
from gateway.responders.cascade import models_in
from gateway.responders.hold import WHOLE, Hold, Rejected, Tier
from gateway.tokens import estimate_request
from gateway.trace import Trace

NO_EXPLORE = "x-gateway-no-explore"
UNSURE = "unsure"  # why a draft was left that has passed its checks


class WorthOf(Protocol):
    """What a draft that has passed its checks is worth, in [0, 1], from their scores by name; None where that is not
    known for this model."""

    def __call__(self, model: str, scores: Mapping[str, float], /) -> float | None: ...


def unknown(model: str, scores: Mapping[str, float], /) -> float | None:
    return None


@dataclass(frozen=True)
class Candidate:
    """One of those to choose from. The tier's name is what its outcomes are noted under. `load_s`: seconds until it
    could begin, where its model sleeps."""

    tier: Tier
    card: Card = Card()
    load_s: Callable[[], float] = float

    @property
    def key(self) -> str:
        return self.tier.name

    @property
    def has_checks(self) -> bool:
        return bool(self.tier.checks)


@dataclass(frozen=True)
class Terms:
    """What quality is worth, in which unit costs are counted, and which share of requests is for exploring."""

    rate: Rate = Rate()
    budget: Budget = Budget()
    explore: float = 0.0


@dataclass(frozen=True)
class Choose:
    """Errors and failed checks lead to another candidate, as in a cascade; so does an answer that is not sure enough.
    `on_exhausted`: as of `Cascade`."""

    candidates: Sequence[Candidate]
    terms: Terms
    profiles: Profiles
    on_exhausted: Literal["best", "error"] = "best"
    worth_of: WorthOf = field(default=unknown)

    @property
    def members(self) -> Sequence[Responder]:
        return [candidate.tier.responder for candidate in self.candidates]

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        with trace.span("choose", "choose") as span:
            look = await self._look(request)
            course = Course(self, request, look, self._explores(request))
            span.note(**course.facts)
            return await Hops(self, request, emit, span, course).answer()

    async def explain(self, request: ChatRequest) -> Json:
        """What it would do first, and with whom; nobody is asked."""
        look = await self._look(request)
        course = Course(self, request, look, explores=False)
        choice = course.choose()
        alone = {option.key: choose([option], {}, Rate(choice.lambda_)).value for option in course.options}
        costs = {option.key: option.cost for option in course.options}
        candidates = [{**one, "value": round(alone[one["model"]], 4)} for one in course.facts["candidates"]]
        return {
            "candidates": candidates,
            "clusters": [{"cluster": number, "weight": round(weight, 4)} for number, weight in look.places],
            "lambda": round(choice.lambda_, 6),
            "unit": self.terms.budget.unit,
            "set": sorted(choice.members, key=costs.__getitem__),
            "value": round(choice.value, 4),
            "quality": round(choice.quality, 4),
        }

    async def _look(self, request: ChatRequest) -> Look:
        cards = [candidate.card for candidate in self.candidates]
        return await self.profiles.look(
            request,
            wants_topic=any(card.good_at for card in cards),
            wants_language=any(card.languages for card in cards),
        )

    def _explores(self, request: ChatRequest) -> bool:
        if request.stay_with is not None or NO_EXPLORE in request.headers:
            return False
        return self.profiles.rng.random() < self.terms.explore


class Course:
    """Where one request stands: what its candidates are expected to make of it, and what they have made of it."""

    def __init__(self, node: Choose, request: ChatRequest, look: Look, explores: bool) -> None:
        started = time.perf_counter()
        self.terms = node.terms
        able = _able(node.candidates, request)
        asked = Asked(estimate_request(request.body), _most_tokens(request))
        table, places = node.profiles.table, look.places
        self.estimates: dict[str, Estimate] = {
            one.key: estimate(table, places, one, asked, look.about, one.load_s()) for one in able
        }
        used = drawn(self.estimates, node.profiles.rng.betavariate) if explores else self.estimates
        self.options: list[Option] = self.terms.budget.options(used)
        self.by_key = {one.key: one for one in able}
        self.answered: dict[str, float] = {}
        self.decisions: list[Json] = []
        candidates = [{"model": key, **one.as_json()} for key, one in self.estimates.items()]
        self.facts: Json = {"explored": explores, "candidates": candidates, "decisions": self.decisions}
        if places:
            self.facts[CLUSTER] = places[0][0]
        self._took_s = time.perf_counter() - started

    def choose(self, answered: Mapping[str, float] | None = None) -> Choice:
        """Args: `answered` in place of what is known."""
        return choose(self.options, self.answered if answered is None else answered, self.terms.rate)

    def next(self) -> tuple[Candidate | None, bool]:
        """Who is asked now, and whether somebody else may be asked after that; None where that is the end."""
        started = time.perf_counter()
        choice = self.choose() if self.options else None
        key = choice.next if choice is not None else None
        may_go_on = key is not None and self.may_go_on(key)
        took_s, self._took_s = self._took_s + time.perf_counter() - started, 0.0
        if choice is not None:
            self.decisions.append(_decision(choice, self.answered, took_s))
        return (None, False) if key is None else (self.by_key[key], may_go_on)

    def may_go_on(self, key: str) -> bool:
        """Is there an outcome of asking it after which somebody else would be asked?"""
        if len(self.answered) + 1 >= len(self.options):
            return False
        outcomes = [self.worth_passed(key)]
        if self.by_key[key].has_checks:
            outcomes.insert(0, 0.0)  # the likeliest to go on: mostly it settles it
        return any(self.choose({**self.answered, key: worth}).next is not None for worth in outcomes)

    def worth_passed(self, key: str) -> float:
        p = self.estimates[key].p
        return after_passing(p) if self.by_key[key].has_checks else p

    def lose(self, key: str) -> None:
        """It cannot answer this request."""
        self.options = [option for option in self.options if option.key != key]


@dataclass(frozen=True)
class Draft:
    """A whole answer that is held."""

    span: Trace
    answer: Answer
    hold: Hold
    failed: list[str]
    worth: float


class Hops:
    """One request on its way from candidate to candidate."""

    def __init__(self, node: Choose, request: ChatRequest, emit: Emit, span: Trace, course: Course) -> None:
        self._node, self._request, self._emit, self._span, self._course = node, request, emit, span, course
        self._drafts: list[Draft] = []
        self._error: BackendError | None = None
        self._failed: list[str] = []

    async def answer(self) -> Answer:
        course = self._course
        candidate, may_go_on = self._first() or course.next()
        while candidate is not None:
            answer = await self._ask(candidate, may_go_on)
            if answer is not None:
                return answer
            candidate, may_go_on = course.next()
        return await self._best()

    def _first(self) -> tuple[Candidate, bool] | None:
        """The model whose calls are answered, where the request stays with one."""
        stay_with = self._request.stay_with
        for candidate in self._course.by_key.values():
            if stay_with is not None and stay_with in models_in(candidate.tier.responder):
                return candidate, len(self._course.options) > 1
        return None

    async def _ask(self, candidate: Candidate, may_go_on: bool) -> Answer | None:
        """None: it is not the answer, or not yet."""
        course, key = self._course, candidate.key
        can_reject = may_go_on or self._node.on_exhausted == "error"
        tier = self._held(candidate.tier, may_go_on, can_reject)
        self._wake_others(key, tier)
        with self._span.span("tier", key) as span:
            hold = Hold(self._emit, self._request, tier, span, can_reject=can_reject)
            is_kept = self._request.stay_with is not None
            others = len(course.options) - len(course.answered) > 1
            try:
                asked = tier.ask(self._request, can_reject=can_reject, can_move_on=others and not is_kept)
                answer = await tier.responder.respond(asked, hold, span)
            except Rejected as rejected:
                if rejected.gate is not hold:
                    raise
                self._note_failed(span, tier, rejected.failed)
                course.answered[key] = 0.0
                return None
            except BackendError as error:
                if hold.spoken:
                    raise
                self._note_error(span, tier, error)
                course.lose(key)
                return None
            if hold.released:
                failed = [*hold.failed, *await self._judge_late(tier, span, answer, hold)]
                return self._shown(span, tier, hold, answer, failed)
            return await self._judge(candidate, tier, span, hold, answer)

    def _held(self, tier: Tier, may_go_on: bool, can_reject: bool) -> Tier:
        """All of it is held where somebody may be asked after it; nothing where nobody may."""
        if may_go_on and tier.hold == 0:
            return replace(tier, hold=WHOLE)
        return replace(tier, hold=0) if tier.hold and self._request.stream and not can_reject else tier

    def _wake_others(self, key: str, tier: Tier) -> None:
        """Those whom the rule means to ask after this one may sleep."""
        decisions = self._course.decisions
        for other in decisions[-1]["set"] if decisions else ():
            wake = self._course.by_key[other].tier.wake
            if wake is not None and other != key and other not in self._course.answered:
                wake(tier.odds.of_leaving)

    async def _judge(self, candidate: Candidate, tier: Tier, span: Trace, hold: Hold, answer: Answer) -> Answer | None:
        """A whole draft, of which nobody has seen a word."""
        course, key = self._course, candidate.key
        failed = await hold.judge(answer)
        told = None if failed else self._told(span, key, candidate)
        worth = 0.0 if failed else course.worth_passed(key) if told is None else told
        course.answered[key] = worth
        if failed:
            self._note_failed(span, tier, failed)
        elif course.choose().next is None and worth >= max(course.answered.values()):
            await hold.release()
            return self._shown(span, tier, hold, answer, failed, told)
        else:
            if candidate.has_checks:
                span.note(**{PASSED: 1.0 if told is None else told})
            tier.odds.note(left=True)
            span.leave(UNSURE)
        self._drafts.append(Draft(span, answer, hold, failed, worth))
        return None

    def _told(self, span: Trace, key: str, candidate: Candidate) -> float | None:
        """What the scores of its checks tell of a draft that has passed them."""
        if not candidate.has_checks:
            return None
        scores = {
            name: float(value)
            for name, value in (span.facts or {}).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        told = self._node.worth_of(key, scores)
        return None if told is None else min(1.0, max(0.0, told))

    async def _judge_late(self, tier: Tier, span: Trace, answer: Answer, hold: Hold) -> list[str]:
        """What has streamed live is judged for the record: names of the checks that it fails."""
        checks = [check for check in tier.checks if not check.costly]
        if tier.hold != 0 or not checks:
            return []
        late = Hold(_discard, self._request, replace(tier, checks=checks), span, can_reject=False)
        return await late.judge(answer)

    def _shown(
        self, span: Trace, tier: Tier, hold: Hold, answer: Answer, failed: Sequence[str], told: float | None = None
    ) -> Answer:
        if tier.checks:
            worth = 0.0 if failed else 1.0 if told is None else told
            span.note(judged=True, **{PASSED: worth})
        tier.odds.note(left=False)
        return replace(hold.shown(answer), checks_failed=(*answer.checks_failed, *failed))

    def _note_failed(self, span: Trace, tier: Tier, failed: list[str]) -> None:
        self._failed = failed
        span.note(judged=True)
        span.leave(failed[0])
        tier.odds.note(left=True)

    def _note_error(self, span: Trace, tier: Tier, error: BackendError) -> None:
        span.leave(error.reason)
        tier.odds.note(left=True)
        before = self._error  # where it fits nobody, the client is to hear of the one with most room
        if isinstance(error, ContextTooLong) and isinstance(before, ContextTooLong) and error.context < before.context:
            return
        self._error = error

    async def _best(self) -> Answer:
        """The draft that is worth most; of those that failed their checks the one that failed fewest."""
        passed = [draft for draft in self._drafts if not draft.failed]
        if self._drafts and (passed or self._node.on_exhausted == "best"):
            best = max(reversed(self._drafts), key=lambda draft: (not draft.failed, draft.worth, -len(draft.failed)))
            await best.hold.release()
            for hop in (best.span, *best.span.models()):
                hop.left = None if hop.left == UNSURE else hop.left
            return replace(best.hold.shown(best.answer), checks_failed=(*best.answer.checks_failed, *best.failed))
        if self._error is not None and (not self._failed or self._node.on_exhausted == "best"):
            raise self._error
        raise ChecksFailed(f"no model's answer passed its checks: {', '.join(self._failed)}")


def _able(candidates: Sequence[Candidate], request: ChatRequest) -> Sequence[Candidate]:
    """Those that take what the request holds; all where none does, so that one of them says so."""
    kinds = {kind for kind, _ in request.media}
    return [one for one in candidates if kinds <= one.card.accepts] or candidates


def _most_tokens(request: ChatRequest) -> float | None:
    limits = [request.body.get(name) for name in ("max_completion_tokens", "max_tokens")]
    numbers = [limit for limit in limits if isinstance(limit, int) and not isinstance(limit, bool)]
    return float(min(numbers)) if numbers else None


def _decision(choice: Choice, answered: Mapping[str, float], took_s: float) -> Json:
    decision: dict[str, Any] = {
        "set": sorted(choice.members),
        "next": choice.next,
        "value": round(choice.value, 4),
        "lambda": round(choice.lambda_, 6),
        "us": round(took_s * 1e6, 1),
    }
    if answered:
        decision["answered"] = {key: round(worth, 4) for key, worth in answered.items()}
    return decision


async def _discard(chunk: Chunk) -> None:
    pass
