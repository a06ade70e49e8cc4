"""Limits as a worker keeps to them: those of keys, and places for so many requests at once, are the supervisor's to
give. Keys without limits are counted here, and what they have spent is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.access.account import Account
from gateway.access.keys import KeyInfo
from gateway.access.ledger import Entry, Ledger, Used
from gateway.access.limits import Limits
from gateway.chat import Cap
from gateway.errors import BudgetReached
from gateway.responders.slots import Slots
from gateway.store.database import Database
from gateway.trace import RequestTrace
from gateway.workers.channel import Channel


@dataclass(frozen=True, slots=True)
class Admitted:
    """What the supervisor says of a request that it lets in. `left_usd`: of the key's budget, None where it has none;
    `too_dear`: headers of the refusal, where a model may cost more."""

    headers: list[tuple[bytes, bytes]]
    left_usd: float | None = None
    too_dear: Mapping[str, str] = field(default_factory=dict)


class SharedLedger(Ledger):
    """Args: `channel` leads to the supervisor, whose ledger it is."""

    def __init__(self, database: Database, channel: Channel) -> None:
        super().__init__(database)
        self._channel = channel

    async def enter(self, key: KeyInfo, tokens: Callable[[int], int]) -> Entry:
        if not key.limits.are_counted:
            return await super().enter(key, tokens)
        held, fixed, each = self._channel.number(), 0, 0
        if key.limits.counts_tokens:  # which grow with what an answer of the key usually has: the supervisor knows that
            fixed = tokens(0)
            each = tokens(1) - fixed
        try:
            admitted = await self._channel.ask("enter", held, key, fixed, each)
        except BaseException:
            self._channel.tell("end", held, Used())
            raise
        return SharedEntry(self, key, held, admitted, self._channel)

    async def told(self, key: KeyInfo) -> dict[str, object]:
        await self.flush()
        told: dict[str, object] = await self._channel.ask("told", key)
        return told

    async def start(self) -> None:
        self._begin()

    async def flush(self) -> bool:
        changed, self._changed = self._changed, set()
        spent = {(key, day): sums for key in changed for day, sums in self._accounts[key].unsaved.items()}
        for key in changed:
            self._accounts[key].unsaved.clear()
        if spent:
            self._channel.tell("spent", spent)
        return True

    async def _prune(self) -> None:
        """The supervisor does."""


class SharedEntry(Entry):
    """One request that the supervisor has let in, and counts until it ends."""

    def __init__(self, ledger: Ledger, key: KeyInfo, held: int, admitted: Admitted, channel: Channel) -> None:
        super().__init__(ledger, key, Account(), 0)
        self._held, self._admitted, self._channel = held, admitted, channel

    @property
    def cap(self) -> Cap | None:
        left_usd = self._admitted.left_usd
        if left_usd is None:
            return None
        return SharedCap(self.key.limits, self._held, left_usd, self._admitted.too_dear, self._channel)

    def end(self, trace: RequestTrace) -> None:
        self._channel.tell("end", self._held, Used.of(trace))

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._admitted.headers


class SharedCap:
    """What the budget of a key leaves for one request, as it was when the supervisor was last asked."""

    def __init__(
        self, limits: Limits, held: int, left_usd: float, too_dear: Mapping[str, str], channel: Channel
    ) -> None:
        self._limits, self._held, self._channel = limits, held, channel
        self.left_usd, self._too_dear = left_usd, too_dear

    @property
    def max_usd(self) -> float:
        return min(most for most in (self._limits.usd_per_day, self._limits.usd_per_month) if most is not None)

    async def hold(self, usd: float) -> bool:
        is_held, self.left_usd = await self._channel.ask("hold", self._held, usd)
        return bool(is_held)

    def refusal(self, message: str) -> BudgetReached:
        error = BudgetReached(f"{message}, the budget of this key", retry_after_s=0.0)
        error.headers = dict(self._too_dear)
        return error


class SharedSlots(Slots):
    """Places that all workers share; `place` names them, None those around all requests."""

    def __init__(self, channel: Channel, place: str | None, count: int | None = None) -> None:
        self._channel, self._place = channel, place
        super().__init__(count)

    @asynccontextmanager
    async def taken(
        self, deadline: float | None, name: str, priority: int = 0, wait_s: float | None = None
    ) -> AsyncIterator[None]:
        if self.count is None:
            yield
            return
        held = self._channel.number()
        try:
            await self._channel.ask("take", held, (self._place, self.count), deadline, name, priority, wait_s)
            yield
        finally:
            self._channel.tell("leave", held, 0, False)
