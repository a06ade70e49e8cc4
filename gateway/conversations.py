"""What conversations are tied to: which model of ours made which tool call and which signed reasoning."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from gateway.history import MakerOf, marks_of
from gateway.past import SIGNED_FIELDS
from gateway.tools import objects_in

LIMIT = 50_000  # about 10 MB
TIES = frozenset({"tool_calls", *SIGNED_FIELDS})


def are_tied(messages: Sequence[Mapping[str, Any]]) -> bool:
    """May some of it have been made by one model alone?"""
    return not TIES.isdisjoint(set().union(*messages))


class Maker(NamedTuple):
    """A model by its name in models.yaml, and by which way it was asked."""

    model: str
    policy: str | None
    route: str | None


class Conversations:
    """In memory, the least recently used forgotten first. Nothing of what was said is kept, only hashes; what one API
    key's answers held is not found with another."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._makers: OrderedDict[int, Maker] = OrderedDict()
        self.on_note: Callable[[list[int], Maker], None] | None = None
        """For other processes to `hear`, whose hashes are the same; that of None never is."""

    def __len__(self) -> int:
        return len(self._makers)

    def note(self, key: str | None, completion: Mapping[str, Any], maker: Maker) -> None:
        """Args: `completion` is the answer that it gave to a holder of `key`."""
        found: list[int] = []
        for choice in objects_in(completion.get("choices")):
            message = choice.get("message")
            if isinstance(message, dict) and not TIES.isdisjoint(message):
                found += (hash((key or "", mark)) for mark in marks_of(message))
        if found:
            self.hear(found, maker)
            if self.on_note is not None:
                self.on_note(found, maker)

    def hear(self, found: Sequence[int], maker: Maker) -> None:
        """What this one has made, by its hashes."""
        for tied in found:
            self._makers[tied] = maker
            self._makers.move_to_end(tied)
        while len(self._makers) > self._limit:
            self._makers.popitem(last=False)

    def find(self, key: str | None, mark: int) -> Maker | None:
        tied = hash((key or "", mark))
        maker = self._makers.get(tied)
        if maker is not None:
            self._makers.move_to_end(tied)
        return maker

    def maker_of(self, key: str | None) -> MakerOf:
        """Who made what has a mark, among the answers to holders of this key."""
        return partial(self._model, key)

    def _model(self, key: str | None, mark: int) -> str | None:
        maker = self.find(key, mark)
        return maker.model if maker is not None else None
