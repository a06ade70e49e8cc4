"""`when:` of a route, from YAML to conditions."""

from __future__ import annotations

import math
from typing import Any

from gateway.config.lines import Document, Loc, nearest
from gateway.errors import Problem
from gateway.routing.policy import Accepts, All, AnyOf, Compare, Condition, Not, Numeric, Told
from gateway.routing.signals import SIGNALS, Signal
from gateway.tokens import Counter

OPERATORS = ("above", "below", "is", "in")
COMBINED = ("all", "any", "not")


class Reader:
    """Reads the conditions of one file; what is wrong with them goes into `problems`."""

    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self.document = document
        self.problems = problems
        self._counter: Counter | None = None

    def when(self, data: Any, loc: Loc, counter: Counter | None) -> Condition:
        """The condition of a route; `counter` is that of the model which it asks first, None where none is active."""
        self._counter = counter
        return self.condition(data, loc)

    def condition(self, data: Any, loc: Loc) -> Condition:
        """A mapping of signals and combinations, all of which must hold."""
        if not isinstance(data, dict) or not data:
            return self._wrong(loc, "wants signals with what to compare them with", "e.g. {has: image}")
        conditions = [self._entry(name, value, (*loc, name)) for name, value in data.items()]
        return conditions[0] if len(conditions) == 1 else All(tuple(conditions))

    def _entry(self, name: str, value: Any, loc: Loc) -> Condition:
        if name == "not":
            return Not(self.condition(value, loc))
        if name in COMBINED:
            if not isinstance(value, list) or not value:
                return self._wrong(loc, "wants a list of conditions")
            inner = tuple(self.condition(item, (*loc, i)) for i, item in enumerate(value))
            return All(inner) if name == "all" else AnyOf(inner)
        signal = SIGNALS.get(name)
        if signal is None:
            return self._wrong(loc, "unknown signal", nearest(name, (*SIGNALS, *COMBINED)))
        if signal.kind == "match":
            return self._match(signal, value, loc)
        if signal.kind == "named":
            if not isinstance(value, dict) or not value:
                return self._wrong(loc, "wants names with what to compare them with", f"e.g. {{{name}: {{x: y}}}}")
            named = [Compare(signal, key, self._accepts(signal, item, (*loc, key))) for key, item in value.items()]
            return All(tuple(named))
        return Compare(signal, self._counter if signal.by_model else None, self._accepts(signal, value, loc))

    def _match(self, signal: Signal, value: Any, loc: Loc) -> Condition:
        try:
            argument = signal.prepare(value) if signal.prepare else value
        except ValueError as exc:
            return self._wrong(loc, str(exc))
        return Compare(signal, argument, bool)

    def _accepts(self, signal: Signal, value: Any, loc: Loc) -> Accepts:
        if signal.kind == "flag":
            if not isinstance(value, bool):
                self._wrong(loc, "wants true or false")
            return lambda got: got is value
        if not isinstance(value, dict):
            return self._one_of(signal, value, loc)
        tests: list[Any] = []
        for operator, operand in value.items():
            here = (*loc, operator)
            if operator in ("is", "in"):
                tests.append(self._one_of(signal, operand, here))
            elif operator not in OPERATORS:
                self._wrong(here, "unknown comparison", nearest(operator, OPERATORS))
            elif signal.kind != "number":
                self._wrong(here, f"'{signal.name}' is not a number, so it has no '{operator}'")
            elif isinstance(operand, bool) or not isinstance(operand, int | float) or not math.isfinite(operand):
                self._wrong(here, "wants a number")
            else:
                tests.append(_above(operand) if operator == "above" else _below(operand))
        if not value:
            self._wrong(loc, "wants something to compare with", f"one of {', '.join(OPERATORS)}")
        if signal.kind == "number":
            return Numeric(_all_of([test.between for test in tests]))
        return lambda got: all(test(got) for test in tests)

    def _one_of(self, signal: Signal, value: Any, loc: Loc) -> Accepts:
        wanted = value if isinstance(value, list) else [value]
        if not wanted:
            self._wrong(loc, "the list is empty")
        for i, item in enumerate(wanted):
            here = (*loc, i) if isinstance(value, list) else loc
            if signal.kind == "number":
                if isinstance(item, bool) or not isinstance(item, int | float):
                    self._wrong(here, "wants a number")
            elif not isinstance(item, str) and (signal.kind != "named" or type(item) not in (int, float)):
                self._wrong(here, "wants text", "put it in quotes" if item is not None else "")
            elif signal.values and item not in signal.values:
                self._wrong(here, f"'{item}' is not a value of '{signal.name}'", nearest(str(item), signal.values))
        if signal.kind == "number":
            return Numeric(_any_of(wanted))
        words = frozenset(str(item) for item in wanted)
        if signal.kind == "set":
            return lambda got: isinstance(got, frozenset) and not words.isdisjoint(got)
        return lambda got: got in words

    def _wrong(self, loc: Loc, message: str, hint: str = "") -> Condition:
        self.problems.append(self.document.problem(loc, message, hint))
        return All(())


def _above(limit: float) -> Numeric:
    return Numeric(lambda low, high: True if low > limit else False if high <= limit else None)


def _below(limit: float) -> Numeric:
    return Numeric(lambda low, high: True if high < limit else False if low >= limit else None)


def _any_of(wanted: list[float]) -> Told:
    def between(low: float, high: float) -> bool | None:
        if low == high:
            return low in wanted
        return None if any(low <= number <= high for number in wanted) else False

    return between


def _all_of(tests: list[Told]) -> Told:
    def between(low: float, high: float) -> bool | None:
        told = [test(low, high) for test in tests]
        return False if False in told else None if None in told else True

    return between
