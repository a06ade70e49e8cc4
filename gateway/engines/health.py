"""How one deployment of a model fares: whether it answers, and how quick it is."""

from __future__ import annotations

from enum import IntEnum

from gateway.errors import AddressFault

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
BUSY_S = 1.0  # where an address says that it has too much to do, and not for how long
STOPPING_S = 5.0  # where it stops: a restart takes about as long
LONGEST_BUSY_S = 3600.0  # what is busy is asked all the same, where there is no other
FAILURES_TO_BLAME = 3  # in a row, where each may have been the request's own fault
LATELY_S = 10.0  # what has answered somebody since then may just have had bad luck
NEWEST_END, MUCH_TROUBLE = 0.1, 0.5  # then it takes so large a share of failures, an average: about 7 in a row
DEFINITE = frozenset({AddressFault.UNREACHED, AddressFault.STOPPING, AddressFault.KEY})  # once is enough
NEWEST = 0.3  # what the latest of the times counts in their average
STALE_S = 60.0  # after which nobody knows any more how quick it is


class Rank(IntEnum):
    """How good an address is; a worse one is asked only where no better one is there."""

    UP = 0
    UNSURE = 1  # nobody has heard of it yet
    BUSY = 2  # it has said so
    AWAY = 3  # not to be asked


class Health:
    """Of one address, or of one key there: after a failure it is set aside, for a second at first and twice as long
    each time, and then tried with one request at a time until something comes of it."""

    def __init__(self, first_pause_s: float = FIRST_PAUSE_S, longest_pause_s: float = LONGEST_PAUSE_S) -> None:
        self._first_pause_s, self._longest_pause_s = first_pause_s, longest_pause_s
        self.failures = 0  # in a row
        self.doubts = 0  # failures in a row while it was not set aside
        self.trouble = 0.0  # the share of failures lately
        self.resumes_at = self.busy_until = self.failed_at = self.answered_at = -float("inf")
        self.trial: object | None = None  # the request that tries it
        self.why = ""

    def rank(self, now: float) -> Rank:
        if self.failures and (now < self.resumes_at or self.trial is not None):
            return Rank.AWAY
        return Rank.BUSY if now < self.busy_until else Rank.UP

    def fail(self, began: float, now: float, fault: AddressFault, retry_after_s: float | None) -> None:
        """Args: `began`: when the request did. What began before the last failure tells nothing new."""
        if fault is AddressFault.BUSY:
            self.busy_until = now + min(BUSY_S if retry_after_s is None else retry_after_s, LONGEST_BUSY_S)
            return
        if began < self.failed_at:
            return
        self.doubts += 1
        self.trouble += NEWEST_END * (1.0 - self.trouble)
        if not self.failures and self._may_be_nothing(fault, now):
            return
        if fault is AddressFault.STOPPING:
            self.failures, pause_s = 1, STOPPING_S
        else:
            self.failures += 1
            pause_s = min(self._first_pause_s * 2.0 ** min(self.failures - 1, 16), self._longest_pause_s)
        self.failed_at = now
        self.resumes_at = now + min(max(pause_s, retry_after_s or 0.0), self._longest_pause_s)

    def hear_of_failure(self, now: float, pause_s: float) -> None:
        """Another gateway has set it aside for so long."""
        if now < self.resumes_at:
            return
        self.failures = max(1, self.failures)
        self.failed_at, self.resumes_at = now, now + min(pause_s, self._longest_pause_s)

    def _may_be_nothing(self, fault: AddressFault, now: float) -> bool:
        if fault in DEFINITE:
            return False
        if now - self.answered_at < LATELY_S:
            return self.trouble < MUCH_TROUBLE
        return fault is AddressFault.FAILED and self.doubts < FAILURES_TO_BLAME

    def recover(self, began: float, now: float | None = None) -> None:
        """Something came of a request."""
        self.answered_at = began if now is None else now
        if began >= self.failed_at:
            self.trouble *= 0.0 if self.failures else 1.0 - NEWEST_END
            self.failures, self.doubts, self.trial = 0, 0, None


class Steadfast(Health):
    """Of a model's only address, which is never set aside: who else would answer?"""

    def fail(self, began: float, now: float, fault: AddressFault, retry_after_s: float | None) -> None:
        pass

    def hear_of_failure(self, now: float, pause_s: float) -> None:
        pass


class Latency:
    """Of one deployment: an average of how long requests waited for their first token, the latest counting most."""

    def __init__(self) -> None:
        self._average_s, self._noted_at = 0.0, -float("inf")

    def note(self, seconds: float, now: float) -> None:
        is_known = self.at(now) is not None
        self._average_s += (seconds - self._average_s) * (NEWEST if is_known else 1.0)
        self._noted_at = now

    def at(self, now: float) -> float | None:
        """None where nobody has asked it for a while."""
        return self._average_s if now - self._noted_at <= STALE_S else None
