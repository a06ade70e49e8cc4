"""Which adapter answers a request, and what becomes of those that are on trial.

Every request that an adapter answers in the canary is compared with a larger model's answer, and so is a sample of
those of one that answers all: chosen before anybody has answered, so that they stand for all. Beside it, what would
have answered without the adapter is asked the same. In the shadow it is those that went on to a larger model anyway.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from sqlalchemy.exc import SQLAlchemyError

from gateway.chat import Answer, ChatRequest, Json, Responder, text_of
from gateway.chunks import Chunk
from gateway.embedding.remembered import Embeddings
from gateway.errors import GatewayError
from gateway.given import ADAPTER, Adapted
from gateway.quality.agreement import agrees
from gateway.shards import OPERATOR
from gateway.shards.clusters import form_of_request
from gateway.shards.proving.cases import ALONE, is_wrapped
from gateway.shards.shelf import task_of
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.store.outcomes import OutcomeRow, Outcomes
from gateway.tasks import ended, together
from gateway.trace import AUDIT, TRIAL, RequestTrace, Trace
from gateway.training.kinds import Kind
from gateway.training.orders import TrainingOrders
from gateway.training.registry import Entry
from gateway.training.trial import ON_TRIAL, State

log = logging.getLogger(__name__)
WATCH = 0.05  # share of the requests of one that answers all
MAX_WAITING = 200  # comparisons; what comes beyond is not made
QUIET_S = 1.0  # that a comparison waits for others' requests to end


@dataclass(frozen=True)
class Place:
    """A model in a policy, that adapters may answer for.

    Args:
        base: the model as the policy asks it, with shards.
        adapters: those of the model, by their full names, as they would be asked there.
        strong: the name of the larger model that they learn from; `asks` asks it.
        is_reviewed: a person decides what is let in.
    """

    policy: str
    model: str
    base: Responder
    adapters: Mapping[str, Responder]
    strong: str
    asks: Responder
    is_reviewed: bool = False

    def responder(self, adapter: str) -> Responder:
        return self.adapters.get(adapter, self.base)


@dataclass(frozen=True)
class Curriculum:
    """What the configuration says: who may be trained for which places, and which adapters there are."""

    places: tuple[Place, ...] = ()
    entries: tuple[Entry, ...] = ()
    orders: TrainingOrders = TrainingOrders()


@dataclass(frozen=True)
class _Trial:
    """One comparison to be made. `answer`: the larger model's; None: it is still to be asked."""

    place: Place
    adapted: Adapted
    request: ChatRequest
    answer: Json | None


