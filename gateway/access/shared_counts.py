"""What keys use, counted in Redis for several gateways at once: counts.lua does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from gateway.access import refusals
from gateway.access.account import Account
from gateway.access.limits import Limits
from gateway.store.redis import Shared

SCRIPT = files("gateway.access").joinpath("counts.lua").read_text("utf-8")
LEASE_S = 30.0  # after which requests of a gateway that is gone count no more as open
RENEW_S = LEASE_S / 3


@dataclass
class Told:
    """How a key stands at the admission of a request, this one included; `usd_left`: and as it goes on.

    Args:
        why: `ok`, or which limit lets nothing in.
        wait_s: until that may let this one in.
    """

    why: str
    wait_s: float
    requests: int
    requests_reset_s: float
    tokens: int
    tokens_reset_s: float
    held_tokens: int
    usd_left: float

    def admit(self, limits: Limits, tokens: int, now: float) -> None:
        """Args: `now` in unix seconds. Raises: RateLimited, BudgetReached."""
        match self.why:
            case "ok":
                pass
            case "open":
                raise refusals.too_many_open(limits)
            case "requests":
                raise refusals.too_often(limits, self.wait_s)
            case "tokens":
                raise refusals.too_many_tokens(limits, tokens, self.wait_s)
            case "tokens_day":
                raise refusals.tokens_spent(limits.tokens_per_day, tokens, now, is_month=False)
            case "tokens_month":
                raise refusals.tokens_spent(limits.tokens_per_month, tokens, now, is_month=True)
            case _:
                raise refusals.money_spent(refusals.SPENT, now, is_month=self.why == "usd_month")


class SharedCounts:
    """Each method asks once. None: Redis does not answer, and each gateway counts for itself. `renew_s`: how often what
    is open is to be renewed."""

    renew_s = RENEW_S

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def enter(
        self, key: int, lease: str, limits: Limits, account: Account, tokens: int, today: str
    ) -> Told | None:
        """Args: `lease`: the request's own name; `tokens` that it may come to."""
        day, month = account.spent(today), account.spent(today[:7])
        found = await self._run(
            "enter",
            key,
            lease,
            today,
            *map(_or_none, (limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)),
            *map(_or_none, (limits.tokens_per_day, limits.tokens_per_month)),
            *map(_or_none, (limits.usd_per_day, limits.usd_per_month)),
            int(limits.counts_money and limits.over_budget == "refuse"),
            tokens,
            *(day.usd, day.tokens, month.usd, month.tokens),
        )
        if found is None:
            return None
        why, wait, requests, requests_reset, used, used_reset, held, left = found
        waits = (float(one) / 1e3 for one in (wait, requests_reset, used_reset))
        wait_s, requests_reset_s, tokens_reset_s = waits
        counts = int(requests), requests_reset_s, int(used), tokens_reset_s, int(held)
        return Told(why.decode(), wait_s, *counts, float(left))

    async def hold(
        self, key: int, lease: str, limits: Limits, account: Account, usd: float, today: str
    ) -> tuple[bool, float] | None:
        """Is there so much left, and is it held from now on? And what is left then, in dollars."""
        most = map(_or_none, (limits.usd_per_day, limits.usd_per_month))
        known = account.spent(today).usd, account.spent(today[:7]).usd
        found = await self._run("hold", key, lease, today, usd, *most, *known)
        return None if found is None else (bool(found[0]), float(found[1]))

    async def end(self, key: int, lease: str, limits: Limits, today: str, tokens: int, usd: float) -> None:
        """It is not open any more; what it used takes the place of what was held."""
        await self._run("end", key, lease, today, tokens, usd, int(limits.tokens_per_minute is not None))

    async def renew(self, key: int, leases: Sequence[str], today: str) -> None:
        await self._run("renew", key, "", today, *leases)

    async def _run(self, step: str, key: int, lease: str, today: str, *values: str | float) -> Any:
        place = f"onion-gateway:{{key {key}}}:"
        names = ("requests", "tokens", "open", "state", today, today[:7])
        asked = (step, lease, int(LEASE_S * 1000), *values)
        return await self._shared.run(SCRIPT, [place + name for name in names], asked)


def _or_none(limit: float | None) -> str | float:
    return "" if limit is None else limit
