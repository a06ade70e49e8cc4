"""What happened to a request and what it cost: `Usage`, `Price`, `Spend`, and `Trace`, the tree of hops.

Only leaves write spend; sums are read from the tree and never added up by hand. An unknown cost is `None`, not 0.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from gateway.errors import BackendError
from gateway.given import FACT
from gateway.trace_context import TraceContext, new_span_id

CHECK = "check"
"""Kind of a hop in which a check asks something: models in it spend, and are no part of the path."""
CACHE = "cache"
"""Kind of a hop before which a cache was asked, and the fact of it that says what came of that: one of these."""
HIT, SEMANTIC_HIT, MISS, BYPASS = "hit", "hit; semantic", "miss", "bypass"
ANSWER, AUDIT, TRIAL, SHARDS = "answer", "audit", "trial", "shards"
"""Purposes of a request: somebody waits for its answer; it is compared with an answer that was accepted, or with one of
an adapter; shards are written or proven."""
RACED = "raced"
"""Why a hop was left whose answer was not bad, but late: another tier's was quicker."""
STAND_IN = "stand_in"
"""Fact of a hop: the model that has answered in place of the one that it is named after."""

BROKEN_OFF = "broken_off"
"""Failure of a hop that others ended: nobody waits for it any more, or it was seen half-way that it would not do."""

Upstream = tuple[str, str, str]
"""Whom a model's hop has asked: the provider's name, its name for the model, the address."""


def new_id() -> str:
    """32 hex digits that grow with time, so that the journal's index is written at its end.

    Ids name things, they guard nothing: their randomness need not come from the kernel.
    """
    return f"{int(time.time() * 1000):012x}{random.getrandbits(80):020x}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one model call. `estimated`: counted by us because the upstream did not say."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    estimated: bool = False

    @classmethod
    def read(cls, usage: object) -> Usage | None:
        """From an OpenAI `usage` object; None where it is missing or not one."""
        if not isinstance(usage, dict):
            return None
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not (isinstance(prompt, int) and isinstance(completion, int) and prompt >= 0 and completion >= 0):
            return None
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else 0
        return cls(prompt, completion, cached if isinstance(cached, int) and cached > 0 else 0)


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in US dollars per million tokens and per hour that a request keeps it busy."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float
    cached_input_usd_per_mtok: float | None = None
    usd_per_hour: float = 0.0

    def cost_usd(self, usage: Usage, busy_s: float) -> float:
        cached_rate = self.cached_input_usd_per_mtok
        if cached_rate is None:
            cached_rate = self.input_usd_per_mtok
        fresh = max(0, usage.input_tokens - usage.cached_tokens)
        tokens = fresh * self.input_usd_per_mtok + usage.cached_tokens * cached_rate
        tokens += usage.output_tokens * self.output_usd_per_mtok
        return tokens / 1e6 + busy_s * self.usd_per_hour / 3600


@dataclass(frozen=True, slots=True)
class Spend:
    """What one call of one model used. `cost_usd` is None where the model's price is not known, `joules` where nobody
    knows what it draws.

    Args:
        busy_s: it kept its engine busy; where calls run at the same time on an engine whose hours are counted, each has
            its share of the time.
        layer: how far out its model is: core, local, attached or remote.
        is_measured: its joules were read from a counter of the machine, and are not modelled.
    """

    model: str
    usage: Usage
    cost_usd: float | None
    busy_s: float
    layer: str = ""
    joules: float | None = None
    is_measured: bool = False

    def as_json(self) -> dict[str, Any]:
        usage = self.usage
        out: dict[str, Any] = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_tokens": usage.cached_tokens,
            "estimated": usage.estimated,
            "cost_usd": self.cost_usd,
            "busy_s": self.busy_s,
            "layer": self.layer,
        }
        return out if self.joules is None else {**out, "joules": self.joules, "measured": self.is_measured}


@dataclass(frozen=True, slots=True)
class Rival:
    """A model that could have answered all requests of a policy alone.

    Args:
        price: as it is known now.
        seconds_per_token: of its engine, an output token, where hours of it cost something; None while nobody knows.
        accepts: kinds of content.
        context: tokens of one request; None where nobody has said.
        is_largest: the policy's quality is measured against it.
    """

    name: str
    price: Callable[[], Price | None]
    seconds_per_token: Callable[[], float | None]
    accepts: frozenset[str]
    context: int | None = None
    is_largest: bool = False

    def can_answer(self, usage: Usage, media: frozenset[str]) -> bool:
        fits = self.context is None or usage.input_tokens + usage.output_tokens <= self.context
        return fits and media <= self.accepts

    def cost_usd(self, usage: Usage) -> float | None:
        """Of an answer of as many tokens; None while its price, or the time that it takes, is not known."""
        price, busy_s = self.price(), 0.0
        if price is None:
            return None
        if price.usd_per_hour:
            pace = self.seconds_per_token()
            if pace is None:
                return None
            busy_s = pace * usage.output_tokens
        return price.cost_usd(usage, busy_s)


