"""How often the answers of a cascade's tiers are not taken, and how long they take: what the next layer may be loaded
ahead for, or asked ahead."""

from __future__ import annotations

from collections import deque

PRIOR_LEFT, PRIOR_ASKED = 0.3, 1.0  # before anything is known
MOST = 50.0  # requests remembered: what was long ago counts less
TIMES = 31  # remembered, of each sort
LEAST_TIMES = 5  # that make a median
AT_LEAST_TIMES = 1.25  # what was broken off is taken to have wanted so much more: else the median could only fall


class Odds:
    """Of one tier. Outlives a reload."""

    def __init__(self) -> None:
        self._left, self._asked = PRIOR_LEFT, PRIOR_ASKED
        self._times: dict[bool, deque[float]] = {sort: deque(maxlen=TIMES) for sort in (False, True)}

    def note(self, *, left: bool) -> None:
        if self._asked >= MOST:
            self._left *= 1 - 1 / MOST
            self._asked *= 1 - 1 / MOST
        self._left += left
        self._asked += 1

    @property
    def of_leaving(self) -> float:
        """Chance, in [0, 1], that the next tier is asked."""
        return self._left / self._asked

    def note_time(self, seconds: float, *, whole: bool, at_least: bool = False) -> None:
        """How long the checks had to wait for a draft: for a `whole` one, or for its beginning. `at_least`: nobody
        waited for its end, so that it only tells something where the median is lower."""
        if not at_least:
            self._times[whole].append(seconds)
        elif seconds >= (self.median_s(whole=whole) or 0.0):
            self._times[whole].append(seconds * AT_LEAST_TIMES)

    def median_s(self, *, whole: bool) -> float | None:
        """None before enough is known."""
        times = sorted(self._times[whole])
        return times[len(times) // 2] if len(times) >= LEAST_TIMES else None
