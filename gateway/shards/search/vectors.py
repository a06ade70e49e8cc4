"""Vectors of keys in memory, by audience: an exact matrix while they are few, a graph (HNSW) above."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from usearch.index import Index

Ids = NDArray[np.int64]
Matrix = NDArray[np.float32]

EXACT_LIMIT = 50_000  # keys of one audience: 77 MB with 384 numbers each, 5 to 10 ms
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 12, 40, 96
"""Of the graph, with 8-bit numbers: 0.6 kB a key and half the building time of usearch's own 16 and 128. What it finds
is to be ranked again by the exact vectors: 8 bits are good to about 0.005 of a cosine."""

SLICE = 64  # keys added to a graph in one go: 0.3 ms each
GROWTH = 1.25
EMPTY = 1e-12


def unit_rows(blobs: Sequence[bytes]) -> tuple[Matrix, NDArray[np.bool_]]:
    """float32 in little-endian order, all of one length; which rows are vectors at all (finite, not zero)."""
    rows = np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        good = np.isfinite(norms) & (norms > EMPTY)
        return (rows / np.where(good, norms, 1.0)[:, None]).astype(np.float32, copy=False), good


def unit_vector(blob: bytes | None) -> Matrix | None:
    if not blob or len(blob) % 4:
        return None
    rows, good = unit_rows([blob])
    return rows[0] if good[0] else None


def members(values: Ids, few: Ids) -> NDArray[np.bool_]:
    """`np.isin`, for few among many."""
    if not len(few):
        return np.zeros(len(values), np.bool_)
    few = np.sort(few)
    is_member: NDArray[np.bool_] = few[np.minimum(np.searchsorted(few, values), len(few) - 1)] == values
    return is_member


class ExactGroup:
    """A matrix. Changes and searches have to come one after the other."""

    def __init__(self, dimensions: int) -> None:
        self._ids: Ids = np.empty(0, np.int64)
        self._rows: Matrix = np.empty((0, dimensions), np.float32)
        self._size = 0
        self._is_sorted = True  # as long as nothing goes from the middle

    def __len__(self) -> int:
        return self._size

    @property
    def ids(self) -> Ids:
        return self._ids[: self._size]

    @property
    def rows(self) -> Matrix:
        return self._rows[: self._size]

    @property
    def size_bytes(self) -> int:
        return self._rows.nbytes + self._ids.nbytes

    def add(self, ids: Ids, rows: Matrix) -> None:
        end = self._size + len(ids)
        if end > len(self._ids):  # no spare room for the first: there may be an audience for each user
            self._resize(max(end, int(len(self._ids) * GROWTH)))
        self._ids[self._size : end], self._rows[self._size : end] = ids, rows
        self._is_sorted = self._is_sorted and bool((np.diff(self._ids[max(0, self._size - 1) : end]) > 0).all())
        self._size = end

    def _places(self, ids: Ids) -> NDArray[np.intp]:
        if not self._is_sorted:
            return np.flatnonzero(members(self.ids, ids))
        places = np.searchsorted(self.ids, ids)
        places = places[places < self._size]
        return places[np.isin(self.ids[places], ids)]

    def remove(self, ids: Ids) -> None:
        """The last rows take the places of those that go."""
        gone = np.sort(self._places(ids))
        left = self._size - len(gone)
        holes, tail = gone[gone < left], np.setdiff1d(np.arange(left, self._size), gone)
        self._ids[holes], self._rows[holes] = self._ids[tail], self._rows[tail]
        self._is_sorted = self._is_sorted and not len(holes)
        self._size = left
        if left < len(self._ids) // 2:
            self._resize(left)

    def _resize(self, capacity: int) -> None:
        ids, rows = np.empty(capacity, np.int64), np.empty((capacity, self._rows.shape[1]), np.float32)
        ids[: self._size], rows[: self._size] = self.ids, self.rows
        self._ids, self._rows = ids, rows

    def nearest(self, vector: Matrix, count: int, also: Ids) -> dict[int, float]:
        """Cosines of the nearest keys, and of those of `also` that are here."""
        cosines = np.vecdot(self.rows, vector)  # `@` would start threads of BLAS, that spin and wait for each other
        places = np.arange(self._size) if self._size <= count else np.argpartition(-cosines, count)[:count]
        places = np.concatenate((places, self._places(also)))
        return dict(zip(self.ids[places].tolist(), cosines[places].tolist(), strict=True))


class GraphGroup:
    """usearch's HNSW. What it finds is approximate: rank it by the stored vectors."""

    def __init__(self, dimensions: int) -> None:
        import onnxruntime  # noqa: F401  # before usearch, which loads symbols for all to see: the other way it crashes
        from usearch.index import Index  # 30 ms, and only large stores need it

        self._index: Index = Index(
            ndim=dimensions,
            metric="cos",
            dtype="i8",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )

    def __len__(self) -> int:
        return len(self._index)

    @property
    def size_bytes(self) -> int:
        return int(self._index.memory_usage)

    def add(self, ids: Ids, rows: Matrix) -> None:
        self._index.add(ids.astype(np.uint64), rows, threads=max(1, (os.cpu_count() or 1) // 2))

    def remove(self, ids: Ids) -> None:
        keys = ids.astype(np.uint64)
        keys = keys[self._index.contains(keys)]
        if len(keys):
            self._index.remove(keys)

    def nearest(self, vector: Matrix, count: int) -> list[int]:
        found: list[int] = self._index.search(vector, count, threads=1).keys.tolist()
        return found


Group = ExactGroup | GraphGroup
Place = tuple[str, int]
"""An audience, and how many numbers its vectors have."""


class Vectors:
    """The groups. One thread searches, another writes; what the writer does to a group that is searched it does by
    `in_turn`, which runs it in the searching thread. A graph is built aside, and takes over by `publish`.

    Args:
        in_turn: runs a function between two searches, and waits for it.
    """

    def __init__(self, in_turn: Callable[[Callable[[], None]], None], exact_limit: int = EXACT_LIMIT) -> None:
        self._in_turn, self._exact_limit = in_turn, exact_limit
        self._groups: dict[Place, Group] = {}
        self._building: dict[Place, GraphGroup] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.copy().values()))

    @property
    def size_bytes(self) -> int:
        groups = (*self._groups.copy().values(), *self._building.copy().values())
        return sum(group.size_bytes for group in groups)

    # -- of the searching thread ---------------------------------------------------------------------------------

    def nearest(
        self, audiences: Sequence[str], vector: Matrix, count: int, also: Sequence[int]
    ) -> tuple[dict[int, float], list[int]]:
        """Exact cosines of the nearest keys (and of those of `also` that have one), and keys found in graphs, whose
        cosines have to be worked out."""
        exact: dict[int, float] = {}
        rough: list[int] = []
        others = np.array(also, np.int64)
        for audience in audiences:
            group = self._groups.get((audience, len(vector)))
            if isinstance(group, ExactGroup):
                exact |= group.nearest(vector, count, others)
            elif group is not None:
                rough += group.nearest(vector, count)
        return exact, rough

    # -- of the writing thread -----------------------------------------------------------------------------------

    def add(self, parts: Sequence[tuple[Place, Ids, Matrix]], is_closing: Callable[[], bool]) -> None:
        """Keys that are new here."""
        small = [part for part in parts if self._is_small(part[0])]
        self._in_turn(lambda: self._add_exact(small))
        for place, ids, rows in parts:
            group = self._groups[place]
            if place not in self._building and isinstance(group, ExactGroup):
                if len(group) > self._exact_limit:
                    graph = self._building[place] = GraphGroup(place[1])
                    self._add_to_graph(graph, group.ids, group.rows, is_closing, aside=True)
            elif place in self._building:
                self._add_to_graph(self._building[place], ids, rows, is_closing, aside=True)
            elif isinstance(group, GraphGroup):
                self._add_to_graph(group, ids, rows, is_closing, aside=False)

    def _is_small(self, place: Place) -> bool:
        return place not in self._building and not isinstance(self._groups.get(place), GraphGroup)

    def _add_exact(self, parts: Sequence[tuple[Place, Ids, Matrix]]) -> None:
        for place, ids, rows in parts:
            group = self._groups.get(place)
            if group is None:
                group = self._groups[place] = ExactGroup(place[1])
            group.add(ids, rows)

    def _add_to_graph(
        self, graph: GraphGroup, ids: Ids, rows: Matrix, is_closing: Callable[[], bool], *, aside: bool
    ) -> None:
        for start in range(0, len(ids), SLICE):
            if is_closing():
                return
            part = slice(start, start + SLICE)
            if aside:
                graph.add(ids[part], rows[part])
            else:
                self._in_turn(lambda part=part: graph.add(ids[part], rows[part]))  # type: ignore[misc]

    def remove(self, audience: str, ids: Ids) -> None:
        places = [place for place in (*self._groups, *self._building) if place[0] == audience]
        self._in_turn(lambda: self._remove(places, ids))

    def _remove(self, places: Sequence[Place], ids: Ids) -> None:
        for place in places:
            for groups in (self._groups, self._building):
                group = groups.get(place)
                if group is not None:
                    group.remove(ids)
                    if not len(group):
                        del groups[place]

    def publish(self) -> None:
        """Graphs that are complete take the places of their matrices."""
        done, self._building = self._building, {}
        self._groups |= done

    def clear(self) -> None:
        self._groups, self._building = {}, {}
