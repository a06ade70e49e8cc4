"""Which keys an index holds: 21 bytes each, so that what a changed shard had is found again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.shards.search.vectors import Ids, members

GROWTH = 1.25
GONE = -1


class Registry:
    """Of numbered keys: shard (as a hash), audience, and whether it has a vector. For one thread; numbers only grow."""

    def __init__(self) -> None:
        self._ids: Ids = np.empty(0, np.int64)
        self._shards: Ids = np.empty(0, np.int64)
        self._groups = np.empty(0, np.int32)
        self._embedded = np.empty(0, np.bool_)
        self._end = 0
        self._gone = 0
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self.counts: dict[str, int] = {}  # keys of each audience; read by other threads, as is the next
        self.embedded = 0  # keys that have a vector

    def __len__(self) -> int:
        return self._end - self._gone

    @property
    def size_bytes(self) -> int:
        return self._ids.nbytes + self._shards.nbytes + self._groups.nbytes + self._embedded.nbytes

    @property
    def last(self) -> int:
        """The highest number ever added; 0 before the first."""
        return int(self._ids[self._end - 1]) if self._end else 0

    def add(self, ids: Ids, shards: Sequence[str], audiences: Sequence[str], embedded: NDArray[np.bool_]) -> None:
        start, self._end = self._end, self._end + len(ids)
        if self._end > len(self._ids):
            self._resize(max(self._end, int(len(self._ids) * GROWTH)))
        here = slice(start, self._end)
        self._ids[here], self._embedded[here] = ids, embedded
        self._shards[here] = [hash(shard) for shard in shards]
        self._groups[here] = [self._number(audience) for audience in audiences]
        self.embedded += int(embedded.sum())
        for audience in audiences:
            self.counts[audience] = self.counts.get(audience, 0) + 1

    def _number(self, audience: str) -> int:
        number = self._numbers.setdefault(audience, len(self._names))
        if number == len(self._names):
            self._names.append(audience)
        return number

    def of_shards(self, shards: Sequence[str]) -> Ids:
        """Keys of these shards; by chance (64-bit hashes) one of another's may be among them."""
        wanted = np.array([hash(shard) for shard in shards], np.int64)
        is_meant = members(self._shards[: self._end], wanted) & (self._groups[: self._end] != GONE)
        held: Ids = self._ids[: self._end][is_meant]
        return held

    def remove(self, ids: Ids) -> dict[str, Ids]:
        """Returns those that had a vector, by audience."""
        places = self._places(ids)
        by_audience: dict[str, Ids] = {}
        for group, count in zip(*np.unique(self._groups[places], return_counts=True), strict=True):
            name = self._names[group]
            own = places[self._groups[places] == group]
            with_vector = self._ids[own[self._embedded[own]]]
            if len(with_vector):
                by_audience[name] = with_vector
                self.embedded -= len(with_vector)
            self.counts[name] -= int(count)
            if not self.counts[name]:
                del self.counts[name]
        self._groups[places] = GONE
        self._gone += len(places)
        if self._gone > self._end // 2:
            self._compact()
        return by_audience

    def without_vector(self) -> Ids:
        waiting: Ids = self._ids[: self._end][~self._embedded[: self._end] & (self._groups[: self._end] != GONE)]
        return waiting

    def with_vector(self) -> Ids:
        held: Ids = self._ids[: self._end][self._embedded[: self._end] & (self._groups[: self._end] != GONE)]
        return held

    def embed(self, ids: Ids) -> list[str]:
        """They have a vector now. Returns their audiences."""
        places = self._places(ids)
        self.embedded += int((~self._embedded[places]).sum())
        self._embedded[places] = True
        return [self._names[group] for group in self._groups[places]]

    def _places(self, ids: Ids) -> NDArray[np.intp]:
        return np.searchsorted(self._ids[: self._end], ids)

    def _compact(self) -> None:
        """The last stays, gone or not: what was read is known by it."""
        kept = np.flatnonzero(self._groups[: self._end] != GONE)
        kept = np.union1d(kept, [self._end - 1])
        for name in ("_ids", "_shards", "_groups", "_embedded"):
            setattr(self, name, getattr(self, name)[kept])
        self._end, self._gone = len(kept), int(np.count_nonzero(self._groups == GONE))

    def _resize(self, capacity: int) -> None:
        for name in ("_ids", "_shards", "_groups", "_embedded"):
            column = getattr(self, name)
            larger = np.empty(capacity, column.dtype)
            larger[: len(column)] = column
            setattr(self, name, larger)