@dataclass
class Specialists:
    """Outlives reloads. `record` takes the traces of what is asked here, which costs as any request does."""

    embeddings: Embeddings
    record: Callable[[RequestTrace], None]
    is_busy: Callable[[], bool] = lambda: False
    rng: random.Random = field(default_factory=random.Random)
    on_outcome: Callable[[str], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.places: tuple[Place, ...] = ()
        self._entries: tuple[Entry, ...] = ()
        self._waiting: deque[_Trial] = deque()
        self._promised: dict[str, _Trial] = {}  # to be compared once the promise's own audit is in
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._complaints = Complaints(log)
        self.outcomes: Outcomes | None = None

    def take(self, curriculum: Curriculum) -> None:
        """From now on this holds."""
        self.places = curriculum.places
        on_trial = (one for one in curriculum.entries if one.state in ON_TRIAL)
        self._entries = tuple(sorted(on_trial, key=lambda one: one.created))

    def open(self, database: Database) -> None:
        self.outcomes = Outcomes(database)

    def work(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._keep_comparing(), name="adapters on trial")]

    async def close(self) -> None:
        await ended(self._tasks)
        self._tasks = []

    async def idle(self) -> None:
        """Wait until what is to be compared has been."""
        while self._waiting:
            await asyncio.sleep(0.01)

    async def pick(self, place: Place, request: ChatRequest) -> Adapted | None:
        """None where the request is of no kind that an adapter has learned."""
        entries = [one for one in self._entries if one.model == place.model and one.full_name in place.adapters]
        if not entries or request.is_prompt or not request.messages or request.media:
            return None
        tenant, form = request.owner or OPERATOR, form_of_request(request)
        kinds = [(entry, kind) for entry in entries for kind in entry.kinds]
        if not any((tenant, place.policy, form) == (kind.tenant, kind.policy, kind.form) for _, kind in kinds):
            return None
        vector = await self.embeddings.of(task_of(request))
        if vector is None:
            return None
        found = [(kind.likeness(tenant, place.policy, form, vector), entry, kind) for entry, kind in kinds]
        fits = [(alike, entry, kind) for alike, entry, kind in found if alike is not None]
        if not fits:
            return None
        nearest = max(fits, key=lambda one: one[0])[2].id
        return self._adapted([(entry, kind) for _, entry, kind in fits if kind.id == nearest], request)

    def _adapted(self, fits: Sequence[tuple[Entry, Kind]], request: ChatRequest) -> Adapted:
        """Of those that have learned this kind, the newest first to be tried."""
        live = next((one for one in reversed(fits) if one[0].state is State.LIVE), None)
        newest, kind = fits[-1]
        serving, watched, tried = live, False, newest.full_name
        if newest.state is State.CANARY and _is_chosen(newest, request):
            serving, watched = fits[-1], True
        elif newest.state is State.LIVE:
            watched = self.rng.random() < WATCH
        if serving is None:
            return Adapted(kind.id, tried=tried)
        entry, own = serving
        return Adapted(own.id, entry.full_name, tried, own.held_out.rate, own.pairs, watched)

    def settle(self, policy: str, request: ChatRequest, answer: Answer, trace: RequestTrace) -> None:
        """The answer is there: what it says of an adapter on trial. Never waits, never raises."""
        adapted = next(
            (found for hop in trace.walk() if isinstance(found := (hop.facts or {}).get(ADAPTER), Adapted)), None
        )
        if adapted is None or self.outcomes is None or len(self._waiting) >= MAX_WAITING:
            return
        place = next((one for one in self.places if one.policy == policy and adapted.tried in one.adapters), None)
        entry = self._entry(adapted.tried)
        if place is None or entry is None or not (adapted.watched or entry.state is State.SHADOW):
            return
        has_gone_on = answer.model not in (place.model, *place.adapters)
        if has_gone_on and not answer.checks_failed:
            self._enqueue(_Trial(place, adapted, request, _message(answer)))
        elif not has_gone_on and adapted.watched:
            trial = _Trial(place, adapted, request, None)
            if _is_audited(trace):
                self._promised[trace.id] = trial
                if len(self._promised) > MAX_WAITING:  # whose audits have failed
                    del self._promised[next(iter(self._promised))]
            else:
                self._enqueue(trial)

    def audited(self, trace_id: str, answer: Answer) -> None:
        """A promise has had this request's larger model asked."""
        trial = self._promised.pop(trace_id, None)
        if trial is not None:
            self._enqueue(replace(trial, answer=_message(answer)))

    def _entry(self, name: str) -> Entry | None:
        return next((one for one in self._entries if one.full_name == name), None)

    def _enqueue(self, trial: _Trial) -> None:
        self._waiting.append(trial)
        self._wake.set()

    async def _keep_comparing(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                try:
                    await self._compare(self._waiting[0])
                except GatewayError as exc:
                    self._complaints.say(f"an adapter could not be compared: {exc.message}")
                except SQLAlchemyError as exc:
                    reason = getattr(exc, "orig", None) or type(exc).__name__
                    self._complaints.say(f"what became of an adapter could not be kept: {reason}")
                except Exception:
                    log.exception("an adapter could not be compared")
                finally:
                    self._waiting.popleft()

    async def _compare(self, trial: _Trial) -> None:
        place, adapted = trial.place, trial.adapted
        wanted = trial.answer or await self.ask(place.asks, trial.request, place.policy, AUDIT)
        entry = self._entry(adapted.tried)
        if entry is None or not wanted:
            return
        right, before = await self.both(place, adapted.tried, self._before(adapted), trial.request, wanted)
        if self.outcomes is not None:
            row = OutcomeRow(time.time(), adapted.tried, adapted.kind, entry.state, entry.share, right, before)
            await self.outcomes.add(row)
        if self.on_outcome is not None:
            await self.on_outcome(adapted.tried)

    def _before(self, adapted: Adapted) -> str:
        """What answers this kind where the one that is tried does not; "": the model alone."""
        others = (one for one in self._entries if one.full_name != adapted.tried and one.state is State.LIVE)
        return next((one.full_name for one in others if any(kind.id == adapted.kind for kind in one.kinds)), "")

    async def both(
        self, place: Place, adapter: str, before: str, request: ChatRequest, wanted: Json
    ) -> tuple[bool, bool]:
        """(does the adapter say what is wanted, does what answers without it). Raises: GatewayError."""
        waited = 0.0
        while self.is_busy() and waited < QUIET_S:
            await asyncio.sleep(0.05)
            waited += 0.05
        plain = replace(request, deadline=None, caps=(), can_move_on=False, stay_with=None)
        said, other = await together(
            self.ask(place.responder(adapter), plain, place.policy, TRIAL),
            self.ask(place.responder(before), plain, place.policy, TRIAL),
        )
        return is_right(request, said, wanted), is_right(request, other, wanted)

    async def ask(self, responder: Responder, request: ChatRequest, policy: str, purpose: str) -> Json:
        """The message that it answers with, and its cost in the journal. Raises: GatewayError."""
        trace = RequestTrace(request.model, key=request.key)
        trace.policy, trace.route, trace.purpose = policy, purpose, purpose
        body = {name: value for name, value in request.body.items() if name not in ("stream", "stream_options")}
        try:
            with trace:
                answer = await responder.respond(replace(request, body=body), _nobody, trace)
                trace.answered_by, trace.status = answer.model, 200
        except GatewayError as exc:
            trace.status, trace.error = exc.status, exc.code
            raise
        finally:
            self.record(trace)
        return _message(answer)


def is_right(request: ChatRequest, said: Json, wanted: Json) -> bool:
    """Does an answer tell what is wanted? Where that is wanted alone, a sentence around it is wrong."""
    if not agrees(said, wanted):
        return False
    is_alone = any(ALONE.search(text) for role, text in request.turns if role != "assistant")
    return not (is_alone and is_wrapped(text_of(said.get("content")), text_of(wanted.get("content"))))


def _is_chosen(entry: Entry, request: ChatRequest) -> bool:
    """The same for all of a conversation, and not to be guessed from another adapter's."""
    drawn = blake2b(f"{entry.sha256}/{request.conversation}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") / 2**64 < entry.share


def _is_audited(trace: Trace) -> bool:
    """By its policy's promise."""
    return any(getattr((hop.facts or {}).get("quality"), "audits", False) for hop in trace.walk() if hop.left is None)


def _message(answer: Answer) -> Json:
    message: Json = (answer.body.get("choices") or [{}])[0].get("message") or {}
    return message


async def _nobody(chunk: Chunk) -> None:
    """Nobody listens."""
