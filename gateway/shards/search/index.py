"""The search index of shards in a running server: it follows the database, whoever writes it, and outlives reloads.

Texts are searched in the database itself, so what was written is found at once; vectors are kept in memory and follow
within a second. All work is done in two threads with read-only connections of their own: one searches, one follows.
Where PostgreSQL has pgvector vectors are searched there, and a third thread gives it those that are new.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from gateway.errors import GatewayError
from gateway.shards.search.hits import Hit
from gateway.shards.search.rows import Rows, Unreadable, open_rows
from gateway.store.complaints import Complaints
from gateway.store.database import Database

if TYPE_CHECKING:  # numpy: 0.3 s and 30 MB, that a server without shards does not need
    from gateway.shards.search.follower import Follower
    from gateway.shards.search.postgres_rows import PostgresText
    from gateway.shards.search.searcher import Searcher
    from gateway.shards.search.text_search import TextSearch
    from gateway.shards.search.vector_table import VectorTable
    from gateway.shards.search.vectors import Vectors

__all__ = ["Hit", "ShardIndex"]

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Engine:
    """Made with the first shard.

    Args:
        vectors: in memory; none where there is a `table`.
    """

    vectors: Vectors
    table: VectorTable | None
    text: TextSearch | PostgresText
    follower: Follower
    searcher: Searcher


class ShardIndex:
    """Until all vectors are in memory again after a start, search goes by words and by those that are there already.

    Args:
        on_change: called in the event loop after shards have changed.
        exact_limit: keys of an audience, above which its vectors are searched approximately; None: as `vectors` has it.
    """

    def __init__(
        self,
        database: Database,
        *,
        refresh_s: float = 1.0,
        exact_limit: int | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._database, self._refresh_s, self._exact_limit = database, refresh_s, exact_limit
        self._on_change = on_change
        self._search_thread = ThreadPoolExecutor(1, "shard-search")
        self._follow_thread = ThreadPoolExecutor(1, "shard-follow")
        self._fill_thread = ThreadPoolExecutor(1, "shard-vectors")
        self._searching: Rows | None = None
        self._following: Rows | None = None
        self.engine: Engine | None = None
        self._revision = 0
        self._stopping = threading.Event()  # which threads look at
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._complaints = Complaints(log)
        self.searches = 0

    # -- what there is -------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Of the last change of any shard that was heard of."""
        return self._revision

    @property
    def size(self) -> int:
        """Keys that are held."""
        return len(self.engine.follower.registry) if self.engine is not None else 0

    @property
    def vectors(self) -> int:
        """Keys that are found by their vectors."""
        if self.engine is None:
            return 0
        return len(self.engine.vectors) if self.engine.table is None else self.engine.follower.registry.embedded

    @property
    def size_bytes(self) -> int:
        """Of vectors and numbers, without Python's own."""
        if self.engine is None:
            return 0
        return self.engine.vectors.size_bytes + self.engine.follower.registry.size_bytes

    @property
    def is_complete(self) -> bool:
        """All vectors that were there at the start are in memory."""
        return self.engine.follower.is_complete if self.engine is not None else not self._revision

    def holds_any(self, audiences: Sequence[str]) -> bool:
        """False where a search would find nothing: most requests of a server with few shards. Microseconds."""
        if self.engine is None:
            return False
        registry = self.engine.follower.complete()
        return registry is None or any(audience in registry.counts for audience in audiences)

    # -- its life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow the database. Vectors are read in the background.

        Raises: GatewayError where it cannot be opened.
        """
        try:
            self._searching = await self._in(self._search_thread, lambda: open_rows(self._database))
            self._following = await self._in(self._follow_thread, lambda: open_rows(self._database))
            await self._look()
            await self._in(self._follow_thread, self._prepare)
        except Unreadable as exc:
            await self.close()
            raise GatewayError(f"cannot read the shards in {self._database.name}: {exc}") from exc
        self._tasks = [
            asyncio.create_task(self._repeat(self._look), name="shard revisions"),
            asyncio.create_task(self._repeat(self._follow), name="shard index"),
        ]
        if self._database.is_shared:
            self._tasks.append(asyncio.create_task(self._repeat(self._fill), name="shard vectors"))

    async def close(self) -> None:
        """A search that is under way is finished; later ones find nothing."""
        self._closing.set()
        self._stopping.set()
        if self._following is not None:
            self._following.interrupt()
        if self.engine is not None and self.engine.table is not None:
            self.engine.table.interrupt()
        await asyncio.gather(*self._tasks)
        self._tasks = []
        table = self.engine.table if self.engine is not None else None
        for thread, opened in (
            (self._follow_thread, self._following),
            (self._search_thread, self._searching),
            (self._fill_thread, table),
        ):
            if opened is not None:
                await self._in(thread, opened.close)
            thread.shutdown(wait=False)
        if self.engine is not None:
            self.engine.text.close()
        self._searching = self._following = self.engine = None

    async def refresh(self) -> None:
        """Follow now, and to the end. Raises: Unreadable."""
        await self._look()
        await self._in(self._follow_thread, self._prepare)
        await self._fill()
        await self._in(self._follow_thread, lambda: self._catch_up(thorough=True))

    async def _look(self) -> None:
        """For what changed. Apart from the following, which may take minutes for a large import."""
        revision = await self._in(self._search_thread, self._newest)
        if revision != self._revision:
            self._revision = revision
            if self._on_change is not None:
                self._on_change()

    def _newest(self) -> int:
        assert self._searching is not None
        return self._searching.newest()

    async def _follow(self) -> None:
        await self._in(self._follow_thread, lambda: self._catch_up(thorough=False))

    def _catch_up(self, thorough: bool) -> None:
        self._prepare()
        if self.engine is not None:
            self.engine.follower.catch_up(thorough)

    async def _fill(self) -> None:
        table = self.engine.table if self.engine is not None else None
        if table is not None:
            await self._in(self._fill_thread, lambda: table.fill(self._stopping.is_set))

    def _prepare(self) -> None:
        if self.engine is None and self._revision:
            self.engine = self._made()

    def _made(self) -> Engine:
        from gateway.shards.search.follower import Follower
        from gateway.shards.search.searcher import Searcher
        from gateway.shards.search.vectors import EXACT_LIMIT, Vectors

        assert self._searching is not None and self._following is not None
        limit = EXACT_LIMIT if self._exact_limit is None else self._exact_limit
        vectors, text, table = Vectors(self._in_turn, limit), self._text_search(), self._vector_table()
        follower = Follower(self._following, vectors, text, self._stopping.is_set)
        asked = vectors if table is None else table.searched_by(self._searching, follower.complete)
        return Engine(vectors, table, text, follower, Searcher(self._searching, asked, text, follower.complete))

    def _vector_table(self) -> VectorTable | None:
        """None where vectors are kept in memory."""
        if not self._database.is_shared:
            return None
        from gateway.shards.search.postgres_rows import PostgresRows
        from gateway.shards.search.vector_table import EXACT_LIMIT, VectorTable

        table = VectorTable(self._database.engine.url, self._exact_limit or EXACT_LIMIT)
        try:
            missing = table.lacks()
        except Unreadable:
            table.close()
            raise
        if missing is not None:
            table.close()
            log.warning("vectors of shards are kept in memory, as pgvector cannot be used: %s", missing)
            return None
        assert isinstance(self._following, PostgresRows)
        self._following.mark_vectors()
        return table

    def _text_search(self) -> TextSearch | PostgresText:
        if self._database.is_shared:
            from gateway.shards.search.postgres_rows import PostgresText

            return PostgresText()
        from gateway.shards.search.text_search import TextSearch

        return TextSearch()

    def _in_turn(self, work: Callable[[], None]) -> None:
        """Between two searches; for the following thread."""
        self._search_thread.submit(work).result()

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while not self._closing.is_set():
            try:
                await step()
            except Exception as exc:  # whatever it is, the shards must be followed on
                if not self._closing.is_set():
                    self._complaints.say(f"the shards could not be read again: {exc or type(exc).__name__}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._refresh_s)

    @staticmethod
    async def _in(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    # -- searching -----------------------------------------------------------------------------------------------

    async def find(self, audiences: Sequence[str], words: str, vector: bytes | None, limit: int = 30) -> list[Hit]:
        """Shards, best first. Those of other audiences are never read.

        While the database cannot be read nothing is found, and the log says so.

        Args:
            vector: of the same embedding model as the keys' ones, float32, little-endian; None: by words alone.
        Raises: ValueError for an audience that cannot be one.
        """
        engine = self.engine
        if engine is None or self._closing.is_set():
            return []
        self.searches += 1
        try:
            return await self._in(self._search_thread, lambda: engine.searcher.find(audiences, words, vector, limit))
        except Unreadable as exc:
            self._complaints.say(f"shards cannot be searched: {exc}")
            return []
