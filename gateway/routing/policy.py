"""A policy: routes in order, the first whose condition holds answers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.chat import ChatRequest, Json, Responder
from gateway.errors import InvalidRequest
from gateway.routing.signals import SIGNALS, Signal, Value, Words


class Facts:
    """The signals of one request: each computed when first read, and kept."""

    __slots__ = ("_known", "request")

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self._known: dict[tuple[str, Any], tuple[Value, float]] = {}

    async def read(self, signal: Signal, argument: Any = None) -> Value:
        """`argument` is hashable: a name, or a compiled pattern."""
        key = (signal.name, argument)
        known = self._known.get(key)
        if known is None:
            started = time.perf_counter()
            value = await signal.compute(self.request, argument)
            known = self._known[key] = (value, (time.perf_counter() - started) * 1e6)
        return known[0]

    def as_json(self, *, for_journal: bool = False) -> list[Json]:
        """Each signal read so far: name, argument where it has one, value, and microseconds that it took.

        `for_journal`: without values that the client wrote.
        """
        out = []
        for (name, argument), (value, took_us) in self._known.items():
            entry: Json = {"signal": name}
            if argument is not None:
                entry["of"] = _shown(argument)
            if not for_journal or SIGNALS[name].kind != "named":
                entry["value"] = sorted(value) if isinstance(value, frozenset) else value
            entry["us"] = round(took_us, 1)
            out.append(entry)
        return out


def _shown(argument: Any) -> Any:
    if isinstance(argument, Words):
        return list(argument.words)
    return argument.pattern if isinstance(argument, re.Pattern) else argument


class Condition(Protocol):
    async def holds(self, facts: Facts) -> bool: ...

    def parts(self) -> Iterator[Condition]:
        """The comparisons in it, so that `explain` can show them all."""


@dataclass(frozen=True)
class Compare:
    """One signal held against one comparison; `accepts` takes the signal's value."""

    signal: Signal
    argument: Any
    accepts: Any  # Callable[[Value], bool]; Any, because mypy takes a callable field for a method

    async def holds(self, facts: Facts) -> bool:
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
    """`when` None: always. `plan`: the answer's tree as YAML has it, inactive models left out, for people to read."""

    name: str
    answer: Responder
    when: Condition | None = None
    plan: Any = None


@dataclass(frozen=True)
class Decision:
    route: Route
    facts: Facts


@dataclass(frozen=True)
class Policy:
    name: str
    serves: tuple[str, ...]
    routes: tuple[Route, ...]

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
