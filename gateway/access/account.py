"""What one key uses, counted in this process: windows of a minute, what is open and held, and what was spent."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

from gateway.access import refusals
from gateway.access.limits import Limits
from gateway.store.budgets import Periods, Sums

WINDOW_S = 60.0
FIRST_ANSWER_TOKENS = 256  # what an answer is taken to have, until some were seen


class Window:
    """What was used in the last minute, piece by piece, so that no minute has more, wherever it begins."""

    def __init__(self) -> None:
        self._used: deque[tuple[float, int]] = deque()
        self.total = 0

    def at(self, now: float) -> int:
        while self._used and self._used[0][0] <= now - WINDOW_S:
            self.total -= self._used.popleft()[1]
        return self.total

    def add(self, now: float, count: int) -> None:
        self._used.append((now, count))
        self.total += count

    def empty_in_s(self, now: float) -> float:
        return self._used[-1][0] + WINDOW_S - now if self.at(now) else 0.0

    def free_in_s(self, now: float, room: int) -> float:
        """Until no more than `room` is used."""
        left = self.at(now)
        if left <= room:
            return 0.0
        for at, count in self._used:
            left -= count
            if left <= room:
                return at + WINDOW_S - now
        return WINDOW_S


class Account:
    """Of one key. `stored`: as the database has it; `unsaved`: by day, what is still to be written; `held`: what open
    requests may come to."""

    def __init__(self) -> None:
        self.requests, self.tokens = Window(), Window()
        self.open = 0
        self.stored: Periods = {}
        self.unsaved: dict[str, Sums] = defaultdict(Sums)
        self.held_usd = 0.0
        self.held_tokens = 0
        self.mean_answer = float(FIRST_ANSWER_TOKENS)

    def spent(self, period: str, stored: Periods | None = None) -> Sums:
        """Args: `stored`: where somebody has just looked."""
        found = (self.stored if stored is None else stored).get(period, Sums())
        for day, sums in self.unsaved.items():
            if day.startswith(period):
                found += sums
        return found

    def usd_left(self, limits: Limits, today: str) -> float:
        """Without what open requests may come to; never below 0."""
        budgets = ((limits.usd_per_day, today), (limits.usd_per_month, today[:7]))
        left = (most - self.spent(period).usd for most, period in budgets if most is not None)
        return max(0.0, min(left) - self.held_usd)

    def admit(self, limits: Limits, tokens: int, today: str, now: float, clock: Callable[[], float]) -> None:
        """May a request that comes to so many tokens be let in? Raises: RateLimited, BudgetReached."""
        if limits.concurrent is not None and self.open >= limits.concurrent:
            raise refusals.too_many_open(limits)
        most = limits.requests_per_minute
        if most is not None and self.requests.at(now) >= most:
            raise refusals.too_often(limits, self.requests.free_in_s(now, most - 1))
        most = limits.tokens_per_minute
        if most is not None and self.tokens.at(now) + self.held_tokens + tokens > most:
            raise refusals.too_many_tokens(limits, tokens, self.tokens.free_in_s(now, most - tokens))
        for most, period in ((limits.tokens_per_day, today), (limits.tokens_per_month, today[:7])):
            if most is not None and self.spent(period).tokens + self.held_tokens + tokens > most:
                raise refusals.tokens_spent(most, tokens, clock(), is_month=period != today)
        if limits.counts_money and limits.over_budget == "refuse" and not self.usd_left(limits, today):
            raise refusals.money_spent(refusals.SPENT, clock(), is_month=self.is_month(limits, today))

    def is_month(self, limits: Limits, today: str) -> bool:
        """Is it the budget of the month that is spent?"""
        return limits.usd_per_month is not None and self.spent(today[:7]).usd >= limits.usd_per_month
