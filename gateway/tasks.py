"""Several tasks at once, and the end of those in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

AGAIN_S = 1.0
T = TypeVar("T")


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel them, and wait until they have ended, however. A cancellation that a library swallows is repeated: in
    Python 3.11 `asyncio.wait_for` loses one that comes just as what it waits for is done."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """What all of them return; where one fails, the others do not go on. An `asyncio.TaskGroup` of Python 3.11 forgets
    that it is cancelled where one of its tasks fails at that moment."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
