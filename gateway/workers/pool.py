"""The pool as a worker has it: models are loaded by the supervisor, which grants leases by message and tells what there
is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from gateway.engines import Engine, Lease
from gateway.engines.footprint import NOTHING, UNLIMITED, Footprint
from gateway.engines.pool import Pool
from gateway.engines.resident import ModelState
from gateway.engines.wishes import Event, Wish
from gateway.errors import BackendUnavailable
from gateway.probe import FoundServer
from gateway.workers.channel import Channel


class Seen(NamedTuple):
    """An engine as the supervisor sees it. `state` is without `idle_s`, for which there is `used_at`, of
    `time.monotonic()`; `loads`: that went well, of its name."""

    state: ModelState
    is_loaded: bool
    lease: Lease | None
    found: FoundServer | None
    load_s: float
    used_at: float | None
    loads: int


def seen(pool: Pool, engine: Engine, loads: Mapping[str, int]) -> Seen:
    """Raises: KeyError for an engine that nobody keeps."""
    state = pool.state_of(engine)
    used_at = None if state.idle_s is None else round(time.monotonic() - state.idle_s, 2)
    parts = pool.is_loaded(engine), pool.address(engine), pool.found(engine), pool.load_s(engine)
    return Seen(replace(state, idle_s=None), *parts, used_at, loads.get(engine.name, 0))


@dataclass
class Mirror:
    number: int
    seen: Seen


class SharedPool(Pool):
    """An engine is known from `introduce` until it is dropped as often as it was kept."""

    def __init__(self, channel: Channel) -> None:
        self.current: Collection[Engine] = ()
        self._channel = channel
        self._mirrors: dict[Engine, Mirror] = {}
        self._kept: Counter[Engine] = Counter()
        self._budget, self._taken = UNLIMITED, NOTHING

    async def introduce(self, engines: Iterable[Engine]) -> None:
        """Raises: GatewayError where the supervisor does not have one of them."""
        new = {self._channel.number(): engine for engine in engines if engine not in self._mirrors}
        try:
            found = await self._channel.ask("keep", new)
        except BaseException:
            self._channel.tell("drop", list(new))  # it may have been done all the same
            raise
        self._mirrors |= {engine: Mirror(number, found[number]) for number, engine in new.items()}

    def learn(self, told: Mapping[int, Seen], taken: Footprint) -> None:
        """What has changed, by number."""
        self._taken = taken
        for mirror in self._mirrors.values():
            mirror.seen = told.get(mirror.number, mirror.seen)

    def loads(self) -> dict[str, int]:
        return {engine.name: mirror.seen.loads for engine, mirror in self._mirrors.items()}

    def keep(self, engines: Collection[Engine]) -> None:
        self._kept.update(engines)

    def drop(self, engines: Collection[Engine]) -> None:
        """Also of those that were introduced, and not kept."""
        gone = []
        for engine in engines:
            self._kept[engine] -= 1
            if self._kept[engine] <= 0:
                del self._kept[engine]
                gone.append(self._mirrors.pop(engine).number)
        self._channel.tell("drop", gone)

    async def start(self) -> None:
        """They are started already, or being started."""

    async def settled(self, engines: Collection[Engine], patience_s: float) -> None:
        """The supervisor has waited for them."""

    async def close(self) -> None:
        """They go on for others."""

    @asynccontextmanager
    async def lease(
        self, engine: Engine, deadline: float | None = None, wish: Wish | None = None
    ) -> AsyncIterator[Lease]:
        mirror, wish = self._mirrors[engine], wish or Wish()
        held, is_doubted = self._channel.number(), False
        try:
            lease, told = await self._channel.ask("lease", held, mirror.number, deadline, wish)
            wish.woke, wish.waited_s = told.woke, told.waited_s
            wish.restored_tokens, wish.restored_ms = told.restored_tokens, told.restored_ms
            yield lease
        except BackendUnavailable:
            is_doubted = True
            raise
        finally:
            self._channel.tell("leave", held, wish.tokens, is_doubted)

    def prefetch(self, engine: Engine, chance: float) -> None:
        if engine in self._mirrors:
            self._channel.tell("prefetch", self._mirrors[engine].number, chance)

    def note_download(self, engine: Engine, *, is_coming: bool, why: str | None = None) -> None:
        """The supervisor fetches, and knows."""

    def load_s(self, engine: Engine) -> float:
        return self._mirrors[engine].seen.load_s if engine in self._mirrors else 0.0

    def address(self, engine: Engine) -> Lease | None:
        return self._mirrors[engine].seen.lease if engine in self._mirrors else None

    def found(self, engine: Engine) -> FoundServer | None:
        return self._mirrors[engine].seen.found if engine in self._mirrors else None

    def state_of(self, engine: Engine) -> ModelState:
        seen = self._mirrors[engine].seen
        idle_s = None if seen.used_at is None else max(0.0, time.monotonic() - seen.used_at)
        return replace(seen.state, idle_s=idle_s)

    def is_loaded(self, engine: Engine) -> bool:
        return engine in self._mirrors and self._mirrors[engine].seen.is_loaded

    def states(self) -> dict[str, ModelState]:
        return {engine.name: self.state_of(engine) for engine in self.current}

    @property
    def budget(self) -> Footprint:
        return self._budget

    @budget.setter
    def budget(self, budget: Footprint) -> None:
        self._budget = budget

    @property
    def taken(self) -> Footprint:
        return self._taken

    @property
    def on_event(self) -> Callable[[Event], None]:
        return _nothing

    @on_event.setter
    def on_event(self, on_event: Callable[[Event], None]) -> None:
        """Events are the supervisor's to tell."""


def _nothing(event: Event) -> None:
    pass
