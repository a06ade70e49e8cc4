"""What keys use: how often they ask, how much at once, and what they spend; and whether a request is still within that.

All is counted when a request comes and when it ends, so that limits are exact however many clients ask at once: in
memory by each process, and where several gateways share a Redis, there, for all of them. What was spent is written to
the database within a second, and read back with what other processes have spent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from gateway.access import refusals
from gateway.access.account import Account
from gateway.access.keys import KeyInfo
from gateway.chat import Cap
from gateway.errors import BudgetReached
from gateway.store.budgets import KEPT_DAYS, Budgets, Periods, Sums
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.trace import RequestTrace

if TYPE_CHECKING:
    from gateway.access.shared_counts import SharedCounts, Told

logger = logging.getLogger(__name__)

DAY_S = 86_400
WEIGHT = 0.1  # of the newest answer in their mean
SEEN_FOR_S, SEEN_WITHIN_S = 1.0, 2.0  # what other gateways have written, for those who ask how a key stands


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
        entry = self._entry
        return entry.account.usd_left(entry.key.limits, entry.today) if entry.told is None else entry.told.usd_left

    async def hold(self, usd: float) -> bool:
        entry = self._entry
        is_held = await entry.ledger.hold_shared(entry, usd)
        if is_held is None:
            is_held = usd <= entry.account.usd_left(entry.key.limits, entry.today)
        if is_held:
            entry.held_usd += usd
            entry.account.held_usd += usd
        return is_held

    def refusal(self, message: str) -> BudgetReached:
        return self._entry.over_budget(f"{message}, the budget of this key")


class Entry:
    """One request of a key, from its admission until `end`. `told`: where it was counted for several gateways, how the
    key stood there."""

    def __init__(
        self, ledger: Ledger, key: KeyInfo, account: Account, tokens: int, lease: str = "", told: Told | None = None
    ) -> None:
        self.ledger, self.key, self.account = ledger, key, account
        self.lease, self.told = lease, told
        self.today = ledger.today()
        self.held_usd, self.held_tokens = 0.0, tokens
        account.open += 1
        account.held_tokens += tokens
        if key.limits.requests_per_minute is not None:
            account.requests.add(ledger.now(), 1)

    @property
    def cap(self) -> Cap | None:
        return KeyCap(self) if self.key.limits.counts_money else None

    def over_budget(self, message: str) -> BudgetReached:
        is_month = self.account.is_month(self.key.limits, self.today)
        return refusals.money_spent(message, self.ledger.clock(), is_month=is_month)

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
        self.ledger.book(self, Sums(used.usd, used.tokens, 1))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's, for the limits that there are."""
        limits, account, now, told = self.key.limits, self.account, self.ledger.now(), self.told
        out = list[tuple[bytes, bytes]]()
        if told is None:
            used = account.requests.at(now), account.tokens.at(now) + account.held_tokens
            resets_s = account.requests.empty_in_s(now), account.tokens.empty_in_s(now)
        else:
            used = told.requests, told.tokens + told.held_tokens
            resets_s = told.requests_reset_s, told.tokens_reset_s
        limited = (b"requests", limits.requests_per_minute), (b"tokens", limits.tokens_per_minute)
        for (name, most), count, reset_s in zip(limited, used, resets_s, strict=True):
            if most is not None:
                left = max(0, most - count)
                out.append((b"x-ratelimit-limit-" + name, b"%d" % most))
                out.append((b"x-ratelimit-remaining-" + name, b"%d" % left))
                out.append((b"x-ratelimit-reset-" + name, b"%.3fs" % reset_s))
        return out


