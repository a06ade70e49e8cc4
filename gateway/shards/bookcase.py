"""All that has to do with shards in a running server: opened with its database, closed before it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.chat import Answer, ChatRequest
from gateway.embedding.remembered import Embeddings
from gateway.shards import Json, Shard
from gateway.shards.orders import Orders
from gateway.trace import RequestTrace
from gateway.transport import HttpClient

if TYPE_CHECKING:  # a third of a second, which the server's start has other things to do in
    from gateway.shards.lessons import Lesson, Lessons
    from gateway.shards.memory.memories import Memories
    from gateway.shards.proving.ledger import Ledger
    from gateway.shards.search.index import ShardIndex
    from gateway.shards.sharing.following import Subscriptions
    from gateway.shards.shelf import Shelf
    from gateway.shards.store import ShardStore
    from gateway.shards.workshop import Workshop
    from gateway.store.database import Database

GOOD = 0.5  # a rating
SALT_FILE = Path("keys") / "withheld.salt"


@dataclass(frozen=True)
class Opened:
    store: ShardStore
    index: ShardIndex
    ledger: Ledger
    embeddings: Embeddings
    shelf: Shelf
    lessons: Lessons
    memories: Memories
    workshop: Workshop
    subscriptions: Subscriptions


class Bookcase:
    """`opened` is None before `open`, and where nobody opens it: then there are no shards."""

    def __init__(self, home: Path, embeddings: Embeddings, client: HttpClient) -> None:
        self._home, self._embeddings, self._client = home, embeddings, client
        self._orders, self._works = Orders(), False
        self.opened: Opened | None = None

    @property
    def orders(self) -> Orders:
        """What the configuration of the moment says."""
        return self._orders

    def take(self, orders: Orders) -> None:
        """From now on these hold."""
        self._orders = orders
        if self._works and self.opened is not None:
            self.opened.subscriptions.follow(orders.sharing.sources)

    def work(self) -> None:
        """Begin to make, prove and fetch shards in the background."""
        if self.opened is not None:
            self._works = True
            self.opened.workshop.start()
            self.opened.subscriptions.follow(self._orders.sharing.sources)

    async def rest(self) -> None:
        """Until `work` is said again."""
        self._works = False
        if self.opened is not None:
            await self.opened.subscriptions.close()
            await self.opened.workshop.close()

    async def open(
        self,
        database: Database,
        is_busy: Callable[[], bool] = lambda: False,
        spent: Callable[[RequestTrace], None] = lambda trace: None,
    ) -> Opened:
        """Raises: OSError where the home cannot be written to."""
        from gateway.shards.lessons import Lessons
        from gateway.shards.memory.memories import Memories
        from gateway.shards.proving.ledger import Ledger
        from gateway.shards.search.index import ShardIndex
        from gateway.shards.sharing.following import Subscriptions
        from gateway.shards.shelf import Shelf
        from gateway.shards.store import ShardStore
        from gateway.shards.workshop import Workshop

        store, embeddings, lessons = ShardStore(database), self._embeddings, Lessons(database)
        ledger = Ledger(store)
        index = ShardIndex(database, on_change=ledger.forget)
        salt = await asyncio.to_thread(salt_in, self._home)
        shelf = Shelf(store, index, ledger, embeddings, salt)
        workshop = Workshop(shelf, lessons, lambda: self.orders, is_busy, spent)
        subscriptions = Subscriptions(store, self._home, self._client)
        await index.start()
        await ledger.start()
        await lessons.start()
        memories = Memories(store)
        self.opened = Opened(store, index, ledger, embeddings, shelf, lessons, memories, workshop, subscriptions)
        return self.opened

    async def close(self) -> None:
        opened, self.opened = self.opened, None
        if opened is not None:
            for part in (opened.subscriptions, opened.workshop, opened.lessons, opened.ledger, opened.index):
                await part.close()

    def note(
        self, policy: str, request: ChatRequest, answer: Answer, trace: RequestTrace, audited: str | None = None
    ) -> None:
        """A policy that learns has answered. `audited`: the model whose accepted answer this one is compared with."""
        if self.opened is not None:
            self.opened.lessons.note(policy, request, answer, trace, {audited: "audit"} if audited else {})

    async def rate(self, trace_id: str, tree: Json, value: bool | float | str) -> None:
        """Somebody rated an answer, with yes or no or from 0 to 1; words tell nothing here. Raises: SQLAlchemyError."""
        if self.opened is None or isinstance(value, str) or not 0 <= value <= 1:
            return
        is_good = value >= GOOD
        self.opened.ledger.rate(tree, is_good=is_good)
        await self.opened.lessons.rate(trace_id, is_good=is_good)

    async def correct(self, trace_id: str, answer: Json) -> tuple[Lesson | None, Shard | None]:
        """Somebody says what the answer should have been: the lesson, and the example that the next request like it is
        given. Neither, where the request's words are not kept. Raises: GatewayError, SQLAlchemyError."""
        from gateway.shards.corrections import exemplar_of

        if self.opened is None or (lesson := await self.opened.lessons.correct(trace_id, answer)) is None:
            return None, None
        return lesson, await exemplar_of(lesson, self.opened, self.orders)

    def record(self, trace: RequestTrace) -> None:
        """A request is finished, whatever became of it."""
        if self.opened is not None:
            self.opened.ledger.record(trace)


def salt_in(home: Path) -> str:
    """Made once for each home, so that a restart withholds the same."""
    path = home / SALT_FILE
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        salt = secrets.token_hex(16)
        path.touch(mode=0o600)
        path.write_text(salt, "ascii")
        return salt
