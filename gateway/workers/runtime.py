"""What outlives a reload in a worker: its own connections and caches; engines, limits and the journal by message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gateway.runtime import Runtime
from gateway.store.database import Database
from gateway.store.training_rows import StoredJob
from gateway.telemetry.metrics import Counted
from gateway.training.jobs import Trainer
from gateway.workers.channel import Channel
from gateway.workers.journal import SharedJournal
from gateway.workers.limits import SharedLedger, SharedSlots
from gateway.workers.pool import SharedPool


@dataclass(frozen=True)
class Report:
    """How a worker is. `addresses`: that answer, by model."""

    in_flight: int = 0
    cache_bytes: int = 0
    cache_entries: int = 0
    cache_evicted: int = 0
    dropped: int = 0
    waiting: int = 0
    lag_s: float = 0.0
    spans: tuple[int, int] = (0, 0)
    bytes_of_answers: int = 0
    addresses: dict[str, int] = field(default_factory=dict)


class SharedTrainer(Trainer):
    """Jobs are trained by the supervisor."""

    def __init__(self, home: Path, channel: Channel) -> None:
        super().__init__(home)
        self._channel = channel
        self.on_submitted = partial(channel.tell, "train")

    async def cancel(self, id: str, key: str | None) -> StoredJob:
        job: StoredJob = await self._channel.ask("cancel_job", id, key)
        return job


def news_of(runtime: Runtime, topic: str) -> Callable[..., None]:
    """What takes the news of a topic: how models fare, who made which tool call, who answered last, and what gateways
    tell each other."""
    takers: dict[str, Callable[..., None]] = {
        "profiles": runtime.profiles.hear,
        "conversations": runtime.conversations.hear,
        "sessions": runtime.sessions.hear,
        "gateways": runtime.heed,
    }
    return takers[topic]


class WorkerRuntime(Runtime):
    def __init__(self, home: Path, channel: Channel) -> None:
        super().__init__(home)
        self.channel = channel
        self.engines = SharedPool(channel)
        self.pool = self.engines
        self.gate = SharedSlots(channel, None)
        self.records: SharedJournal | None = None
        self.trainer = SharedTrainer(home, channel)
        self.profiles.is_written = False
        self.profiles.on_note = partial(channel.tell, "news", "profiles")
        self.conversations.on_note = partial(channel.tell, "news", "conversations")
        self.sessions.on_note = partial(channel.tell, "news", "sessions")
        self.promises.on_settled = partial(channel.tell, "settled")
        self.promises.on_spent = partial(channel.tell, "audited")

    async def begin(self, database_url: str | None) -> None:
        """`start`, without the journal's limits and Redis, which are the supervisor's. Raises: GatewayError."""
        await self.start(database_url=database_url)
        if self.bookcase.opened is not None:
            self.bookcase.opened.ledger.on_uses = partial(self.channel.tell, "uses")
            self.bookcase.opened.ledger.on_set = partial(self.channel.tell, "standings")
        self.specialists.on_outcome = self._outcome
        self.specialists.work()

    async def _outcome(self, adapter: str) -> None:
        self.channel.tell("outcome", adapter)

    def tell(self, about: str, **facts: object) -> None:
        """Also the other workers."""
        self.channel.tell("tell", about, facts)

    def hear(self, topic: str, *news: Any) -> None:
        """What another process has noted: see `news_of`."""
        news_of(self, topic)(*news)

    def read_again(self) -> None:
        """What others may have changed in the database."""
        if self.bookcase.opened is not None:
            self.bookcase.opened.ledger.forget()

    async def _open_records(
        self,
        database: Database,
        started: float,
        journal_age_days: float,
        journal_size_mb: float,
        redis_url: str | None,
    ) -> None:
        self.journal = self.records = SharedJournal(database, self.channel)
        await self.journal.start()
        self.ledger = SharedLedger(database, self.channel)
        await self.ledger.start()

    def places(self, name: str, count: int) -> SharedSlots:
        return SharedSlots(self.channel, name, count)

    async def metrics_text(self, *, as_openmetrics: bool = False) -> bytes:
        text: bytes = await self.channel.ask("metrics", as_openmetrics)
        return text

    def counted(self) -> Counted | None:
        """Since the last time."""
        return self.metrics.hand_over()

    @property
    def report(self) -> Report:
        journal, answers = self.journal, self.answers
        return Report(
            self.metrics.in_flight,
            answers.size_bytes,
            answers.entries,
            answers.evicted,
            journal.dropped if journal is not None else 0,
            journal.waiting if journal is not None else 0,
            journal.lag_s if journal is not None else 0.0,
            self.telemetry.counts or (0, 0),
            self.bytes_of_answers,
            {one.name: one.up for one in self.metrics.addressed.values()},
        )
