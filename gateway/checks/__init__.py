"""Is this draft good enough? One predicate per file, registered by name with `@check("name")`.

A check is a frozen pydantic dataclass: its fields are its YAML parameters, and its first field is the one that a bare
value sets (`{regex: "^[A-Z]"}`). It is called with the request, the draft and the trace, and judges every choice. One
that asks a model or a service is `Bindable`: the builder gives it what it names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pydantic import ConfigDict

from gateway.chat import ChatRequest, Json, Responder, Verdict
from gateway.chunks import Chunk
from gateway.draft import Draft
from gateway.trace import Trace
from gateway.transport import HttpClient

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class Check(Protocol):
    """Args of the call: the request, the draft (`draft.complete` is False on a prefix), and the trace of its tier."""

    name: ClassVar[str]
    can_fail_prefix: ClassVar[bool]  # does it mean something on a prefix? Then it can end a draft early
    prefix_words: ClassVar[int | None]  # a prefix of so many words is enough to pass; None: it must see all of it
    asks: ClassVar[Mapping[str, Any]]  # request fields it needs set; what they add is hidden from the client
    needs: ClassVar[tuple[str, ...]]  # request fields that a model must be shown, or its draft cannot pass
    soft: ClassVar[bool]  # says how good a draft is likely to be, by its score; else what is wrong with it
    costly: ClassVar[bool]  # asks or runs something: not for a draft that has failed another check
    names_models: ClassVar[tuple[str, ...]]  # its fields that name a model, or None
    offers: ClassVar[Json | None]  # a tool that the model is offered, and whose calls the client never sees

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict: ...


@dataclass(frozen=True)
class Resources:
    """What a check may be bound to.

    Args:
        models: by name, those that the check's fields name; None for one that is inactive.
        own: what answers in the tier that it judges; None where nothing is active there.
        client: for HTTP.
        folder: of the policy's file.
    """

    models: Mapping[str, Responder | None] = field(default_factory=dict)
    own: Responder | None = None
    client: HttpClient | None = None
    folder: Path = Path()


@runtime_checkable
class Bindable(Protocol):
    """A check that needs more than the draft. The builder calls `bound` once, and what that returns is what judges.

    Raises: ValueError for what the policy's author has to mend.
    """

    def bound(self, resources: Resources) -> Check: ...


class Watch(Protocol):
    """Reads one draft while it grows, so each chunk but once."""

    def take(self, chunk: Chunk) -> str | None:
        """Why the draft cannot pass any more, whatever follows; None while it may."""


@runtime_checkable
class Watching(Protocol):
    """A check of whole drafts that knows of some at once that they will fail."""

    def watch(self, request: ChatRequest) -> Watch | None:
        """None where this request gives it nothing to look at."""


C = TypeVar("C")
CHECKS: dict[str, type[Any]] = {}


def check(
    name: str,
    *,
    can_fail_prefix: bool = False,
    prefix_words: int | None = None,
    asks: Mapping[str, Any] | None = None,
    needs: tuple[str, ...] = (),
    soft: bool = False,
    costly: bool = False,
    names_models: tuple[str, ...] = (),
) -> Callable[[type[C]], type[C]]:
    """Class decorator: makes the class known to YAML as `name`. A prefix that is enough to pass can fail, too."""

    def register(kind: type[C]) -> type[C]:
        kind.name = name  # type: ignore[attr-defined]  # the decorator is what gives it these
        kind.can_fail_prefix = can_fail_prefix or prefix_words is not None  # type: ignore[attr-defined]
        kind.prefix_words = prefix_words  # type: ignore[attr-defined]
        kind.asks = dict(asks or {})  # type: ignore[attr-defined]
        kind.needs = needs  # type: ignore[attr-defined]
        kind.soft = soft  # type: ignore[attr-defined]
        kind.costly = costly  # type: ignore[attr-defined]
        kind.names_models = names_models  # type: ignore[attr-defined]
        kind.offers = None  # type: ignore[attr-defined]
        CHECKS[name] = kind
        return kind

    return register


def with_parts(check: C, **parts: Any) -> C:
    """A copy that carries what it was bound to beside its fields, which are what YAML may say."""
    out = copy.copy(check)
    for name, part in parts.items():
        object.__setattr__(out, name, part)  # they are frozen
    return out
