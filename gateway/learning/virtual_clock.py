"""An event loop whose time stands still while there is work, and skips to the next timer where there is none: an hour
of waiting takes no time, and comes out the same each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Skipping(selectors.DefaultSelector):
    """Does not wait for a timer, but tells the loop that it has come."""

    loop: VirtualClock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.loop.works_outside:
            ready = super().select(timeout)
        if not ready and timeout is not None:
            self.loop.skip(timeout)
        return ready


class VirtualClock(asyncio.SelectorEventLoop):
    """Use it as the `loop_factory` of an `asyncio.Runner`. `works_outside`: threads are busy for it, so time goes on as
    it does for everybody."""

    def __init__(self) -> None:
        selector = _Skipping()
        selector.loop = self
        self._now, self.works_outside = 0.0, 0
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def skip(self, seconds: float) -> None:
        self._now += seconds

    @contextmanager
    def outside(self) -> Iterator[None]:
        """What is waited for meanwhile is not of this loop."""
        self.works_outside += 1
        try:
            yield
        finally:
            self.works_outside -= 1

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        self.works_outside += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, future: asyncio.Future[Any]) -> None:
        self.works_outside -= 1