class Ledger:
    """Args: `clock`: unix seconds, for days and months; `now`: monotonic seconds, for minutes; `shared`: where several
    gateways count together, as long as it answers."""

    def __init__(
        self,
        database: Database,
        flush_s: float = 1.0,
        *,
        shared: SharedCounts | None = None,
        clock: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._flush_s, self.clock, self.now = Budgets(database), flush_s, clock, now
        self._accounts: dict[int, Account] = defaultdict(Account)
        self._changed: set[int] = set()
        self._shared = shared
        self._leased: dict[int, set[str]] = defaultdict(set)  # open requests that are counted there, by key
        self._renewed = now()
        self._ending: set[asyncio.Task[None]] = set()
        self._day_began, self._today = -math.inf, ""
        self._pruned = ""  # on which day
        self._seen, self._seen_at, self._seeing = dict[int, Periods](), -math.inf, asyncio.Lock()
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
        stored = (await self._stored_by_all()).get(key.id)
        spent = {name: asdict(account.spent(period, stored)) for name, period in periods}
        lately = {"requests": account.requests.at(now), "tokens": account.tokens.at(now), "open": account.open}
        return {"used": {"minute": lately, **spent}}

    async def _stored_by_all(self) -> Mapping[int, Periods]:
        """By key, as of a moment ago; nothing where no other gateway writes, or the database does not answer."""
        if not self._store.is_shared:
            return {}
        async with self._seeing:
            if self.now() - self._seen_at >= SEEN_FOR_S:
                self._seen_at = self.now()
                await self._look()
            return self._seen

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(SEEN_WITHIN_S):
                self._seen = await self._store.read(self.today())
        except (SQLAlchemyError, TimeoutError) as exc:
            why = str(getattr(exc, "orig", exc)) or f"no answer within {SEEN_WITHIN_S:g} s"
            self._complaints.say(f"what keys have spent at other gateways could not be read: {why}")
            self._seen = {}
        if self._seen_at == -math.inf:  # `flush` wrote meanwhile: it may lack that, and `flush` has read more
            self._seen = {}

    async def enter(self, key: KeyInfo, tokens: Callable[[int], int]) -> Entry:
        """Admit a request, which `Entry.end` ends.

        Args: `tokens`: of the request and its answer, given how many answers of this key have; asked where it counts.
        Raises: RateLimited, BudgetReached; then nothing is booked.
        """
        limits, account, today = key.limits, self._accounts[key.id], self.today()
        wanted = tokens(round(account.mean_answer)) if limits.counts_tokens else 0
        if self._shared is not None and limits.are_counted:
            lease = secrets.token_hex(8)
            told = await self._enter_shared(self._shared, key, lease, account, wanted, today)
            if told is not None:
                told.admit(limits, wanted, self.clock())
                self._leased[key.id].add(lease)
                return Entry(self, key, account, wanted, lease, told)
        account.admit(limits, wanted, today, self.now(), self.clock)
        return Entry(self, key, account, wanted)

    async def _enter_shared(
        self, shared: SharedCounts, key: KeyInfo, lease: str, account: Account, wanted: int, today: str
    ) -> Told | None:
        """Who leaves meanwhile keeps no place."""
        entering = asyncio.create_task(shared.enter(key.id, lease, key.limits, account, wanted, today))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            self._finish(self._leave_shared(shared, entering, key, lease, today))
            raise

    async def _leave_shared(
        self, shared: SharedCounts, entering: asyncio.Task[Told | None], key: KeyInfo, lease: str, today: str
    ) -> None:
        if await entering is not None:
            await shared.end(key.id, lease, key.limits, today, 0, 0.0)

    async def hold_shared(self, entry: Entry, usd: float) -> bool | None:
        """Money, until the request ends. None where each process counts for itself."""
        if self._shared is None or entry.told is None:
            return None
        key = entry.key
        found = await self._shared.hold(key.id, entry.lease, key.limits, entry.account, usd, entry.today)
        if found is None:
            entry.told = None  # from now on it goes by what is known here
            return None
        is_held, entry.told.usd_left = found
        return is_held

    def book(self, entry: Entry, sums: Sums) -> None:
        """A request has ended that has used so much."""
        if entry.lease and self._shared is not None:
            self._finish(self._end_shared(self._shared, entry, sums))
        else:
            self.spend(entry.key.id, entry.today, sums)

    def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside all else, and before the ledger closes."""
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_shared(self, shared: SharedCounts, entry: Entry, sums: Sums) -> None:
        """There first: what is in the database is taken to be counted there, and would be counted twice."""
        self._leased[entry.key.id].discard(entry.lease)
        try:
            key = entry.key
            await shared.end(key.id, entry.lease, key.limits, entry.today, sums.tokens, sums.usd)
        finally:
            self.spend(entry.key.id, entry.today, sums)

    def spend(self, key: int, day: str, sums: Sums) -> None:
        """What is to be written of a key."""
        self._accounts[key].unsaved[day] += sums
        self._changed.add(key)

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
        self._seen, self._seen_at = {}, -math.inf  # they lack what was just written
        for (key, day), sums in writing.items():
            unsaved = self._accounts[key].unsaved
            unsaved[day] -= sums
            if not unsaved[day].requests:
                del unsaved[day]
        for key, periods in stored.items():
            self._accounts[key].stored = periods
        return True

    async def close(self) -> None:
        await asyncio.gather(*self._ending)
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
            await self._renew()
            if self._pruned != self.today() and not self._closing.is_set():
                self._pruned = self.today()
                await self._prune()

    async def _renew(self) -> None:
        """Requests that are still open here stay open to all, as long as this process lives."""
        if self._shared is None or self.now() - self._renewed < self._shared.renew_s:
            return
        self._renewed, today = self.now(), self.today()
        for key in [key for key, leases in self._leased.items() if not leases]:
            del self._leased[key]
        for key, leases in list(self._leased.items()):
            await self._shared.renew(key, list(leases), today)

    async def _prune(self) -> None:
        try:
            await self._store.prune(_day(self.clock() - KEPT_DAYS * DAY_S))
        except SQLAlchemyError as exc:
            self._complaints.say(f"what keys spent long ago could not be deleted: {getattr(exc, 'orig', exc)}")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
