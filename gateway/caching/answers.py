"""The cached answers of a running server: in main memory, and in its database where models.yaml says so."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from sqlalchemy.exc import SQLAlchemyError

from gateway.caching import Keeping
from gateway.store.answers import AnswerTable, Kept, delete_expired, last_purge, purges_since
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.tasks import ended

log = logging.getLogger(__name__)
LARGEST_SHARE = 8  # an answer may take one part in so many of the memory
FRONT_BYTES = 32 << 20  # held in main memory of what the database keeps
LOOK_EVERY_S = 1.0  # for what is to be erased
LEFT_BEHIND_S = 3.0  # after the start, when there is much else to do, what an earlier configuration left is looked at
SWEEP_EVERY_S = 30.0  # what is too old goes, asked for or not
MOST_ALIKE = 1000  # newest answers of a group that are looked at

Flight = asyncio.Future[Kept | None]


class AnswerCache:
    """It outlives reloads. `clock` tells unix seconds.

    `flights`: answers that are being made, by key. None comes of one that could not be kept; one that is cancelled left
    with the client that it was made for.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.flights: dict[bytes, Flight] = {}
        self.size_bytes = 0
        self._keeping = Keeping()
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._groups: dict[bytes, dict[bytes, bytes]] = {}  # vectors, by key
        self._evicted = self._left_bytes = 0
        self._database: Database | None = None
        self._table: AnswerTable | None = None
        self._seen_purge = 0
        self._has_begun = False
        self._changed = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._complaints = Complaints(log)

    @property
    def entries(self) -> int:
        return len(self._kept)

    @property
    def evicted(self) -> int:
        """Answers that had to make room before they were too old."""
        return self._evicted + (self._table.evicted if self._table is not None else 0)

    @property
    def stored_bytes(self) -> int:
        """In the database, also where the configuration has none kept there any more."""
        return self._table.size_bytes if self._table is not None else self._left_bytes

    @property
    def _max_bytes(self) -> int:
        most = self._keeping.max_bytes
        return min(most, FRONT_BYTES) if self._keeping.is_stored else most

    # -- its life ------------------------------------------------------------------------------------------------

    def take(self, keeping: Keeping) -> None:
        """From now on this holds. What no node asks for any more goes."""
        self._keeping = keeping
        if not keeping.is_used:
            self._forget(self._kept.values())
        self._make_room()
        self._changed.set()

    async def open(self, database: Database) -> None:
        """Begin to follow the database. Raises: SQLAlchemyError."""
        self._database = database
        if self._keeping.is_used:
            await self._begin(database)
        self._changed.clear()  # what it holds by now has been seen to
        self._follower = asyncio.create_task(self._follow(database), name="answer cache")

    async def _begin(self, database: Database) -> None:
        self._seen_purge = await last_purge(database)
        self._left_bytes = await delete_expired(database, self.clock())
        await self._settle()
        self._has_begun = True

    async def close(self) -> None:
        if self._follower is not None:
            await ended([self._follower])
        await self._close_table()

    async def _settle(self) -> None:
        """Use the table, or do not, as the configuration has it now."""
        keeping = self._keeping
        if self._database is None or not (keeping.is_used and keeping.is_stored):
            await self._close_table()
        elif self._table is None:
            table = AnswerTable(self._database, keeping.max_bytes, self.clock)
            await table.start()
            self._table = table
        else:
            self._table.max_bytes = keeping.max_bytes

    async def _close_table(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            self._evicted += table.evicted
            await table.close()
            self._left_bytes = table.size_bytes

    async def _follow(self, database: Database) -> None:
        swept = self.clock()
        while True:
            without = None if self._has_begun else LEFT_BEHIND_S
            try:
                async with asyncio.timeout(LOOK_EVERY_S if self._keeping.is_used else without):
                    await self._changed.wait()
                self._changed.clear()
                if not (self._has_begun or self._keeping.is_used):
                    continue
            except TimeoutError:
                pass
            try:
                if not self._has_begun:
                    await self._begin(database)
                await self._settle()
                await self.look()
            except Exception as exc:  # whatever it is, purges must be followed on
                self._complain("be brought up to date", exc)
            if not 0 <= self.clock() - swept < SWEEP_EVERY_S:
                swept = self.clock()
                self._forget(kept for kept in self._kept.values() if kept.expires <= swept)

    def look_soon(self) -> None:
        """Somebody says that there is something to erase."""
        self._changed.set()

    async def look(self) -> None:
        """Erase what was purged since the last look. Raises: SQLAlchemyError."""
        if self._database is None:
            return
        for id, tenant, user in await purges_since(self._database, self._seen_purge):
            self._forget(kept for kept in self._kept.values() if _is_of(kept, tenant, user))
            if self._table is not None:
                await self._table.erase(tenant, user)
            self._seen_purge = id

    # -- answers -------------------------------------------------------------------------------------------------

    async def find(self, key: bytes) -> Kept | None:
        """One that is not too old."""
        kept = self._kept.get(key)
        if kept is not None:
            if kept.expires > self.clock():
                self._kept.move_to_end(key)
                return kept
            self._remove(kept)
        if self._table is None:
            return None
        try:
            kept = await self._table.find(key)
        except SQLAlchemyError as exc:
            self._complain("be read", exc)
            return None
        if kept is not None:
            self._hold(kept)
        return kept

    async def nearest(self, group: bytes, vector: bytes, above: float) -> tuple[Kept, float] | None:
        """The one of a group whose words are most like these, with how much, if that is at least `above`."""
        from gateway.caching.vectors import nearest  # numpy: 0.3 s

        known = dict(list(self._groups.get(group, {}).items())[-MOST_ALIKE:])
        if self._table is not None:
            try:
                known |= await self._table.alike(group, MOST_ALIKE)
            except SQLAlchemyError as exc:
                self._complain("be read", exc)
        found = nearest(vector, known)
        if found is None or found[1] < above:
            return None
        kept = await self.find(found[0])
        return None if kept is None else (kept, found[1])

    def put(self, kept: Kept) -> None:
        """Never waits, never raises."""
        if kept.size > self._max_bytes // LARGEST_SHARE:
            return
        self._hold(kept)
        if self._table is not None:
            self._table.put(kept)

    def _hold(self, kept: Kept) -> None:
        before = self._kept.get(kept.key)
        if before is not None:
            self._remove(before)
        self._kept[kept.key] = kept
        self.size_bytes += kept.size
        if kept.alike is not None and kept.vector is not None:
            self._groups.setdefault(kept.alike, {})[kept.key] = kept.vector
        self._make_room()

    def _make_room(self) -> None:
        """The least recently used go first."""
        while self.size_bytes > self._max_bytes:
            self._remove(next(iter(self._kept.values())))
            if self._table is None:
                self._evicted += 1

    def _remove(self, kept: Kept) -> None:
        del self._kept[kept.key]
        self.size_bytes -= kept.size
        if kept.alike is not None and (group := self._groups.get(kept.alike)) is not None:
            group.pop(kept.key, None)
            if not group:
                del self._groups[kept.alike]

    def _forget(self, doomed: Iterable[Kept]) -> None:
        for kept in list(doomed):
            self._remove(kept)

    def _complain(self, what: str, exc: Exception) -> None:
        self._complaints.say(f"the cache of answers could not {what}: {getattr(exc, 'orig', None) or exc}")


def _is_of(kept: Kept, tenant: str | None, user: str | None) -> bool:
    return tenant in (None, kept.tenant) and user in (None, kept.user)