class Totals(NamedTuple):
    """Sums over the leaves of a trace. `path`: each model asked and why it was left, as in `core!json_schema,coder`;
    `cache:core` where an answer of that one was at hand."""

    path: str
    input_tokens: int
    output_tokens: int
    estimated: bool
    cost_usd: float | None
    dropped: Mapping[str, tuple[str, ...]]  # by model
    asked: tuple[Trace, ...]  # the model calls, in order
    shards: Mapping[str, tuple[str, ...]]  # ids of those it was given, by model
    consulted: tuple[Trace, ...] = ()  # the model calls of checks
    cached: Mapping[str, Any] | None = None  # what the last cache that was asked has said
    joules: float | None = None  # as the cost: None once any of them is unknown


class Trace:
    """One hop (request, cascade, tier, model): when, how it ended, what it spent, and the hops inside it.

    Times are `time.monotonic()` seconds. `left` is the short reason why the answer did not come from here. `dropped`,
    of a model's hop: fields of the request that its upstream does not take and was not sent. `failure`: reason of the
    error that ended it, or BROKEN_OFF. `context`: of the request, where its hops are to be told apart by others.
    """

    __slots__ = (
        "_span_id",
        "children",
        "context",
        "dropped",
        "ended",
        "facts",
        "failure",
        "kind",
        "left",
        "name",
        "spend",
        "started",
        "upstream",
    )

    def __init__(self, kind: str, name: str, context: TraceContext | None = None) -> None:
        self.kind = kind
        self.name = name
        self.context = context
        self.started = time.monotonic()
        self.ended: float | None = None
        self.children: list[Trace] = []
        self.spend: Spend | None = None
        self.left: str | None = None
        self.facts: dict[str, Any] | None = None
        self.dropped: tuple[str, ...] = ()
        self.failure: str | None = None
        self.upstream: Upstream | None = None
        self._span_id: str | None = None

    def span(self, kind: str, name: str) -> Trace:
        """A hop inside this one; use it as a context manager, which notes its end and the error that ended it."""
        child = Trace(kind, name, self.context)
        self.children.append(child)
        return child

    @property
    def span_id(self) -> str:
        """16 hex digits that name this hop outside of this process; made up when first asked for."""
        if self._span_id is None:
            self._span_id = new_span_id()
        return self._span_id

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ended = time.monotonic()
        if isinstance(error, BackendError):
            self.failure = error.reason
            if self.left is None:
                self.left = error.reason
        elif error is not None:
            self.failure = BROKEN_OFF

    def note(self, **facts: Any) -> None:
        """Keep JSON-able facts with this hop."""
        self.facts = {**(self.facts or {}), **facts}

    def leave(self, reason: str) -> None:
        """This hop's answer was not taken: say why, on it and on the last model in it that had not been left."""
        self.left = reason
        spoke = [hop for hop in self.models() if hop.left is None]
        if spoke:
            spoke[-1].left = reason

    def walk(self, *, checks: bool = True) -> Iterator[Trace]:
        """This hop and all inside it, in the order they started. `checks`: also what checks asked."""
        waiting = [self]
        while waiting:
            hop = waiting.pop()
            yield hop
            if hop.children and (checks or hop.kind != CHECK):
                waiting.extend(reversed(hop.children))

    def models(self) -> Iterator[Trace]:
        """The model calls inside this hop, in order, without those of checks."""
        return (hop for hop in self.walk(checks=False) if hop.kind == "model")

    def totals(self) -> Totals:
        """What all the leaves inside spent, in one walk."""
        input_tokens = output_tokens = 0
        cost_usd: float | None = 0.0
        joules: float | None = 0.0
        estimated = False
        path: list[str] = []
        asked: list[Trace] = []
        consulted: list[Trace] = []
        spends: list[Spend] = []
        dropped: dict[str, tuple[str, ...]] = {}
        shards: dict[str, tuple[str, ...]] = {}
        cached: Mapping[str, Any] | None = None
        waiting: list[Trace] = [self]
        while waiting:  # `walk`, without a generator: this is done for every request
            hop = waiting.pop()
            if hop.kind == CHECK:
                consulted += (inner for inner in hop.walk() if inner.kind == "model")
                continue
            if hop.children:
                waiting += reversed(hop.children)
            if hop.dropped:
                dropped[hop.name] = hop.dropped
            if hop.kind == "model":
                asked.append(hop)
                path.append(f"{hop.name}!{hop.left}" if hop.left else hop.name)
            elif hop.kind == "shards" and hop.facts:
                shards[hop.name] = hop.facts[FACT].shards
            elif hop.kind == CACHE and hop.facts:
                cached = hop.facts
                if "of" in cached:
                    path.append(f"cache:{cached['of']}")
            if hop.spend is not None:
                spends.append(hop.spend)
        spends += (hop.spend for hop in consulted if hop.spend is not None)
        for spend in spends:
            input_tokens += spend.usage.input_tokens
            output_tokens += spend.usage.output_tokens
            estimated = estimated or spend.usage.estimated
            cost_usd = None if cost_usd is None or spend.cost_usd is None else cost_usd + spend.cost_usd
            joules = None if joules is None or spend.joules is None else joules + spend.joules
        names, models = ",".join(path), tuple(asked)
        others = tuple(consulted)
        return Totals(
            names, input_tokens, output_tokens, estimated, cost_usd, dropped, models, shards, others, cached, joules
        )

    @property
    def cost_usd(self) -> float | None:
        """Sum over the leaves; None once any of them is unknown."""
        return self.totals().cost_usd

    @property
    def known_cost_usd(self) -> float:
        """Sum over the leaves whose cost is known: the least that was spent."""
        return sum(hop.spend.cost_usd or 0.0 for hop in self.walk() if hop.spend is not None)

    @property
    def path(self) -> str:
        return self.totals().path

    def as_json(self, origin: float | None = None) -> dict[str, Any]:
        """The tree for the journal; times in milliseconds since the root started."""
        origin = self.started if origin is None else origin
        out: dict[str, Any] = {"kind": self.kind, "name": self.name, "at_ms": round((self.started - origin) * 1e3, 2)}
        if self.ended is not None:
            out["ms"] = round((self.ended - self.started) * 1e3, 2)
        if self.left:
            out["left"] = self.left
        if self.spend:
            out["spend"] = self.spend.as_json()
        if self.dropped:
            out["dropped"] = list(self.dropped)
        if self.facts:
            out["facts"] = self.facts
        if self.children:
            out["children"] = [child.as_json(origin) for child in self.children]
        return out


