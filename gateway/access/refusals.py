"""How a request is turned away that its key does not allow, whoever has counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.access.limits import Limits
from gateway.errors import BudgetReached, RateLimited

SPENT = "the budget of this key is spent"


def too_many_open(limits: Limits) -> RateLimited:
    return RateLimited(f"this key may have {limits.concurrent} requests open at once", retry_after_s=1.0)


def too_often(limits: Limits, wait_s: float) -> RateLimited:
    return RateLimited(f"this key may ask {limits.requests_per_minute} times a minute", retry_after_s=wait_s)


def too_many_tokens(limits: Limits, tokens: int, wait_s: float) -> RateLimited:
    why = f"this key may use {limits.tokens_per_minute} tokens a minute, and this request may come to {tokens}"
    return RateLimited(why, retry_after_s=max(1.0, wait_s), about="tokens")


def tokens_spent(most: int | None, tokens: int, now: float, *, is_month: bool) -> BudgetReached:
    name = "month" if is_month else "day"
    why = f"this key may use {most} tokens a {name}, and this request may come to {tokens} more"
    return BudgetReached(why, retry_after_s=_until_next(now, is_month=is_month))


def money_spent(message: str, now: float, *, is_month: bool) -> BudgetReached:
    return BudgetReached(message, retry_after_s=_until_next(now, is_month=is_month))


def _until_next(at: float, *, is_month: bool) -> float:
    """Args: `at` in unix seconds. Returns: seconds until the day or the month of UTC ends."""
    now = datetime.fromtimestamp(at, UTC)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    following = (start.replace(day=1) + timedelta(days=32)).replace(day=1) if is_month else start + timedelta(days=1)
    return (following - now).total_seconds()
