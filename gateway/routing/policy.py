"""A policy: routes in order, the first whose condition holds answers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.chat import ChatRequest, Json, Responder
from gateway.errors import InvalidRequest
from gateway.routing.signals import SIGNALS, Bounds, Signal, Value, Words
from gateway.tokens import Count, Counter


class Known:
    """The signals read so far, by name and argument: the value, and the seconds that it took."""

    __slots__ = ("signals",)

    def __init__(self) -> None:
        self.signals: dict[tuple[str, Any], tuple[Value | Count | Bounds, float]] = {}

    def as_json(self, *, for_journal: bool = True) -> list[Json]:
        """Each signal: name, argument where it has one, value, and microseconds that it took. A count of tokens says
        whether it is `estimated`: also where an estimate was all that was needed.

        `for_journal`: without values that the client wrote.
        """
        out = []
        for (name, argument), (value, took_s) in self.signals.items():
            entry: Json = {"signal": name}
            if argument is not None:
                entry["of"] = argument.name if SIGNALS[name].by_model else _shown(argument)
            if isinstance(value, (Count, Bounds)):
                entry["value"] = value.tokens if isinstance(value, Count) else value.likely
                entry["estimated"] = isinstance(value, Bounds) or value.estimated
            elif not for_journal or SIGNALS[name].kind != "named":
                entry["value"] = sorted(value) if isinstance(value, frozenset) else value
            entry["us"] = round(took_s * 1e6, 1)
            out.append(entry)
        return out


class Facts:
    """The signals of one request: each computed when first read, and kept."""

    __slots__ = ("known", "request")

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self.known = Known()

    def read(self, signal: Signal, key: tuple[str, Any]) -> Value:
        """Of a signal that need not be waited for, or that is known. `key`: its name, and its argument, which is
        hashable: a name, a compiled pattern, or a model's counter."""
        known = self.known.signals.get(key)
        if known is None or isinstance(known[0], Bounds):
            started = time.perf_counter()
            value: Any = signal.compute(self.request, key[1])
            return self._keep(key, known, value, started)
        return known[0].tokens if isinstance(known[0], Count) else known[0]

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
        waiting: Any = signal.compute(self.request, key[1])
        return self._keep(key, known, await waiting, started)

    def _keep(self, key: tuple[str, Any], known: Any, value: Value | Count, started: float) -> Value:
        self.known.signals[key] = (value, time.perf_counter() - started + (known[1] if known else 0.0))
        return value.tokens if isinstance(value, Count) else value

    def bounds(self, signal: Signal, key: tuple[str, Any]) -> Bounds | None:
        """What is known of a number without computing it; None where it has none, or has been computed."""
        known = self.known.signals.get(key)
        if known is None and signal.bounds is not None:
            started = time.perf_counter()
            bounds = signal.bounds(self.request, key[1])
            self.known.signals[key] = (bounds, time.perf_counter() - started)
            return bounds
        return known[0] if known is not None and isinstance(known[0], Bounds) else None


def _shown(argument: Any) -> Any:
    if isinstance(argument, Words):
        return list(argument.words)
    return argument.pattern if isinstance(argument, re.Pattern) else argument


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
    route: Route
    facts: Facts


@dataclass(frozen=True)
class Policy:
    name: str
    serves: tuple[str, ...]
    routes: tuple[Route, ...]
    learn: bool = False
    review: bool = False
    remember: tuple[str, ...] = ()

    def route(self, name: str | None) -> Route | None:
        return next((route for route in self.routes if route.name == name), None)

    def told(self, facts: Facts) -> Decision | None:
        """The decision, where nothing has to be waited for."""
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
        for route in self.routes:
            if route.when is None or await route.when.holds(facts):
                return Decision(route, facts)
        raise InvalidRequest(f"no route of policy '{self.name}' fits this request", param="model")

    async def read_all(self, facts: Facts) -> None:
        """Compute every signal that any rule reads."""
        for route in self.routes:
            for part in route.when.parts() if route.when else ():
                await part.holds(facts)
