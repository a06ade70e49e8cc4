"""Another try at what has failed: whether it can help, and how long to wait before it."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Mapping
from email.utils import parsedate_to_datetime

from gateway.backends.refusals import LASTING, OF_A_MODEL
from gateway.chat import Emit
from gateway.chunks import Chunk
from gateway.errors import AddressFault, BackendError, BackendTimeout, BadBackendReply, ContentFiltered, UpstreamRefused

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0  # at most, before the first try again, and before any
LONGEST_ASKED_S = 1.0  # that an upstream may ask for: whoever has to wait longer is told so, and may do else meanwhile
WITH_OTHERS_S = 0.25  # the same, where somebody else can be asked
MOST_CUTS = 2  # a request at which so many servers broke the connection off is not sent to another: it may be the cause
ONCE_MORE = frozenset({AddressFault.UNREACHED, AddressFault.CUT, AddressFault.UNAVAILABLE, AddressFault.STOPPING})


def can_help(error: BackendError) -> bool:
    """May the same request come to something else there? Not where it is at fault itself, has had its time, or is
    refused for good. What another gateway says of a model of its own, that has tried again."""
    if error.fault is AddressFault.KEY or isinstance(error, BackendTimeout | ContentFiltered):
        return False
    if error.headers.get("x-should-retry") == "false":
        return False
    if isinstance(error, UpstreamRefused):
        is_passing = error.status == 429 or (error.status >= 500 and error.status not in LASTING)
        return is_passing and error.code not in OF_A_MODEL
    return isinstance(error, BadBackendReply) or error.fault in ONCE_MORE


def asked_pause_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that an upstream wants to be left alone, by `retry-after-ms`, or `retry-after` as seconds or a date."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        said = headers.get(name, "")
        try:
            seconds = float(said) * unit_s
        except ValueError:
            continue
        if 0 <= seconds < math.inf:
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except ValueError:
        return None


class Retries:
    """Those of one request: at most so many, and none that would begin at or after `due` (`time.monotonic()`).

    `has_others`: somebody else is asked where this comes to nothing.
    """

    def __init__(self, most: int, due: float, *, has_others: bool = False) -> None:
        self._most, self.due = most, due
        self._longest_asked_s = WITH_OTHERS_S if has_others else LONGEST_ASKED_S
        self._done = self._cuts = 0

    def note(self, error: BackendError) -> None:
        """What each try has ended with."""
        self._cuts += error.fault is AddressFault.CUT

    @property
    def is_suspect(self) -> bool:
        """Is the request itself what servers break down over?"""
        return self._cuts >= MOST_CUTS

    def take(self, error: BackendError) -> bool:
        """Use one up, where there is one left and it can help."""
        if self._done >= self._most or self.is_suspect or not can_help(error) or time.monotonic() >= self.due:
            return False
        self._done += 1
        return True

    async def wait(self, asked_s: float | None) -> bool:
        """Before the one that was taken, as long as was asked for, else for a random time that doubles on average
        with each. False, and at once, where that is too long."""
        if asked_s is None:
            pause_s = random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._done - 1)))
        else:
            pause_s = asked_s * random.uniform(1.0, 1.1)  # not all who were told the same come back together
        is_too_long = asked_s is not None and asked_s > self._longest_asked_s
        if is_too_long or time.monotonic() + pause_s >= self.due:
            return False
        await asyncio.sleep(pause_s)
        return True


class Voice:
    """Stands as `emit`, and knows whether anything has passed."""

    __slots__ = ("_emit", "has_spoken")

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.has_spoken = False

    def __call__(self, chunk: Chunk) -> Awaitable[None]:
        self.has_spoken = True
        return self._emit(chunk)
