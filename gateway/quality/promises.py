"""The promises of all policies in a running server: drafts are judged under them, labels come in from larger models'
answers, and some accepted answers are asked of the larger model in the background."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from sqlalchemy.exc import SQLAlchemyError

from gateway.chat import Answer, ChatRequest, Json, Responder
from gateway.chunks import Chunk
from gateway.draft import Draft
from gateway.errors import GatewayError
from gateway.quality.agreement import agrees
from gateway.quality.certify import Reading
from gateway.quality.combiner import COLD, Combiner
from gateway.quality.features import features_of
from gateway.quality.promise import Promise, Status, Terms
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.store.drafts import ArmRow, DraftRow, Drafts
from gateway.tasks import ended
from gateway.trace import AUDIT, RequestTrace, Trace

log = logging.getLogger(__name__)
FACT = "quality"  # of a tier's hop
MAX_WAITING = 200  # audits; what comes beyond is not begun
KEEP_EVERY_S = 5.0
DAY_S = 86_400.0


def arm_of(policy: str | None, route: str | None, model: str | None) -> str:
    """The name of a tier's promise."""
    return f"{policy}/{route}/{model}"


@dataclass(frozen=True)
class Pledge:
    """What a policy's `quality` says of one tier of one of its cascades.

    Args:
        arm: names it, for ever: policy and place.
        policy: its name.
        model: whose drafts are judged.
        fingerprint: changes with the model and with how the tier is written: what was learned of another does not hold.
        strong: the model that the promise is measured against, and `asks` asks it.
        audit: share of requests whose drafts are compared with the strong model's answer, once certified.
        audit_usd_per_day: what audits of accepted answers may cost; None: no limit.
        escalates: until it is certified, no draft is accepted; else those that pass the checks are.
        reading: see `certify`.
        is_fixed: thresholds stay as they were learned.
    """

    arm: str
    policy: str
    model: str
    fingerprint: str
    strong: str
    asks: Responder
    target: float = 0.99
    confidence: float = 0.95
    audit: float = 0.05
    audit_usd_per_day: float | None = None
    escalates: bool = False
    reading: Reading = "strict"
    is_fixed: bool = False
    learns: bool = False

    @property
    def terms(self) -> Terms:
        return Terms(self.target, self.confidence, self.audit, self.reading, fixed=self.is_fixed)


@dataclass(frozen=True)
class Judged:
    """A draft under a promise; lives in its tier's trace. `draft`: the message, for a comparison later."""

    pledge: Pledge
    draft: Json
    features: Mapping[str, float]
    p_correct: float
    configured: bool
    accepts: bool
    audits: bool
    generation: int

    def as_json(self) -> Json:
        """For the journal: no words."""
        return {
            "arm": self.pledge.arm,
            "p_correct": round(self.p_correct, 4),
            "accepts": self.accepts,
            "audits": self.audits,
            "features": {name: round(value, 4) for name, value in self.features.items()},
        }


@dataclass
class Arm:
    pledge: Pledge
    promise: Promise
    combiner: Combiner
    version: int = 0  # grows with what is noted
    spent_usd: float = 0.0  # on audits, in the day that began at `day`
    day: float = field(default_factory=time.time)
    is_changed: bool = False

    def may_audit(self, now: float) -> bool:
        if now - self.day >= DAY_S:
            self.spent_usd, self.day = 0.0, now
        limit = self.pledge.audit_usd_per_day
        return limit is None or self.spent_usd < limit


@dataclass(frozen=True)
class Settled:
    """What a request has come to for one promise. `regret`: see `Promise.note`."""

    row: DraftRow
    regret: float | None
    generation: int


@dataclass(frozen=True)
class ArmState:
    """For the promises of another process to `adopt`."""

    fingerprint: str
    version: int
    state: Json
    audit_rate: float
    spent_usd: float
    day: float


@dataclass(frozen=True)
class _Audit:
    trace_id: str
    request: ChatRequest
    judged: Judged


