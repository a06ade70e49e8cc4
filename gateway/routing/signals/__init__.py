"""Facts about a request, one per file, registered by name with `@signal`. A rule compares them with what YAML says.

A signal is computed only if a rule reads it, and once for a request: by a plain function where it need not wait for
anything, which spares the rule a coroutine. `kind` says what it gives and what a rule may
compare it with:

    number  a float or int                    a value, or above / below / is / in
    text    a string or None                  a value, a list (any of), or is / in
    flag    True or False                     true or false
    set     a frozenset of words              a word, a list (any of), or is / in
    match   True or False, given an argument  the argument itself (`keywords: [legal]`)
    named   a string or None, given a name    {name: comparison} (`header: {x-team: legal}`)
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import iscoroutinefunction
from typing import Any, Literal, NamedTuple, TypeVar

from gateway.chat import ChatRequest
from gateway.tokens import Count

Kind = Literal["number", "text", "flag", "set", "match", "named"]
Value = float | str | bool | frozenset[str] | None
Compute = Callable[[ChatRequest, Any], Awaitable[Value | Count] | Value | Count]
C = TypeVar("C", bound=Compute)


class Bounds(NamedTuple):
    """What can be said of a number before it is computed: it is `likely` about this, and `high` at most. `is_all`:
    nobody knows better than what is likely."""

    likely: float
    high: float
    is_all: bool = False


@dataclass(frozen=True)
class Signal:
    """`compute(request, argument)`; the argument is None but for `match`, `named`, and `by_model`.

    `values`: all values it can give, where they are few. `prepare` turns a `match` argument into what compute takes,
    and raises ValueError for one that it cannot take. `by_model`: its argument is the `Counter` of the model that the
    route asks first, None where it has none. `bounds`: a cheap look, with which alone most comparisons can be decided;
    `least`: what it cannot be lower than, which takes longer.
    """

    name: str
    kind: Kind
    compute: Compute
    values: tuple[str, ...] = ()
    prepare: Callable[[Any], Any] | None = None
    by_model: bool = False
    bounds: Callable[[ChatRequest, Any], Bounds] | None = None
    least: Callable[[ChatRequest, Any], float] | None = None

    @cached_property
    def waits(self) -> bool:
        return iscoroutinefunction(self.compute)

    @cached_property
    def is_plain(self) -> bool:
        """One value, at once, and never a count."""
        return not self.waits and self.kind != "number"


SIGNALS: dict[str, Signal] = {}


def signal(
    name: str,
    kind: Kind,
    *,
    values: tuple[str, ...] = (),
    prepare: Callable[[Any], Any] | None = None,
    by_model: bool = False,
    bounds: Callable[[ChatRequest, Any], Bounds] | None = None,
    least: Callable[[ChatRequest, Any], float] | None = None,
) -> Callable[[C], C]:
    """Decorator: makes a function, async or not, known to rules as `name`."""

    def register(compute: C) -> C:
        SIGNALS[name] = Signal(name, kind, compute, values, prepare, by_model, bounds, least)
        return compute

    return register


def one_pattern(argument: Any) -> re.Pattern[str]:
    """A regex, or a list of them any of which may be found."""
    patterns = [argument] if isinstance(argument, str) else argument
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str) and p for p in patterns):
        raise ValueError("wants a pattern or a list of patterns")
    try:
        return re.compile("|".join(f"(?:{p})" for p in patterns))
    except re.error as exc:
        raise ValueError(f"not a regular expression: {exc}") from None


@dataclass(frozen=True)
class Words:
    """Words or phrases, found as whole words in any case. Plain look-ups first: ten times cheaper than the pattern."""

    words: tuple[str, ...]  # lower case
    pattern: re.Pattern[str]

    def __hash__(self) -> int:
        return hash(self.words)

    def are_in(self, text: str) -> bool:
        lower = text.lower()
        for word in self.words:
            if word in lower:
                return self.pattern.search(lower) is not None
        return False


def any_word(argument: Any) -> Words:
    """A word or phrase, or a list of them any of which may be found."""
    words = [argument] if isinstance(argument, str) else argument
    if not isinstance(words, list) or not words or not all(isinstance(w, str) and w.strip() for w in words):
        raise ValueError("wants a word or a list of words")
    lower = tuple(word.strip().lower() for word in words)
    return Words(lower, re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in lower)))
