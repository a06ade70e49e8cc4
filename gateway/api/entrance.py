"""Who asks comes in: what the caller's key still allows, and a place where there are only so many."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from gateway.access.keys import KeyInfo
from gateway.access.ledger import Entry
from gateway.access.limits import PRIORITIES
from gateway.errors import BackendError
from gateway.runtime import Runtime
from gateway.trace import RequestTrace

GATEWAY = "the gateway"


def key_of(caller: Mapping[str, Any]) -> KeyInfo | None:
    """Args: `caller` is `scope["gateway"]`."""
    key: KeyInfo | None = caller["info"]
    return key


@asynccontextmanager
async def entered(
    runtime: Runtime,
    caller: Mapping[str, Any],
    trace: RequestTrace,
    tokens: Callable[[int], int],
    deadline: float | None,
) -> AsyncIterator[Entry | None]:
    """Around a request. None where nobody has a key.

    Args: `tokens`: see `Ledger.enter`. Raises: RateLimited, BudgetReached, Overloaded, BackendTimeout.
    """
    key = key_of(caller)
    entry = await runtime.ledger.enter(key, tokens) if key is not None and runtime.ledger is not None else None
    if entry is not None:
        caller["told"].extend(entry.headers())
    gate = runtime.gate
    priority = PRIORITIES[key.limits.priority] if key is not None else 0
    try:
        async with nullcontext() if gate.count is None else gate.taken(deadline, GATEWAY, priority, runtime.wait_s):
            yield entry
    except BackendError as error:
        if entry is not None:  # limits of an upstream's key are none of this one's
            error.headers = {name: v for name, v in error.headers.items() if not name.startswith("x-ratelimit-")}
        raise
    finally:
        if entry is not None:
            entry.end(trace)
