"""Shards: short texts that a model is given with a request because they have been shown to help it.

A *process* shard shows how a task is done, by worked examples; a *content* shard states a fact; a *memory* is a fact
about a user. A shard is proven for named readers (models of models.yaml), or it stays a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from hashlib import blake2b
from typing import Any

Json = dict[str, Any]
OPERATOR = ""
"""The tenant and the writer of what the operator adds; also of callers while the server asks for no keys."""

EVERYBODY = "g"
"""The audience of a global shard."""


class Kind(StrEnum):
    PROCESS = "process"
    CONTENT = "content"
    MEMORY = "memory"


class Scope(StrEnum):
    """Who is given it: one user of a tenant, a tenant, or everybody."""

    USER = "user"
    TENANT = "tenant"
    GLOBAL = "global"


class State(StrEnum):
    """Of a shard, and of a shard for one reader. Trial and live ones are given to requests; a trial is watched more
    closely."""

    CANDIDATE = "candidate"
    TRIAL = "trial"
    LIVE = "live"
    RETIRED = "retired"


SERVED = (State.TRIAL, State.LIVE)


class Trust(IntEnum):
    """What an end user wrote is given to that user alone, in the user's turn."""

    USER = 1
    TESTED = 2
    OPERATOR = 3


class Origin(StrEnum):
    """Where a case comes from. Controls have nothing to do with the shard: they must not get worse."""

    SOURCE = "source"
    PARAPHRASE = "paraphrase"
    HELD_OUT = "held_out"
    CONTROL = "control"


@dataclass(frozen=True)
class Example:
    """A worked example, given as a turn of the user and one of the assistant."""

    user: str
    assistant: str


@dataclass(frozen=True)
class Case:
    """A request whose right answer is known: `accepted` holds what counts as right.

    `fields`: of the request, beside its messages (`response_format`, `max_tokens` and the like).
    """

    messages: tuple[Json, ...]
    accepted: tuple[str, ...]
    origin: Origin = Origin.SOURCE
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """One shard as it is stored.

    Args:
        id: 32 hex digits; it stays through versions.
        tenant, scope, user: who is given it; `user` is None unless the scope is one user.
        trigger: "use when …", or for a process shard the system prompt that its task comes with; indexed, never given.
        questions: what users may ask; indexed, never given.
        fact: one sentence, for readers under 1B.
        passage: a paragraph, for larger readers; where there is none they are given the fact.
        steps: how to do it, for larger readers.
        examples: worked examples. More than are given at once: those most like the request are picked.
        not_for: questions of its kind that the reader fails with it too: what is most like these is not for it.
        checks: as a policy writes them; `options`, `schema`: what an answer may be. They travel with a process shard.
        cases: what it is tested with, beside what can be made from its text.
        for_models: readers it is meant for; empty: any.
        slot: what a fact is about, as "entity|attribute"; one fact is current in each slot.
        source: where its text comes from (a path, a URL, a trace), `source_hash` of that text, `lot` of what was
            added in one go: the facts of a lot are proven by a sample of them.
        author: who wrote the text: `examples`, `hand`, or a model's name. `writer`: whose key put it in; "" the
            operator.
        needs_review: it waits for `gateway shards approve` before it is given to anybody.
        valid_from, valid_to: unix seconds; None: no end.
        revision: grows with each change of any shard of a store.
        why: of its state, where there is something to say.
    """

    id: str
    kind: Kind
    tenant: str = OPERATOR
    scope: Scope = Scope.TENANT
    user: str | None = None
    state: State = State.CANDIDATE
    version: int = 1
    title: str = ""
    trigger: str = ""
    questions: tuple[str, ...] = ()
    fact: str = ""
    passage: str = ""
    steps: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    not_for: tuple[str, ...] = ()
    checks: tuple[Any, ...] = ()
    options: tuple[str, ...] = ()
    schema: Json | None = None
    cases: tuple[Case, ...] = ()
    for_models: tuple[str, ...] = ()
    slot: str = ""
    source: str = ""
    source_hash: str = ""
    lot: str = ""
    author: str = "hand"
    writer: str = OPERATOR
    trust: Trust = Trust.OPERATOR
    needs_review: bool = False
    supersedes: str | None = None
    created: float = 0.0
    updated: float = 0.0
    valid_from: float | None = None
    valid_to: float | None = None
    revision: int = 0
    why: str = ""

    @property
    def audience(self) -> str:
        return audience_of(self.scope, self.tenant, self.user)

    @property
    def keys(self) -> tuple[str, ...]:
        """The texts it is found by."""
        own = (self.fact if not self.title else f"{self.title}: {self.fact}") if self.fact else ""
        return tuple(dict.fromkeys(text for text in (own, self.trigger, *self.questions) if text))

    def is_valid(self, now: float) -> bool:
        return (self.valid_from is None or self.valid_from <= now) and (self.valid_to is None or now < self.valid_to)

    def now(self, **changes: Any) -> Shard:
        return replace(self, **changes)


def audience_of(scope: Scope, tenant: str, user: str | None) -> str:
    """Names who is given a shard: 1 to 33 letters and digits, the first telling the scope. Names of tenants and users
    cannot be read from it, nor made to collide."""
    if scope is Scope.GLOBAL:
        return EVERYBODY
    parts = [tenant] if scope is Scope.TENANT else [tenant, user or ""]
    digest = blake2b(b"".join(len(p.encode()).to_bytes(8, "big") + p.encode() for p in parts), digest_size=16)
    return ("t" if scope is Scope.TENANT else "u") + digest.hexdigest()


def audiences_for(tenant: str, user: str | None) -> tuple[str, ...]:
    """The audiences that a request belongs to, the narrowest first."""
    own = () if user is None else (audience_of(Scope.USER, tenant, user),)
    return (*own, audience_of(Scope.TENANT, tenant, None), EVERYBODY)


@dataclass(frozen=True)
class Standing:
    """How a shard stands with one reader.

    Args:
        fingerprint: of the reader's model as it was when this was found out; another model is another reader.
        evidence: what the proof said, as JSON: passes with and without, lift with its interval, harm, tokens.
        shown, shown_passed, withheld, withheld_passed: requests since its release, by whether they were given it.
        alarm: of the watch over it, see `watch.Watch`; JSON.
    """

    shard: str
    reader: str
    state: State = State.CANDIDATE
    fingerprint: str = ""
    evidence: Json = field(default_factory=dict)
    shown: int = 0
    shown_passed: int = 0
    withheld: int = 0
    withheld_passed: int = 0
    alarm: Json = field(default_factory=dict)
    updated: float = 0.0


def best_state(standings: Sequence[Standing]) -> State:
    """Of a shard, by its readers: live if it is for any, else on trial, else a candidate."""
    states = {standing.state for standing in standings}
    return next((state for state in (State.LIVE, State.TRIAL, State.CANDIDATE) if state in states), State.CANDIDATE)
