"""Counts by labels, as plain numbers, of so many sets of labels at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

MOST = 1_000
"""Sets of labels of one metric. Names come from the configuration, but over years of reloads they may be many."""
OTHER = "other"

T = TypeVar("T")
Labels = tuple[str, ...]


class Counts(dict[Labels, float]):
    """Sums by labels; past `most`, all others count together."""

    def __init__(self, most: int = MOST) -> None:
        super().__init__()
        self._most = most

    def add(self, labels: Labels, amount: float = 1) -> None:
        try:
            self[labels] += amount
        except KeyError:
            if len(self) >= self._most:
                labels = (OTHER,) * len(labels)
            self[labels] = self.get(labels, 0) + amount

    def merge(self, other: Counts) -> None:
        for labels, amount in other.items():
            self.add(labels, amount)


class Kept(dict[Labels, T]):
    """One of something that counts for each set of labels, made when first asked for; past `most`, one for all others.
    To be read with `[]`."""

    def __init__(self, make: Callable[[], T], most: int = MOST) -> None:
        super().__init__()
        self._make, self._most = make, most

    def __missing__(self, labels: Labels) -> T:
        if len(self) >= self._most:
            labels = (OTHER,) * len(labels)
            if labels in self:
                return self[labels]
        made = self[labels] = self._make()
        return made

    def merge(self, other: Kept[T], add: Callable[[T, T], None]) -> None:
        """Args: `add` adds the second of two to the first."""
        for labels, one in other.items():
            add(self[labels], one)