class RequestTrace(Trace):
    """The root of a request's trace. `id` is 32 hex digits and names the request in headers, journal and feedback.

    `endpoint`: the path that was asked, one of the gateway's own; empty for what the gateway asks by itself.
    `purpose`: ANSWER, or what the gateway asked for by itself. `rivals`: who else could answer all requests of its
    policy; `media`: kinds of content in it, where not all of them take every kind; `instead`: what the answer would
    have cost at each of them, once that has been worked out.
    """

    __slots__ = (
        "answered_by",
        "created",
        "endpoint",
        "error",
        "first_chunk",
        "id",
        "instead",
        "key",
        "media",
        "policy",
        "purpose",
        "quality",
        "requested_model",
        "rivals",
        "route",
        "settled",
        "status",
        "stream",
        "tenant",
    )

    def __init__(
        self,
        requested_model: str = "",
        *,
        id: str | None = None,
        stream: bool = False,
        key: str | None = None,
        tenant: str | None = None,
        endpoint: str = "",
        context: TraceContext | None = None,
    ) -> None:
        super().__init__("request", requested_model, context)
        self.id = id or new_id()
        self.endpoint = endpoint
        self.created = time.time()
        self.requested_model = requested_model
        self.stream = stream
        self.key = key
        self.tenant = tenant or key
        self.policy: str | None = None
        self.route: str | None = None
        self.quality = "none"
        self.answered_by: str | None = None
        self.first_chunk: float | None = None
        self.error: str | None = None
        self.status = 0
        self.purpose = ANSWER
        self.rivals: Sequence[Rival] = ()
        self.media: frozenset[str] = frozenset()
        self.instead: Mapping[str, float | None] | None = None
        self.settled: Totals | None = None

    def totals(self) -> Totals:
        return self.settled or super().totals()

    def settle(self) -> Totals:
        """The answer is there, and nobody spends any more: the sums need not be made again."""
        self.settled = super().totals()
        return self.settled
