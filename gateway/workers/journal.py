"""The journal as a worker has it: rows are made here, and written by the supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from gateway.costs.ledger import Ledger
from gateway.errors import GatewayError
from gateway.store.database import Database
from gateway.store.journal import Journal
from gateway.store.rows import JournalRow, values_of
from gateway.workers.channel import Channel

FLUSH_EVERY_S = 0.25  # what a worker that is killed may lose


class Written(Enum):
    """What became of some rows: they are written, were before, may be tried again, or will never be taken."""

    DONE = auto()
    THERE = auto()
    LATER = auto()
    REFUSED = auto()


async def write(journal: Journal, rows: Sequence[tuple[Any, ...]], spent: Ledger) -> tuple[Written, str]:
    """For a worker: what became of them, and why."""
    try:
        await journal.insert(rows, spent)
    except OperationalError as exc:
        return Written.LATER, str(exc.orig)
    except IntegrityError as exc:
        return Written.THERE, str(exc.orig)
    except Exception as exc:  # whatever it is, the worker tries the rows one by one, and says so in the log
        return Written.REFUSED, str(getattr(exc, "orig", None) or type(exc).__name__)
    return Written.DONE, ""


FAULTS: dict[Written, type[DatabaseError]] = {
    Written.THERE: IntegrityError,
    Written.LATER: OperationalError,
    Written.REFUSED: DatabaseError,
}


class SharedJournal(Journal):
    """Rows wait here until they are committed there."""

    def __init__(self, database: Database, channel: Channel) -> None:
        super().__init__(database, flush_every_s=FLUSH_EVERY_S)
        self._channel = channel

    async def insert(self, rows: Sequence[tuple[Any, ...]], spent: Ledger) -> None:
        became, why = await self._channel.ask("rows", list(rows), spent)
        if became is not Written.DONE:
            raise FAULTS[became](None, None, Exception(why))

    async def prune(self) -> int:
        """The supervisor does."""
        return 0

    async def flush(self) -> bool:
        """Also what other workers have: who asks wants to read all of it."""
        try:
            await self._channel.ask("gather")
        except GatewayError:
            return False
        return True

    async def flush_own(self) -> bool:
        return await super().flush()

    async def find(self, trace_id: str) -> JournalRow | None:
        for trace in self._queue:
            if trace.id == trace_id:
                return JournalRow(*values_of(trace))
        found: JournalRow | None = await self._channel.ask("find", trace_id)
        return found
