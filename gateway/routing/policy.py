"""A policy: routes in order, the first whose condition holds answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.chat import ChatRequest, Json, Responder, lazy
from gateway.errors import InvalidRequest
from gateway.routing.services import Sessions
from gateway.routing.signals import SIGNALS, Bounds, Computed, Noted, Signal, Value, Words
from gateway.tokens import Count, Counter
from gateway.trace import Rival, Trace


class Known:
    """The signals read so far, by name and argument: the value, and the seconds that it took."""

    __slots__ = ("signals",)

    def __init__(self) -> None:
        self.signals: dict[tuple[str, Any], tuple[Computed | Bounds, float]] = {}

    def as_json(self, *, for_journal: bool = True) -> list[Json]:
        """Each signal: name, argument where it has one, value, what it noted, and microseconds that it took. A count
        of tokens says whether it is `estimated`: also where an estimate was all that was needed.

        `for_journal`: without values that the client wrote.
        """
        out = []
        for (name, argument), (value, took_s) in self.signals.items():
            entry: Json = {"signal": name}
            signal = SIGNALS[name]
            of = argument if argument is None else argument.name if signal.by_model else _shown(argument)
            if of is not None:
                entry["of"] = of
            note: Json = {}
            if isinstance(value, Noted):
                value, note = value
            if isinstance(value, (Count, Bounds)):
                entry["value"] = value.tokens if isinstance(value, Count) else value.likely
                entry["estimated"] = isinstance(value, Bounds) or value.estimated
            elif not for_journal or signal.kind != "named" or signal.names:
                entry["value"] = sorted(value) if isinstance(value, frozenset) else value
            entry |= note
            entry["us"] = round(took_s * 1e6, 1)
            out.append(entry)
        return out


class Facts:
    """The signals of one request: each computed when first read, and kept.

    `trace`: of the request, for what signals ask of models; without one, that is nobody's.
    """

    __slots__ = ("_trace", "known", "request")

    def __init__(self, request: ChatRequest, trace: Trace | None = None) -> None:
        self.request = request
        self.known = Known()
        self._trace = trace

    def read(self, signal: Signal, key: tuple[str, Any]) -> Value:
        """Of a signal that need not be waited for, or that is known. `key`: its name, and its argument, which is
        hashable: a name, a compiled pattern, or a model's counter."""
        known = self.known.signals.get(key)
        if known is None or isinstance(known[0], Bounds):
            started = time.perf_counter()
            value: Any = signal.compute(self.request, key[1])
            return self._keep(key, known, value, started)
        return _bare(known[0])

    def compute(self, signal: Signal, key: tuple[str, Any]) -> Value:
        """As `read`, of a plain signal that has not been read yet."""
        started = time.perf_counter()
        computed: Any = signal.compute(self.request, key[1])
        value: Value = computed
        self.known.signals[key] = (value, time.perf_counter() - started)
        return value

    async def wait_for(self, signal: Signal, key: tuple[str, Any]) -> Value:
        """As `read`, of a signal that takes its time."""
        known = self.known.signals.get(key)
        if known is not None and not isinstance(known[0], Bounds):
            return self.read(signal, key)
        started = time.perf_counter()
        waiting: Any
        if signal.asks:
            if self._trace is None:
                self._trace = Trace("request", "")
            waiting = signal.compute(self.request, key[1], self._trace)
        else:
            waiting = signal.compute(self.request, key[1])
        return self._keep(key, known, await waiting, started)

    def _keep(self, key: tuple[str, Any], known: Any, value: Computed, started: float) -> Value:
        self.known.signals[key] = (value, time.perf_counter() - started + (known[1] if known else 0.0))
        return _bare(value)

    def bounds(self, signal: Signal, key: tuple[str, Any]) -> Bounds | None:
        """What is known of a number without computing it; None where it has none, or has been computed."""
        known = self.known.signals.get(key)
        if known is None and signal.bounds is not None:
            started = time.perf_counter()
            bounds = signal.bounds(self.request, key[1])
            self.known.signals[key] = (bounds, time.perf_counter() - started)
            return bounds
        return known[0] if known is not None and isinstance(known[0], Bounds) else None


def _bare(value: Computed) -> Value:
    return value.tokens if isinstance(value, Count) else value.value if isinstance(value, Noted) else value


def _shown(argument: Any) -> Any:
    if isinstance(argument, Words):
        return list(argument.words)
    return getattr(argument, "shown", argument)


class Condition(Protocol):
    def told(self, facts: Facts) -> bool | None:
        """Does it hold? None where that has to be waited for."""

    async def holds(self, facts: Facts) -> bool: ...

    def parts(self) -> Iterator[Condition]:
        """The comparisons in it, so that `explain` can show them all."""


class Accepts(Protocol):
    def __call__(self, value: Value, /) -> bool: ...


class Told(Protocol):
    def __call__(self, low: float, high: float, /) -> bool | None: ...


@dataclass(frozen=True)
class Numeric:
    """Accepts numbers. `between` tells whether it accepts all (True) or none (False) of those from low to high; None:
    some, or it cannot say. Of a single number it always can."""

    between: Told

    def __call__(self, value: Value, /) -> bool:
        return isinstance(value, int | float) and bool(self.between(value, value))


