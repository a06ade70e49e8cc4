"""Whose shards this node follows, and what it tells those that follow it: as the configuration of the moment says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from gateway.shards import OPERATOR, Trust
from gateway.shards.orders import Source
from gateway.shards.sharing.adopting import Receiver
from gateway.shards.sharing.feed import PATH
from gateway.shards.sharing.signing import trusted_keys
from gateway.shards.sharing.subscription import ProgressFile, Pulled, Subscription
from gateway.shards.store import ShardStore
from gateway.tasks import ended
from gateway.transport import HttpClient

log = logging.getLogger(__name__)


class Subscriptions:
    """The background task of each source; `follow` begins, and begins again where the sources have changed."""

    def __init__(self, store: ShardStore, home: Path, client: HttpClient) -> None:
        self._store, self._home, self._client = store, home, client
        self._sources: tuple[Source, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []

    def follow(self, sources: tuple[Source, ...]) -> None:
        if sources == self._sources:
            return
        for task in self._tasks:
            task.cancel()
        self._sources = sources
        self._tasks = [asyncio.create_task(self._run(one), name=f"shards of {one.name}") for one in sources]

    async def _run(self, source: Source) -> None:
        subscription, progress = self._made(source)
        await subscription.run(self._store, progress, source.interval_s)

    async def pull(self, sources: Sequence[Source]) -> dict[str, Pulled]:
        """Now, once, one after the other. Raises: FeedError, SigningError."""
        out = {}
        for source in sources:
            subscription, progress = self._made(source)
            out[source.name] = await subscription.pull(self._store, progress)
        return out

    def _made(self, source: Source) -> tuple[Subscription, ProgressFile]:
        receiver = Receiver(OPERATOR, source.scope, trust=Trust.TESTED, needs_review=source.needs_review)
        subscription = Subscription(
            source.name,
            source.url.rstrip("/").removesuffix("/v1") + PATH,
            self._client,
            trusted_keys([source.publisher]),
            api_key=source.api_key,
            receiver=receiver,
        )
        return subscription, ProgressFile(self._home, source.name)

    async def close(self) -> None:
        await ended(self._tasks)
        self._tasks, self._sources = [], ()
