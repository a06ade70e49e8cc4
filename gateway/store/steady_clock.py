"""The time to delete old rows by, which a clock that is set wrong for a while does not change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

JUMP_S = 86_400.0
DOUBT_S = 86_400.0


class SteadyClock:
    """Unix seconds. Where the clock is set forward by more than a day, this one goes on as before for a day, in which
    the mistake can be undone; then it follows. Set back, it follows at once: less is old then.

    Args: `now`: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time, now: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._now = clock, now
        self._offset = clock() - now()
        self._doubts_since: float | None = None

    def __call__(self) -> float:
        wall, now = self._clock(), self._now()
        steady = now + self._offset
        if wall - steady <= JUMP_S:
            self._believe(wall, now)
        elif self._doubts_since is None:
            self._doubts_since = now
            days = (wall - steady) / 86_400
            logger.warning("the clock was set forward by %.1f days: for a day, rows are not taken to be older", days)
        elif now - self._doubts_since > DOUBT_S:
            self._believe(wall, now)
        return now + self._offset

    def _believe(self, wall: float, now: float) -> None:
        self._offset, self._doubts_since = wall - now, None