class Compare:
    """One signal held against one comparison; `accepts` takes the signal's value. A number is only computed where its
    bounds do not tell."""

    __slots__ = ("_accepts", "_key", "_signal")

    def __init__(self, signal: Signal, argument: Any, accepts: Accepts) -> None:
        self._signal, self._accepts, self._key = signal, accepts, (signal.name, argument)

    def told(self, facts: Facts) -> bool | None:
        accepts, signal, key = self._accepts, self._signal, self._key
        if signal.is_plain:
            known: Any = facts.known.signals.get(key)
            return bool(accepts(facts.compute(signal, key) if known is None else known[0]))
        if signal.bounds is not None and isinstance(accepts, Numeric):
            bounds = facts.bounds(signal, key)
            if bounds is not None:
                told = accepts.between(bounds.likely if bounds.is_all else 0, bounds.high)
                if told is None and signal.least is not None:
                    told = accepts.between(signal.least(facts.request, key[1]), bounds.high)
                if told is not None:
                    return told
        if signal.waits and (key not in facts.known.signals or signal.bounds is not None):
            return None
        return bool(accepts(facts.read(signal, key)))

    async def holds(self, facts: Facts) -> bool:
        told = self.told(facts)
        return bool(self._accepts(await facts.wait_for(self._signal, self._key))) if told is None else told

    def parts(self) -> Iterator[Condition]:
        yield self

    @property
    def signal(self) -> Signal:
        return self._signal

    @property
    def argument(self) -> Any:
        return self._key[1]


def rank_of(condition: Condition) -> int:
    """As `Signal.rank`, of all that it may read."""
    return max((part.signal.rank for part in condition.parts() if isinstance(part, Compare)), default=0)


@dataclass(frozen=True)
class All:
    conditions: Sequence[Condition]

    def told(self, facts: Facts) -> bool | None:
        for condition in self.conditions:
            told = condition.told(facts)
            if not told:
                return told
        return True

    async def holds(self, facts: Facts) -> bool:
        for condition in self.conditions:
            if not await condition.holds(facts):
                return False
        return True

    def parts(self) -> Iterator[Condition]:
        return (part for condition in self.conditions for part in condition.parts())


@dataclass(frozen=True)
class AnyOf:
    conditions: Sequence[Condition]

    def told(self, facts: Facts) -> bool | None:
        for condition in self.conditions:
            told = condition.told(facts)
            if told is not False:
                return told
        return False

    async def holds(self, facts: Facts) -> bool:
        for condition in self.conditions:
            if await condition.holds(facts):
                return True
        return False

    def parts(self) -> Iterator[Condition]:
        return (part for condition in self.conditions for part in condition.parts())


@dataclass(frozen=True)
class Not:
    condition: Condition

    def told(self, facts: Facts) -> bool | None:
        told = self.condition.told(facts)
        return None if told is None else not told

    async def holds(self, facts: Facts) -> bool:
        return not await self.condition.holds(facts)

    def parts(self) -> Iterator[Condition]:
        return self.condition.parts()


@dataclass(frozen=True)
class Route:
    """`when` None: always. `plan`: the answer's tree as YAML has it, inactive models left out, for people to read.
    `counter`: of the model that is asked first."""

    name: str
    answer: Responder
    when: Condition | None = None
    plan: Any = None
    counter: Counter | None = None


@dataclass(frozen=True)
class Decision:
    """`stays`: the route is the one on which the conversation was."""

    route: Route
    facts: Facts
    stays: bool = False


@dataclass(frozen=True)
class Policy:
    """`sticky`: who answered last in each conversation, where those are to stay on their route. `rivals`: its models,
    where there are several, each of which could have answered alone."""

    name: str
    serves: tuple[str, ...]
    routes: tuple[Route, ...]
    learn: bool = False
    review: bool = False
    remember: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()  # of its promise
    sticky: Sessions | None = None
    rivals: tuple[Rival, ...] = ()

    @lazy
    def rivals_see_alike(self) -> bool:
        """Do all of them take the same kinds of content?"""
        return len({rival.accepts for rival in self.rivals}) < 2

    def route(self, name: str | None) -> Route | None:
        return next((route for route in self.routes if route.name == name), None)

    def reads(self, signal: str) -> bool:
        """Does any of its rules read it?"""
        parts = (part for route in self.routes if route.when for part in route.when.parts())
        return any(isinstance(part, Compare) and part.signal.name == signal for part in parts)

    def told(self, facts: Facts) -> Decision | None:
        """The decision, where nothing has to be waited for."""
        kept = self.sticky and self._kept(facts.request)
        if kept:
            told = kept.when is None or kept.when.told(facts)
            if told is not False:
                return Decision(kept, facts, stays=True) if told else None
        for route in self.routes:
            told = route.when is None or route.when.told(facts)
            if told is None:
                return None
            if told:
                return Decision(route, facts)
        return None

    async def decide(self, request: ChatRequest, facts: Facts | None = None) -> Decision:
        """Args: `facts` are those that are known. Raises: InvalidRequest where no route fits."""
        facts = facts or Facts(request)
        kept = self.sticky and self._kept(request)
        if kept and (kept.when is None or await kept.when.holds(facts)):
            return Decision(kept, facts, stays=True)
        for route in self.routes:
            if route.when is None or await route.when.holds(facts):
                return Decision(route, facts)
        raise InvalidRequest(f"no route of policy '{self.name}' fits this request", param="model")

    def _kept(self, request: ChatRequest) -> Route | None:
        """The route that the conversation was on, under this policy."""
        last = self.sticky.last(request) if self.sticky is not None else None
        return self.route(last.route) if last is not None and last.policy == self.name else None

    async def read_all(self, facts: Facts) -> None:
        """Compute every signal that any rule reads."""
        for route in self.routes:
            for part in route.when.parts() if route.when else ():
                await part.holds(facts)
