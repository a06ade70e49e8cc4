"""Log lines about something that keeps failing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class Complaints:
    """At most one warning in `every_s` seconds; the next one tells how many were left out. `clock` counts seconds."""

    def __init__(
        self, logger: logging.Logger, *, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._every_s = every_s
        self._clock = clock
        self._last = float("-inf")
        self._left_out = 0

    def say(self, message: str) -> None:
        now = self._clock()
        if 0 <= now - self._last < self._every_s:  # a clock set back does not silence it
            self._left_out += 1
            return
        more = f" ({self._left_out} more like this since the last line)" if self._left_out else ""
        self._logger.warning("%s%s", message, more)
        self._last = now
        self._left_out = 0
