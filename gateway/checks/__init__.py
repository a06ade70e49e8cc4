"""Is this draft good enough? One predicate per file, registered by name with `@check("name")`.

A check is a frozen pydantic dataclass: its fields are its YAML parameters, and its first field is the one that a bare
value sets (`{regex: "^[A-Z]"}`). It is called with the request, the draft and the trace, and judges every choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import ConfigDict

from gateway.chat import ChatRequest, Verdict
from gateway.draft import Draft
from gateway.trace import Trace

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class Check(Protocol):
    """Args of the call: the request, the draft (`draft.complete` is False on a prefix), and the trace of its tier."""

    name: ClassVar[str]
    can_fail_prefix: ClassVar[bool]  # does it mean something on a prefix? Then it can end a draft early
    prefix_words: ClassVar[int | None]  # a prefix of so many words is enough to pass; None: it must see all of it
    asks: ClassVar[Mapping[str, Any]]  # request fields it needs set; what they add is hidden from the client
    needs: ClassVar[tuple[str, ...]]  # request fields that a model must be shown, or its draft cannot pass

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict: ...


C = TypeVar("C")
CHECKS: dict[str, type[Any]] = {}


def check(
    name: str,
    *,
    can_fail_prefix: bool = False,
    prefix_words: int | None = None,
    asks: Mapping[str, Any] | None = None,
    needs: tuple[str, ...] = (),
) -> Callable[[type[C]], type[C]]:
    """Class decorator: makes the class known to YAML as `name`. A prefix that is enough to pass can fail, too."""

    def register(kind: type[C]) -> type[C]:
        kind.name = name  # type: ignore[attr-defined]  # the decorator is what gives it these
        kind.can_fail_prefix = can_fail_prefix or prefix_words is not None  # type: ignore[attr-defined]
        kind.prefix_words = prefix_words  # type: ignore[attr-defined]
        kind.asks = dict(asks or {})  # type: ignore[attr-defined]
        kind.needs = needs  # type: ignore[attr-defined]
        CHECKS[name] = kind
        return kind

    return register
