"""`when:` of a route, from YAML to conditions."""

from __future__ import annotations

import math
from typing import Any

from gateway.config.lines import Document, Loc, nearest
from gateway.errors import ConfigError, Problem
from gateway.routing.policy import Accepts, All, AnyOf, Compare, Condition, Not, Numeric, Told, rank_of
from gateway.routing.services import Services
from gateway.routing.signals import SIGNALS, Signal
from gateway.tokens import Counter

OPERATORS = ("above", "below", "is", "in")
COMBINED = ("all", "any", "not")
LEARNED = "learned"
REFERENCE = f"{LEARNED}."
UNBOUND = object()


class Reader:
    """Reads the conditions of one file; what is wrong with them goes into `problems`. `services` are for signals that
    need them."""

    def __init__(self, document: Document, problems: list[Problem], services: Services) -> None:
        self.document = document
        self.problems = problems
        self._services = services
        self._bound: dict[tuple[str, Any], Any] = {}
        self._counter: Counter | None = None

    def when(self, data: Any, loc: Loc, counter: Counter | None) -> Condition:
        """The condition of a route; `counter` is that of the model which it asks first, None where none is active."""
        self._counter = counter
        return self.condition(data, loc)

    def condition(self, data: Any, loc: Loc) -> Condition:
        """A mapping of signals and combinations, all of which must hold; what is dear to know is asked last."""
        if not isinstance(data, dict) or not data:
            return self._wrong(loc, "wants signals with what to compare them with", "e.g. {has: image}")
        conditions = [self._entry(name, value, (*loc, name)) for name, value in data.items()]
        return conditions[0] if len(conditions) == 1 else All(tuple(sorted(conditions, key=rank_of)))

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
            return self._named(signal, value, loc)
        argument = self._bind(signal, self._counter if signal.by_model else None, loc)
        if argument is UNBOUND:
            return All(())
        return Compare(signal, argument, self._accepts(signal, argument, value, loc))

    def _match(self, signal: Signal, value: Any, loc: Loc) -> Condition:
        try:
            argument = signal.prepare(value) if signal.prepare else value
        except ValueError as exc:
            return self._wrong(loc, str(exc))
        argument = self._bind(signal, argument, loc)
        return All(()) if argument is UNBOUND else Compare(signal, argument, bool)

    def _named(self, signal: Signal, value: Any, loc: Loc) -> Condition:
        if signal.names and not (isinstance(value, dict) and not value.keys() & set(OPERATORS)):
            value = {signal.names[0]: value}
        if not isinstance(value, dict) or not value:
            hint = f"e.g. {{{signal.name}: {{x: y}}}}"
            return self._wrong(loc, "wants names with what to compare them with", hint)
        named: list[Condition] = []
        for key, item in value.items():
            here = (*loc, key)
            if signal.names and key not in signal.names:
                self._wrong(here, "unknown name", nearest(str(key), signal.names))
                continue
            argument = self._bind(signal, key, here)
            if argument is not UNBOUND:
                named.append(Compare(signal, argument, self._accepts(signal, argument, item, here)))
        return All(tuple(named))

    def _bind(self, signal: Signal, argument: Any, loc: Loc) -> Any:
        """What `compute` takes; UNBOUND, and said why, where there is none."""
        if signal.bind is None:
            return argument
        key = (signal.name, argument)
        if key not in self._bound:
            try:
                self._bound[key] = signal.bind(argument, self._services)
            except ValueError as exc:
                self._wrong(loc, str(exc))
                return UNBOUND
            except ConfigError as exc:
                self.problems.extend(exc.problems)
                return UNBOUND
        return self._bound[key]

    def _accepts(self, signal: Signal, argument: Any, value: Any, loc: Loc) -> Accepts:
        if signal.kind == "flag":
            if not isinstance(value, bool):
                self._wrong(loc, "wants true or false")
            return lambda got: got is value
        values = signal.values or tuple(getattr(argument, "values", ()))
        if not isinstance(value, dict):
            return self._one_of(signal, values, value, loc)
        tests: list[Any] = []
        for operator, operand in value.items():
            here = (*loc, operator)
            if operator in ("is", "in"):
                tests.append(self._one_of(signal, values, operand, here))
            elif operator not in OPERATORS:
                self._wrong(here, "unknown comparison", nearest(operator, OPERATORS))
            elif signal.kind != "number":
                self._wrong(here, f"'{signal.name}' is not a number, so it has no '{operator}'")
            elif (limit := self._limit(operand, here)) is not None:
                tests.append(_above(limit) if operator == "above" else _below(limit))
        if not value:
            self._wrong(loc, "wants something to compare with", f"one of {', '.join(OPERATORS)}")
        if signal.kind == "number":
            return Numeric(_all_of([test.between for test in tests]))
        return lambda got: all(test(got) for test in tests)

    def _limit(self, operand: Any, loc: Loc) -> float | None:
        """A number, or one that was learned: `learned.NAME`, or `{learned: NAME, default: 0.4}`."""
        name = default = None
        if isinstance(operand, str) and operand.startswith(REFERENCE):
            name = operand.removeprefix(REFERENCE)
        elif isinstance(operand, dict) and {LEARNED} <= operand.keys() <= {LEARNED, "default"}:
            name, default = operand[LEARNED], operand.get("default")
            if not isinstance(name, str) or (default is not None and not _is_number(default)):
                self._wrong(loc, "wants {learned: NAME, default: a number}")
                return None
        if name is None:
            if not _is_number(operand):
                self._wrong(loc, "wants a number, or learned.NAME")
                return None
            return float(operand)
        try:
            known = self._services.learned.thresholds
        except ConfigError as exc:
            self.problems.extend(exc.problems)
            return None
        if name not in known and default is None:
            hint = nearest(name, known) or f"until `gateway learn` finds it: {{learned: {name}, default: 0.5}}"
            self._wrong(loc, f"nothing that was learned is called '{name}'", hint)
        return known.get(name, default)

    def _one_of(self, signal: Signal, values: tuple[str, ...], value: Any, loc: Loc) -> Accepts:
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
            elif values and item not in values:
                self._wrong(here, f"'{item}' is not a value of '{signal.name}'", nearest(str(item), values))
        if signal.kind == "number":
            return Numeric(_any_of(wanted))
        words = frozenset(str(item) for item in wanted)
        if signal.kind == "set":
            return lambda got: isinstance(got, frozenset) and not words.isdisjoint(got)
        return lambda got: got in words

    def _wrong(self, loc: Loc, message: str, hint: str = "") -> Condition:
        self.problems.append(self.document.problem(loc, message, hint))
        return All(())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
