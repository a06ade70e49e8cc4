"""What the configuration says of shards: who reads them, who writes them, with whom they are shared. Light to import: a
server without shards needs no more."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.chat import Responder
from gateway.shards import Kind, Scope
from gateway.shards.rendering import Size


@dataclass(frozen=True)
class Reader:
    """A model that shards are given to. `fingerprint`: changes with the model."""

    name: str
    size: Size
    fingerprint: str = ""


@dataclass(frozen=True)
class Wanted:
    """What a policy says of shards. `tokens`: less than the reader has room for."""

    kinds: frozenset[Kind] = frozenset(Kind)
    tokens: int | None = None


@dataclass(frozen=True)
class Source:
    """Another gateway whose shards are followed. `publisher`: its key, as it shows it."""

    name: str
    url: str
    publisher: str
    api_key: str | None = None
    interval_s: float = 60.0
    needs_review: bool = False
    scope: Scope = Scope.GLOBAL


@dataclass(frozen=True)
class Sharing:
    """`trust`: keys of publishers of bundles."""

    sources: tuple[Source, ...] = ()
    trust: tuple[str, ...] = ()
    publishes: bool = False
    republishes: bool = False


@dataclass(frozen=True)
class Subject:
    """A reader that can be asked."""

    reader: Reader
    responder: Responder


@dataclass(frozen=True)
class Orders:
    """What the configuration says of the work.

    Args:
        subjects: readers for whom shards are proven.
        author: the large model that writes; None: shards are made of examples alone.
        reviewed: policies whose shards wait for approval.
        is_automatic: False: candidates are tested only when somebody says so.
        sharing: with whom shards are shared.
    """

    subjects: tuple[Subject, ...] = ()
    author: Subject | None = None
    reviewed: frozenset[str] = frozenset()
    is_automatic: bool = True
    sharing: Sharing = Sharing()
