"""How often the answers of a cascade's tiers are not taken: what the next layer may be loaded ahead for."""

from __future__ import annotations

PRIOR_LEFT, PRIOR_ASKED = 0.3, 1.0  # before anything is known
MOST = 50.0  # requests remembered: what was long ago counts less


class Odds:
    """Of one tier. Outlives a reload."""

    def __init__(self) -> None:
        self._left, self._asked = PRIOR_LEFT, PRIOR_ASKED

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
