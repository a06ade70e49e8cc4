"""How often a model is asked for, and what it costs to bring it back."""

from __future__ import annotations

import math

HALF_LIFE_S = 600.0
SHARE_OF_NEW = 0.3  # of a new measurement in the mean
SECONDS_PER_GIB = 1.0  # of a first load that nobody has measured yet: a slow disk


class Demand:
    """Times are seconds of the pool's clock."""

    def __init__(self) -> None:
        self.load_s: float | None = None  # mean of what loads took
        self.wake_s: float | None = None  # and of wakings from sleep
        self._weight = 0.0  # requests, those of one half-life ago counting half
        self._at = 0.0

    def note_request(self, now: float) -> None:
        self._weight = self._decayed(now) + 1.0
        self._at = now

    def note_load(self, seconds: float) -> None:
        self.load_s = _mean(self.load_s, seconds)

    def note_waking(self, seconds: float) -> None:
        self.wake_s = _mean(self.wake_s, seconds)

    def rate(self, now: float) -> float:
        """Requests per second, lately."""
        return self._decayed(now) * math.log(2) / HALF_LIFE_S

    def expected_load_s(self, size_bytes: int) -> float:
        return self.load_s if self.load_s is not None else 0.5 + SECONDS_PER_GIB * size_bytes / 2**30

    def _decayed(self, now: float) -> float:
        return self._weight * math.exp2((self._at - now) / HALF_LIFE_S)


def _mean(mean: float | None, new: float) -> float:
    return new if mean is None else mean + SHARE_OF_NEW * (new - mean)
