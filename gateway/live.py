"""The gateway of the moment. A reload swaps one reference; requests end on the gateway that they began with."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.access.keys import KeyInfo
from gateway.chat import Json
from gateway.engines.pool import Pool
from gateway.gateway import Gateway

MOST_VIEWS = 1000


@dataclass(frozen=True)
class Edge:
    """Who may ask: origins of pages in a browser (None: as the door thinks best), proxies that are believed, and the
    key that /metrics asks for."""

    cors_origins: tuple[str, ...] | None = None
    trusted_proxies: tuple[str, ...] = ()
    metrics_key: str | None = None


class Live:
    """Args: `gateway` is the first one; its servers are kept from now on.

    `body_limit_bytes`: the largest request body. `stale_why`: why the files as they are now are not what is served;
    None while they are. `is_loading`: changed files are being loaded. `loaded_at`: `time.time()` of when the current
    gateway took over. `is_draining`: the server stops, and takes no new requests. `workers`: what
    there is to tell of the processes that serve beside this one; None where there are none.
    """

    def __init__(
        self, gateway: Gateway, pool: Pool, body_limit_bytes: int = 32 << 20, edge: Edge | None = None
    ) -> None:
        self.gateway = gateway
        self.body_limit_bytes = body_limit_bytes
        self.edge = edge or Edge()
        self.is_draining = False
        self.stale_why: str | None = None
        self.is_loading = False
        self.loaded_at = time.time()
        self.workers: Json | None = None
        self._pool = pool
        self._in_use: Counter[int] = Counter()  # requests by id() of their gateway
        self._views: dict[int, tuple[KeyInfo, Gateway]] = {}  # of the current one, by the key's id
        pool.budget = gateway.budget
        pool.keep(gateway.engines)
        pool.current = gateway.engines
        _order(gateway)

    def take(self) -> Gateway:
        """The current gateway, whose servers stay until it is left, whatever is loaded meanwhile."""
        gateway = self.gateway
        self._in_use[id(gateway)] += 1
        return gateway

    def leave(self, gateway: Gateway) -> None:
        self._in_use[id(gateway)] -= 1
        if gateway is not self.gateway:
            self._drop_if_idle(gateway)

    @contextmanager
    def use(self, key: KeyInfo | None = None) -> Iterator[Gateway]:
        """`take` and `leave` around a block, as this key sees it."""
        gateway = self.take()
        try:
            yield self.seen_by(gateway, key)
        finally:
            self.leave(gateway)

    def seen_by(self, gateway: Gateway, key: KeyInfo | None) -> Gateway:
        if key is None:
            return gateway
        if gateway is not self.gateway:
            return gateway.seen_by(key)
        seen = self._views.get(key.id)
        if seen is None or seen[0] is not key:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            seen = self._views[key.id] = (key, gateway.seen_by(key))
        return seen[1]

    def swap(self, gateway: Gateway) -> None:
        """From now on requests go to this one, whose servers the caller has told the pool to keep."""
        old, self.gateway = self.gateway, gateway
        self._views.clear()
        self._pool.current = gateway.engines
        self._pool.budget = gateway.budget
        _order(gateway)
        self.stale_why, self.loaded_at = None, time.time()
        self._drop_if_idle(old)

    def _drop_if_idle(self, gateway: Gateway) -> None:
        if not self._in_use[id(gateway)]:
            del self._in_use[id(gateway)]
            self._pool.drop(gateway.engines)


def _order(gateway: Gateway) -> None:
    if gateway.bookcase is not None:
        gateway.bookcase.take(gateway.orders)
    if gateway.answers is not None:
        gateway.answers.take(gateway.keeping)
    if gateway.trainer is not None:
        gateway.trainer.take(gateway.trainables)
    if gateway.loop is not None:
        gateway.loop.take(gateway.curriculum)
    for pledge in gateway.pledges:
        if gateway.promises is not None:
            gateway.promises.pledge(pledge)
