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

A signal that needs more than the request (vectors, models, what was learned) has a `bind`: when a policy is built, it
is handed the `Services` and gives the object that `compute` gets as its argument.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from gateway.chat import ChatRequest, Json
from gateway.patterns import Pattern, pattern_of
from gateway.tokens import Count

if TYPE_CHECKING:
    from gateway.routing.services import Services

Kind = Literal["number", "text", "flag", "set", "match", "named"]
Value = float | str | bool | frozenset[str] | None


class Noted(NamedTuple):
    """A value, and what the trace is to say beside it: numbers, and words of ours; nothing that a client wrote."""

    value: Value
    note: Json


Computed = Value | Count | Noted
Compute = Callable[..., Awaitable[Computed] | Computed]
C = TypeVar("C", bound=Compute)


class Bounds(NamedTuple):
    """What can be said of a number before it is computed: it is `likely` about this, and `high` at most. `is_all`:
    nobody knows better than what is likely."""

    likely: float
    high: float
    is_all: bool = False


@dataclass(frozen=True)
class Signal:
    """`compute(request, argument)`; the argument is None but for `match`, `named`, `by_model`, and what is bound.

    Only signals that wait, and numbers, may give a `Noted`.

    Args:
        values: all values it can give, where they are few.
        prepare: turns a `match` argument into what compute takes; raises ValueError for one that it cannot take.
        by_model: its argument is the `Counter` of the model that the route asks first, None where it has none.
        bounds: a cheap look, with which alone most comparisons can be decided.
        least: what it cannot be lower than, which takes longer.
        bind: makes compute's argument from what it would be without (hashable) and the services; raises ValueError.
            Equal arguments are bound once in a policy. A bound object is known by its identity; its `shown` is what
            people see of it, and its `values`, if it has any, are as `values` here.
        names: of a `named` signal: all names there are; a comparison without a name is with the first of them.
        asks: it asks models: `compute(request, argument, trace)`, and its hops go below `trace`.
        schema: what YAML may say of a `match` argument, where that is more than texts.
    """

    name: str
    kind: Kind
    compute: Compute
    values: tuple[str, ...] = ()
    prepare: Callable[[Any], Any] | None = None
    by_model: bool = False
    bounds: Callable[[ChatRequest, Any], Bounds] | None = None
    least: Callable[[ChatRequest, Any], float] | None = None
    bind: Callable[[Any, Services], Any] | None = None
    names: tuple[str, ...] = ()
    asks: bool = False
    schema: Json | None = None

    @cached_property
    def waits(self) -> bool:
        return iscoroutinefunction(self.compute)

    @cached_property
    def is_plain(self) -> bool:
        """One value, at once, and never a count."""
        return not self.waits and self.kind != "number"

    @cached_property
    def rank(self) -> int:
        """Those of a lower rank are read first: what comes at once, what waits for work on this machine, what asks
        a model."""
        return 2 if self.asks else 1 if self.waits and self.bounds is None else 0


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
    bind: Callable[[Any, Services], Any] | None = None,
    names: tuple[str, ...] = (),
    asks: bool = False,
    schema: Json | None = None,
) -> Callable[[C], C]:
    """Decorator: makes a function, async or not, known to rules as `name`."""

    def register(compute: C) -> C:
        SIGNALS[name] = Signal(name, kind, compute, values, prepare, by_model, bounds, least, bind, names, asks, schema)
        return compute

    return register


def some_texts(argument: Any, what: str = "a text or a list of texts") -> tuple[str, ...]:
    """One text or several, stripped, each once. Raises: ValueError."""
    texts = [argument] if isinstance(argument, str) else argument
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"wants {what}")
    return tuple(dict.fromkeys(text.strip() for text in texts))


def one_pattern(argument: Any) -> Pattern:
    """A regex, or a list of them any of which may be found."""
    patterns = [argument] if isinstance(argument, str) else argument
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str) and p for p in patterns):
        raise ValueError("wants a pattern or a list of patterns")
    return pattern_of("|".join(f"(?:{p})" for p in patterns))


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