class Promises:
    """Outlives reloads. `record` takes the traces of audits, which cost as any request does; `learn` takes the larger
    model's answer, the name of the model that it was compared with, and that one's trace, where a policy learns."""

    def __init__(
        self,
        record: Callable[[RequestTrace], None],
        learn: Callable[[str, ChatRequest, Answer, RequestTrace, str, str], None] = lambda *_: None,
        rng: random.Random | None = None,
    ) -> None:
        self._record, self._learn = record, learn
        self._rng = rng or random.Random()
        self._arms: dict[str, Arm] = {}
        self._stored: dict[str, ArmRow] = {}
        self._seeds: dict[str, Json] = {}  # states by arm, as learned
        self._combiners: dict[str, Combiner] = {}
        self._waiting: deque[_Audit] = deque()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._complaints = Complaints(log)
        self.drafts: Drafts | None = None
        self.on_settled: Callable[[Settled], None] = self.take  # or another process's, as the next
        self.on_spent: Callable[[str, float], None] = self.spend

    async def start(self, database: Database, max_age_days: float = 30) -> None:
        self.drafts = Drafts(database, max_age_days)
        await self.drafts.start()
        self._stored = {row.name: row for row in await self.drafts.arms()}
        for name, arm in list(self._arms.items()):
            self._arms[name] = self._made(arm.pledge)
        self._tasks = [
            asyncio.create_task(self._keep_auditing(), name="audits"),
            asyncio.create_task(self._keep_states(), name="promises are kept"),
        ]

    async def close(self) -> None:
        await ended(self._tasks)
        self._tasks = []
        if self.drafts is not None:
            await self._keep()
            await self.drafts.close()

    def learned(self, combiners: Mapping[str, Combiner], promises: Mapping[str, Json]) -> None:
        """What `learned/` holds: combiners by arm or model, states of promises by arm. Arms of which more is
        known already keep what they know."""
        self._combiners, self._seeds = dict(combiners), dict(promises)

    def pledge(self, pledge: Pledge) -> Arm:
        """A policy says so: from now on this holds for the arm."""
        known = self._arms.get(pledge.arm)
        if known is None or known.promise.fingerprint != self._fingerprint(pledge):
            known = self._arms[pledge.arm] = self._made(pledge)
        else:
            known.pledge, known.combiner = pledge, self._combiner(pledge)
        return known

    def _combiner(self, pledge: Pledge) -> Combiner:
        return self._combiners.get(pledge.arm) or self._combiners.get(pledge.model) or COLD

    def _fingerprint(self, pledge: Pledge) -> str:
        return f"{pledge.fingerprint}-{self._combiner(pledge).fingerprint}"

    def _made(self, pledge: Pledge) -> Arm:
        fingerprint = self._fingerprint(pledge)
        terms = pledge.terms
        stored, seed = self._stored.get(pledge.arm), self._seeds.get(pledge.arm)
        promise = Promise(terms, fingerprint)
        for state in (stored.state if stored is not None else None, seed):
            if state is None or promise.tally.requests or promise.status is not Status.UNCERTIFIED:
                continue
            try:
                promise = Promise.from_json(state, terms, fingerprint)
            except ValueError as exc:
                self._complaints.say(f"the promise of '{pledge.arm}' begins anew: {exc}")
        return Arm(pledge, promise, self._combiner(pledge))

    def status_of(self, arms: tuple[str, ...]) -> str:
        """Of a policy: `certified` where all its promises are, else `uncertified`."""
        for name in arms:
            arm = self._arms.get(name)
            if arm is None or arm.promise.status is not Status.CERTIFIED:
                return "uncertified"
        return "certified"

    def judge(self, pledge: Pledge, request: ChatRequest, draft: Draft, trace: Trace, *, configured: bool) -> Judged:
        """Is this draft good enough? What is decided now is noted when the request is settled."""
        configured = configured and not pledge.escalates
        arm = self._arms.get(pledge.arm) or self.pledge(pledge)
        completion = draft.completion()
        features = features_of(request, completion, trace)
        p_correct = arm.combiner.predict(features)
        may_audit = arm.may_audit(time.time()) and len(self._waiting) < MAX_WAITING and self.drafts is not None
        decided = arm.promise.decide(p_correct, self._rng, configured)
        message = completion["choices"][0]["message"] if completion["choices"] else {}
        audits = decided.audit and may_audit  # which hangs on no draft, so that the sample stays uniform
        return Judged(pledge, message, features, p_correct, configured, decided.accept, audits, decided.generation)

    def settle(self, request: ChatRequest, answer: Answer, trace: RequestTrace) -> None:
        """The answer is there: what it says of the drafts before it. Never waits, never raises."""
        for hop in trace.walk():
            facts = hop.facts or {}
            judged = facts.get(FACT)
            if not isinstance(judged, Judged):
                if hop.kind == "tier" and hop.left is not None and facts.get("judged"):
                    self._note_veto(trace, hop.name)
                continue
            is_accepted = hop.left is None
            if not is_accepted and answer.model == judged.pledge.strong and not answer.checks_failed:
                self._note(trace.id, judged, accepted=False, same=_is_same(judged, answer))
            elif is_accepted and judged.audits:
                self._waiting.append(_Audit(trace.id, request, judged))
                self._wake.set()
            else:
                self._note(trace.id, judged, accepted=is_accepted, same=None)

    def _note_veto(self, trace: RequestTrace, model: str) -> None:
        """A hard check has failed a draft: part of the traffic, of which nothing is accepted at any threshold."""
        arm = self._arms.get(arm_of(trace.policy, trace.route, model))
        if arm is None:
            return
        decided = arm.promise.decide(0.0, self._rng)
        judged = Judged(arm.pledge, {}, {}, 0.0, False, False, decided.audit, 0)
        self.on_settled(Settled(_row(trace.id, arm, judged, False, None), 0.0, decided.generation))

    def _note(self, trace_id: str, judged: Judged, *, accepted: bool, same: bool | None) -> None:
        arm = self._arms.get(judged.pledge.arm)
        if arm is None:
            return
        regret = None if same is None else float(not same)
        self.on_settled(Settled(_row(trace_id, arm, judged, accepted, same), regret, judged.generation))

    def take(self, settled: Settled) -> None:
        """Count it, where its promise is still the same."""
        row = settled.row
        arm = self._arms.get(row.arm)
        if arm is None or arm.promise.fingerprint != row.fingerprint:
            return
        arm.promise.note(row.score, row.accepted, row.audited, settled.regret, settled.generation)
        arm.is_changed = True
        arm.version += 1
        if self.drafts is not None:
            self.drafts.add(row)

    def spend(self, name: str, usd: float) -> None:
        """An audit has cost that."""
        arm = self._arms.get(name)
        if arm is not None:
            arm.spent_usd += usd
            arm.version += 1

    def states(self, told: Mapping[str, tuple[str, int]]) -> dict[str, ArmState]:
        """Those that have changed since. Args: `told`: fingerprint and version, by arm."""
        return {
            name: ArmState(
                arm.promise.fingerprint,
                arm.version,
                arm.promise.as_json(),
                arm.promise.audit_rate,
                arm.spent_usd,
                arm.day,
            )
            for name, arm in self._arms.items()
            if arm.version and told.get(name) != (arm.promise.fingerprint, arm.version)
        }

    def adopt(self, states: Mapping[str, ArmState]) -> None:
        """What another process knows, which counts for this one too."""
        for name, told in states.items():
            arm = self._arms.get(name)
            if arm is not None and arm.promise.fingerprint == told.fingerprint:
                arm.promise = Promise.from_json(told.state, arm.pledge.terms, told.fingerprint)
                arm.promise.audit_rate = told.audit_rate
                arm.spent_usd, arm.day = told.spent_usd, told.day

    async def _keep_auditing(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                audit = self._waiting[0]
                try:
                    await self._audit(audit)
                except Exception:
                    log.exception("an audit went wrong")
                finally:
                    self._waiting.popleft()

    async def _audit(self, audit: _Audit) -> None:
        """Ask the strong model what it would have said. Where it says nothing, nothing is known."""
        pledge = audit.judged.pledge
        trace = RequestTrace(pledge.strong, key=audit.request.key)
        trace.policy, trace.route, trace.purpose = pledge.policy, "audit", AUDIT
        body = {name: value for name, value in audit.request.body.items() if name not in ("stream", "stream_options")}
        request = replace(audit.request, body=body, deadline=None, caps=(), can_move_on=False, stay_with=None)
        answer = None
        try:
            with trace:
                answer = await pledge.asks.respond(request, _discard, trace)
                trace.answered_by, trace.status = answer.model, 200
        except GatewayError as exc:
            trace.status, trace.error = exc.status, exc.code
            self._complaints.say(f"audits of policy '{pledge.policy}' get no answer: {exc.message}")
        finally:
            self._record(trace)
        self.on_spent(pledge.arm, trace.known_cost_usd)
        same = None if answer is None else _is_same(audit.judged, answer)
        self._note(audit.trace_id, audit.judged, accepted=True, same=same)
        if answer is not None and pledge.learns:  # also where both say the same: it shows how the task is done
            self._learn(pledge.policy, audit.request, answer, trace, pledge.model, audit.trace_id)

    async def _keep_states(self) -> None:
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            await self._keep()

    async def _keep(self) -> None:
        changed = [arm for arm in self._arms.values() if arm.is_changed]
        if not changed or self.drafts is None:
            return
        rows = [
            ArmRow(arm.pledge.arm, arm.promise.fingerprint, {**arm.promise.as_json(), "report": told(arm)})
            for arm in changed
        ]
        try:
            await self.drafts.keep(rows)
        except SQLAlchemyError as exc:
            self._complaints.say(f"promises cannot be stored, and are tried again: {type(exc).__name__}")
            return
        for arm in changed:
            arm.is_changed = False

    async def idle(self) -> None:
        """Wait until the audits that are due have been made."""
        while self._waiting:
            await asyncio.sleep(0.01)

    def report(self) -> list[Json]:
        """Each promise and how far it has come, for people."""
        return [told(arm) for arm in self._arms.values()]


def _row(trace_id: str, arm: Arm, judged: Judged, accepted: bool, same: bool | None) -> DraftRow:
    return DraftRow(
        trace=trace_id,
        created=time.time(),
        arm=judged.pledge.arm,
        fingerprint=arm.promise.fingerprint,
        model=judged.pledge.model,
        score=judged.p_correct,
        configured=judged.configured,
        accepted=accepted,
        audited=judged.audits,
        same=same,
        features=judged.features,
    )


def told(arm: Arm) -> Json:
    pledge, report = arm.pledge, asdict(arm.promise.report())
    return {
        "arm": pledge.arm,
        "policy": pledge.policy,
        "model": pledge.model,
        "strong": pledge.strong,
        "target": pledge.target,
        "confidence": pledge.confidence,
        "audit_usd_today": round(arm.spent_usd, 6),
        **report,
    }


def _is_same(judged: Judged, answer: Answer) -> bool:
    choices = answer.body.get("choices") or []
    return bool(choices) and agrees(judged.draft, choices[0].get("message") or {})


async def _discard(chunk: Chunk) -> None:
    pass
