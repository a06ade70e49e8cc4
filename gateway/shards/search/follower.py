"""Reads what changed in the shards' tables, whoever wrote it, into the index of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gateway.shards.search.registry import Registry
from gateway.shards.search.rows import Rows
from gateway.shards.search.text_search import TextSearch
from gateway.shards.search.vectors import Ids, Vectors, unit_rows

if TYPE_CHECKING:
    from gateway.shards.search.postgres_rows import PostgresText

PAGE = 512  # rows read and indexed in one go: searches come between
WINDOW = 512  # keys without a vector that are looked at in one go
LOOKED_AT = 4096  # of those at each poll; a thorough look takes all
WITNESSES = 16
GROWN = 1.25  # words are counted anew when there are so many more keys, and ...
GROWN_BY = 1000


class Follower:
    """Blocking, for one thread with a connection of its own.

    A shard's keys are deleted and made anew with each change, with numbers that were never used before: new keys are
    those with higher numbers, and of what a changed shard had, what is no longer in the table is gone. Each statement
    sees its own moment of the database. What is deleted after revisions were read has a higher one, so the next time
    finds it.

    That a vector was put is seen in no revision: keys without one are looked at again, the newest first. That all were
    taken away (another model makes them now) is seen by a few that are known by heart.
    """

    def __init__(
        self, rows: Rows, vectors: Vectors, text: TextSearch | PostgresText, is_closing: Callable[[], bool]
    ) -> None:
        self._rows, self._vectors, self._text, self._is_closing = rows, vectors, text, is_closing
        self.registry = Registry()
        self.is_complete = False
        self._revision = 0
        self._version: object = None  # of the database, as this connection sees it: any commit changes it
        self._counted = -1  # keys when words were counted
        self._witnesses: dict[int, bytes] = {}
        self._cursor = 0

    def complete(self) -> Registry | None:
        """What is held; None as long as what was there at the start is read."""
        return self.registry if self.is_complete else None

    def catch_up(self, thorough: bool = False) -> None:
        """Raises: Unreadable."""
        version = self._rows.version()
        if version == self._version and not thorough:
            return
        if self._is_replaced():
            self._start_anew()
        if not len(self.registry):
            self._revision = self._rows.newest()
            self._count_words()
        self._remove_changed()
        self._add_new()
        self._fill(thorough)
        if self._is_closing():
            return
        if not self._witnesses:
            others = self._rows.vectors(self.registry.with_vector()[:WITNESSES].tolist())
            self._witnesses = {number: vector for number, vector in others.items() if vector}
        self._vectors.publish()
        self.is_complete = True
        self._count_words()
        self._version = version

    def _is_replaced(self) -> bool:
        """Did another model make the vectors anew? A key that went with its shard tells nothing."""
        stored = self._rows.vectors(list(self._witnesses))
        self._witnesses = {number: vector for number, vector in self._witnesses.items() if number in stored}
        return any(stored[number] != vector for number, vector in self._witnesses.items())

    def _start_anew(self) -> None:
        self._vectors.clear()
        self.registry = Registry()
        self._witnesses = {}
        self._revision, self._cursor, self.is_complete = 0, 0, False

    def _count_words(self) -> None:
        if self._counted < 0 or len(self.registry) > self._counted * GROWN + GROWN_BY:
            self._text.count_words(self._rows)  # type: ignore[arg-type]  # both are of one kind
            self._counted = len(self.registry)

    def _remove_changed(self) -> None:
        while not self._is_closing():
            rows = self._rows.changed(self._revision, PAGE)
            if not rows:
                return
            held = self.registry.of_shards([shard for _, shard in rows])
            if len(held):
                there = self._rows.still_there(held.tolist())
                gone = np.setdiff1d(held, np.array(there, np.int64))
                for audience, ids in self.registry.remove(gone).items():
                    self._vectors.remove(audience, ids)
            self._revision = rows[-1][0]

    def _add_new(self) -> None:
        while not self._is_closing():
            rows = self._rows.new_keys(self.registry.last, PAGE)
            if not rows:
                return
            ids, shards, audiences, blobs = zip(*rows, strict=True)
            self.registry.add(np.array(ids, np.int64), shards, audiences, np.array([b is not None for b in blobs]))
            self._place(ids, audiences, blobs)

    def _place(self, ids: Sequence[int], audiences: Sequence[str], blobs: Sequence[bytes | None]) -> None:
        """Keys of one audience with vectors of one length go together."""
        members: dict[tuple[str, int], list[int]] = {}
        for n, blob in enumerate(blobs):
            if blob and len(blob) % 4 == 0:
                members.setdefault((audiences[n], len(blob) // 4), []).append(n)
                if len(self._witnesses) < WITNESSES:
                    self._witnesses[ids[n]] = blob
        parts = []
        for place, own in members.items():
            rows, good = unit_rows([blobs[n] or b"" for n in own])
            numbers = np.array([ids[n] for n in own], np.int64)
            if good.any():
                parts.append((place, numbers[good], rows[good]))
        if parts:
            self._vectors.add(parts, self._is_closing)

    # -- vectors that were put later -----------------------------------------------------------------------------

    def _fill(self, thorough: bool) -> None:
        """The newest first, as long as any of a window has come; and then a window further on each time."""
        waiting = self.registry.without_vector()[::-1]
        if thorough or len(waiting) <= LOOKED_AT:
            for start in range(0, len(waiting), WINDOW):
                self._fill_window(waiting[start : start + WINDOW])
            return
        for start in range(0, len(waiting), WINDOW):
            if not self._fill_window(waiting[start : start + WINDOW]):
                break
        waiting = self.registry.without_vector()[::-1]
        more = True
        while more:
            more = self._fill_window(waiting[self._cursor : self._cursor + WINDOW])
            self._cursor += WINDOW
            if self._cursor >= len(waiting):
                self._cursor, more = 0, False

    def _fill_window(self, numbers: Ids) -> bool:
        """True if any had come."""
        if not len(numbers) or self._is_closing():
            return False
        rows = {key: vector for key, vector in self._rows.vectors(numbers.tolist()).items() if vector is not None}
        if rows:
            ids, blobs = list(rows), list(rows.values())
            self._place(ids, self.registry.embed(np.array(ids, np.int64)), blobs)
        return bool(rows)
