"""What keys use: how often they ask, how much at once, and what they spend; and whether a request is still within that.

All is counted in memory when a request comes and when it ends, so that limits are exact however many clients ask at
once. What was spent is written to the database within a second, and read back with what other processes have spent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from gateway.access.keys import KeyInfo
from gateway.access.limits import Limits
from gateway.chat import Cap
from gateway.errors import BudgetReached, RateLimited
from gateway.store.budgets import KEPT_DAYS, Budgets, Periods, Sums
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.trace import RequestTrace

logger = logging.getLogger(__name__)

WINDOW_S = 60.0
DAY_S = 86_400
FIRST_ANSWER_TOKENS = 256  # what an answer is taken to have, until some were seen
WEIGHT = 0.1  # of the newest answer in their mean


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

    def spent(self, period: str) -> Sums:
        found = self.stored.get(period, Sums())
        for day, sums in self.unsaved.items():
            if day.startswith(period):
                found += sums
        return found

    def usd_left(self, limits: Limits, today: str) -> float:
        """Without what open requests may come to; never below 0."""
        budgets = ((limits.usd_per_day, today), (limits.usd_per_month, today[:7]))
        left = (most - self.spent(period).usd for most, period in budgets if most is not None)
        return max(0.0, min(left) - self.held_usd)


@dataclass(frozen=True, slots=True)
class Used:
    """By one request, once it has ended."""

    tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @classmethod
    def of(cls, trace: RequestTrace) -> Used:
        totals = trace.totals()
        usd = totals.cost_usd if totals.cost_usd is not None else trace.known_cost_usd
        return cls(totals.input_tokens + totals.output_tokens, totals.output_tokens, usd)


class KeyCap:
    """What the budget of a key leaves for one request. What its models may cost is held until it ends."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    @property
    def max_usd(self) -> float:
        limits = self._entry.key.limits
        return min(most for most in (limits.usd_per_day, limits.usd_per_month) if most is not None)

    @property
    def left_usd(self) -> float:
        return self._entry.account.usd_left(self._entry.key.limits, self._entry.today)

    def hold(self, usd: float) -> None:
        self._entry.held_usd += usd
        self._entry.account.held_usd += usd

    async def settle(self) -> None:
        """What was held is."""

    def refusal(self, message: str) -> BudgetReached:
        return self._entry.over_budget(f"{message}, the budget of this key")


class Entry:
    """One request of a key, from its admission until `end`."""

    def __init__(self, ledger: Ledger, key: KeyInfo, account: Account, tokens: int) -> None:
        self.ledger, self.key, self.account = ledger, key, account
        self.today = ledger.today()
        self.held_usd, self.held_tokens = 0.0, tokens
        account.open += 1
        account.held_tokens += tokens

    @property
    def cap(self) -> Cap | None:
        return KeyCap(self) if self.key.limits.counts_money else None

    def over_budget(self, message: str) -> BudgetReached:
        limits, account, now = self.key.limits, self.account, self.ledger.clock()
        is_month = limits.usd_per_month is not None and account.spent(self.today[:7]).usd >= limits.usd_per_month
        return BudgetReached(message, retry_after_s=_until_next(now, month=is_month))

    def end(self, trace: RequestTrace) -> None:
        """Book what it has used in place of what was held for it."""
        self.book(Used.of(trace))

    def book(self, used: Used) -> None:
        account = self.account
        account.open -= 1
        account.held_usd -= self.held_usd
        account.held_tokens -= self.held_tokens
        if used.output_tokens:
            account.mean_answer += WEIGHT * (used.output_tokens - account.mean_answer)
        if self.key.limits.tokens_per_minute is not None:
            account.tokens.add(self.ledger.now(), used.tokens)
        self.ledger.spend(self.key.id, self.today, Sums(used.usd, used.tokens, 1))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's, for the limits that there are."""
        limits, now, out = self.key.limits, self.ledger.now(), list[tuple[bytes, bytes]]()
        windows = (
            (b"requests", limits.requests_per_minute, self.account.requests, 0),
            (b"tokens", limits.tokens_per_minute, self.account.tokens, self.account.held_tokens),
        )
        for name, most, window, held in windows:
            if most is not None:
                left, reset_s = max(0, most - window.at(now) - held), window.empty_in_s(now)
                out.append((b"x-ratelimit-limit-" + name, b"%d" % most))
                out.append((b"x-ratelimit-remaining-" + name, b"%d" % left))
                out.append((b"x-ratelimit-reset-" + name, b"%.3fs" % reset_s))
        return out


