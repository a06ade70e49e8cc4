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


class Facts:
    """The signals of one request: each computed when first read, and kept."""

    __slots__ = ("_known", "request")

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self._known: dict[tuple[str, Any], tuple[Value | Count | Bounds, float]] = {}

    async def read(self, signal: Signal, argument: Any = None) -> Value:
        """`argument` is hashable: a name, a compiled pattern, or a model's counter."""
        key = (signal.name, argument)
        known = self._known.get(key)
        if known is None or isinstance(known[0], Bounds):
            started = time.perf_counter()
            value = await signal.compute(self.request, argument)
            known = self._known[key] = (value, _us_since(started) + (known[1] if known else 0.0))
        return known[0].tokens if isinstance(known[0], Count) else known[0]  # type: ignore[return-value]

    def bounds(self, signal: Signal, argument: Any) -> Bounds | None:
        """What is known of a number without computing it; None where it has none, or has been computed."""
        key = (signal.name, argument)
        known = self._known.get(key)
        if known is None and signal.bounds is not None:
            started = time.perf_counter()
            known = self._known[key] = (signal.bounds(self.request, argument), _us_since(started))
        return known[0] if known is not None and isinstance(known[0], Bounds) else None

    def as_json(self, *, for_journal: bool = False) -> list[Json]:
        """Each signal read so far: name, argument where it has one, value, and microseconds that it took. A count of
        tokens says whether it is `estimated`: also where an estimate was all that was needed.

        `for_journal`: without values that the client wrote.
        """
        out = []
        for (name, argument), (value, took_us) in self._known.items():
            entry: Json = {"signal": name}
            if argument is not None:
                entry["of"] = argument.name if SIGNALS[name].by_model else _shown(argument)
            if isinstance(value, Count | Bounds):
                entry["value"] = value.tokens if isinstance(value, Count) else value.likely
                entry["estimated"] = isinstance(value, Bounds) or value.estimated
            elif not for_journal or SIGNALS[name].kind != "named":
                entry["value"] = sorted(value) if isinstance(value, frozenset) else value
            entry["us"] = round(took_us, 1)
            out.append(entry)
        return out


def _us_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e6


def _shown(argument: Any) -> Any:
    if isinstance(argument, Words):
        return list(argument.words)
    return argument.pattern if isinstance(argument, re.Pattern) else argument


class Condition(Protocol):
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


@dataclass(frozen=True)
class Compare:
    """One signal held against one comparison; `accepts` takes the signal's value. A number is only computed where its
    bounds do not tell."""

    signal: Signal
    argument: Any
    accepts: Accepts

    async def holds(self, facts: Facts) -> bool:
        if isinstance(self.accepts, Numeric):
            bounds = facts.bounds(self.signal, self.argument)
            told = self.accepts.between(bounds.low, bounds.high) if bounds is not None else None
            if told is not None:
                return bool(told)
        return bool(self.accepts(await facts.read(self.signal, self.argument)))

    def parts(self) -> Iterator[Condition]:
        yield self


@dataclass(frozen=True)
class All:
    conditions: Sequence[Condition]

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

    def route(self, name: str | None) -> Route | None:
        return next((route for route in self.routes if route.name == name), None)

    async def decide(self, request: ChatRequest) -> Decision:
        """Raises: InvalidRequest where no route fits."""
        facts = Facts(request)
        for route in self.routes:
            if route.when is None or await route.when.holds(facts):
                return Decision(route, facts)
        raise InvalidRequest(f"no route of policy '{self.name}' fits this request", param="model")

    async def read_all(self, facts: Facts) -> None:
        """Compute every signal that any rule reads."""
        for route in self.routes:
            for part in route.when.parts() if route.when else ():
                await part.holds(facts)