class Ledger:
    """Args: `clock`: unix seconds, for days and months; `now`: monotonic seconds, for minutes."""

    def __init__(
        self,
        database: Database,
        flush_s: float = 1.0,
        *,
        clock: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._flush_s, self.clock, self.now = Budgets(database), flush_s, clock, now
        self._accounts: dict[int, Account] = defaultdict(Account)
        self._changed: set[int] = set()
        self._day_began, self._today = -math.inf, ""
        self._pruned = ""  # on which day
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complaints = Complaints(logger)

    def today(self) -> str:
        now = self.clock()
        if not self._day_began <= now < self._day_began + DAY_S:
            self._day_began = now - now % DAY_S  # unix days are UTC's
            self._today = _day(now)
        return self._today

    def account(self, key: KeyInfo) -> Account:
        return self._accounts[key.id]

    async def told(self, key: KeyInfo) -> dict[str, object]:
        """What it has used, for people."""
        account, today, now = self._accounts[key.id], self.today(), self.now()
        periods = (("day", today), ("month", today[:7]))
        spent = {name: asdict(account.spent(period)) for name, period in periods}
        lately = {"requests": account.requests.at(now), "tokens": account.tokens.at(now), "open": account.open}
        return {"used": {"minute": lately, **spent}}

    def spend(self, key: int, day: str, sums: Sums) -> None:
        self._accounts[key].unsaved[day] += sums
        self._changed.add(key)

    async def admit(self, key: KeyInfo, tokens: Callable[[int], int]) -> Entry:
        """`enter`, wherever what keys use is counted."""
        return self.enter(key, tokens)

    def enter(self, key: KeyInfo, tokens: Callable[[int], int]) -> Entry:
        """Admit a request, which `Entry.end` ends.

        Args: `tokens`: of the request and its answer, given how many answers of this key have; asked where it counts.
        Raises: RateLimited, BudgetReached; then nothing is booked.
        """
        limits, account, now = key.limits, self._accounts[key.id], self.now()
        if limits.concurrent is not None and account.open >= limits.concurrent:
            raise RateLimited(f"this key may have {limits.concurrent} requests open at once", retry_after_s=1.0)
        most = limits.requests_per_minute
        if most is not None and account.requests.at(now) >= most:
            wait_s = account.requests.free_in_s(now, most - 1)
            raise RateLimited(f"this key may ask {most} times a minute", retry_after_s=wait_s)
        wanted = tokens(round(account.mean_answer)) if limits.counts_tokens else 0
        self._admit_tokens(limits, account, wanted, now)
        entry = Entry(self, key, account, wanted)
        if limits.counts_money and limits.over_budget == "refuse" and not account.usd_left(limits, entry.today):
            account.open, account.held_tokens = account.open - 1, account.held_tokens - wanted
            raise entry.over_budget("the budget of this key is spent")
        if most is not None:
            account.requests.add(now, 1)
        return entry

    def _admit_tokens(self, limits: Limits, account: Account, wanted: int, now: float) -> None:
        most = limits.tokens_per_minute
        if most is not None and account.tokens.at(now) + account.held_tokens + wanted > most:
            why = f"this key may use {most} tokens a minute, and this request may come to {wanted}"
            wait_s = max(1.0, account.tokens.free_in_s(now, most - wanted))
            raise RateLimited(why, retry_after_s=wait_s, about="tokens")
        if limits.tokens_per_day is None and limits.tokens_per_month is None:
            return
        today = self.today()
        for most, period, name in (
            (limits.tokens_per_day, today, "day"),
            (limits.tokens_per_month, today[:7], "month"),
        ):
            if most is not None and account.spent(period).tokens + account.held_tokens + wanted > most:
                why = f"this key may use {most} tokens a {name}, and this request may come to {wanted} more"
                raise BudgetReached(why, retry_after_s=_until_next(self.clock(), month=name == "month"))

    # -- the database --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read what has been spent. Raises: SQLAlchemyError."""
        for key, periods in (await self._store.read(self.today())).items():
            self._accounts[key].stored = periods
        self._begin()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="budgets")

    async def flush(self) -> bool:
        """Write what was spent. False where the database refused: it is then tried again."""
        changed, self._changed = self._changed, set()
        writing = {(key, day): sums for key in changed for day, sums in self._accounts[key].unsaved.items()}
        if not writing:
            return True
        try:
            stored = await self._store.add(self.today(), writing)
        except Exception as exc:  # locked, disk full: whatever it is, it must not end the task
            self._changed |= changed
            self._complaints.say(f"what keys have spent could not be written: {getattr(exc, 'orig', exc)}")
            return False
        for (key, day), sums in writing.items():
            unsaved = self._accounts[key].unsaved
            unsaved[day] -= sums
            if not unsaved[day].requests:
                del unsaved[day]
        for key, periods in stored.items():
            self._accounts[key].stored = periods
        return True

    async def close(self) -> None:
        self._closing.set()
        if self._task is not None:
            await self._task
        if not await self.flush():
            logger.error("what %d keys have spent last could not be written", len(self._changed))

    async def _keep(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._flush_s)
            await self.flush()
            if self._pruned != self.today() and not self._closing.is_set():
                self._pruned = self.today()
                await self._prune()

    async def _prune(self) -> None:
        try:
            await self._store.prune(_day(self.clock() - KEPT_DAYS * DAY_S))
        except SQLAlchemyError as exc:
            self._complaints.say(f"what keys spent long ago could not be deleted: {getattr(exc, 'orig', exc)}")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _until_next(at: float, *, month: bool) -> float:
    now = datetime.fromtimestamp(at, UTC)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    following = (start.replace(day=1) + timedelta(days=32)).replace(day=1) if month else start + timedelta(days=1)
    return (following - now).total_seconds()
