"""What outlives a reload: connections, running engines, the database and what is written to it, the counters."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.backends import litellm
from gateway.backends.counting import decoder
from gateway.caching.answers import AnswerCache
from gateway.capability.profiles import Profiles, load_router
from gateway.chat import Answer, ChatRequest
from gateway.conversations import Conversations
from gateway.costs.meter import CORE, Meter, Used, watts_of
from gateway.costs.power import Power
from gateway.embedding.minilm import MiniLM
from gateway.embedding.remembered import Embeddings
from gateway.engines import Site
from gateway.engines.balance import Aside, Balance
from gateway.engines.footprint import UNLIMITED
from gateway.engines.memory import measure, warm
from gateway.engines.pool import Pool
from gateway.engines.prefixes import Prefixes
from gateway.engines.resident import Stage
from gateway.engines.wishes import Event
from gateway.errors import GatewayError
from gateway.quality.promises import Promises
from gateway.responders.hedge import FirstTokens
from gateway.responders.odds import Odds
from gateway.responders.priors import Priors
from gateway.responders.slots import Slots
from gateway.routing.services import Errands, Sessions
from gateway.shards.bookcase import Bookcase
from gateway.telemetry.exporting import Telemetry
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.residency import ResidencyMetrics
from gateway.trace import RequestTrace
from gateway.training.jobs import Trainer
from gateway.training.loop import Loop
from gateway.training.specialists import Specialists
from gateway.transport import HttpClient
from gateway.transport.client import PooledClient

if TYPE_CHECKING:
    from gateway.access.keys import KeyRing
    from gateway.access.ledger import Ledger
    from gateway.access.shared_counts import SharedCounts
    from gateway.shards.lessons import Lessons
    from gateway.store.database import Database
    from gateway.store.feedback import Feedback
    from gateway.store.journal import Journal
    from gateway.store.redis import Shared
    from gateway.store.residency import ResidencyLog
    from gateway.store.responses import ResponseStore

LOOK_EVERY_S = 1.0  # whether this gateway still leads


def gateway_home() -> Path:
    """Where models, database, logs and learned numbers live: $GATEWAY_HOME or ~/.local/share/onion-gateway."""
    try:
        return Path(os.environ.get("GATEWAY_HOME") or "~/.local/share/onion-gateway").expanduser()
    except RuntimeError:  # a user of a number only, as in containers
        raise GatewayError(
            "this user has no home directory: set GATEWAY_HOME to a folder for models and data"
        ) from None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What is to be told of other processes that serve the same port: in sum, but of `lag_s` and `bytes_of_answers` the
    largest."""

    workers: int = 0
    restarts: int = 0
    dropped: int = 0
    waiting: int = 0
    lag_s: float = 0.0
    spans_sent: int = 0
    spans_lost: int = 0
    bytes_of_answers: int = 0


class Runtime:
    """Made before the configuration is built; `start` starts the engines that were added and opens the database."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client: HttpClient = PooledClient()
        self.prefixes = Prefixes(home / "prefixes", self.client)
        self.pool = Pool(Site(home / "logs", self.client, measure=measure, warm=warm), prefixes=self.prefixes)
        self.metrics = Metrics(self._gauges, ResidencyMetrics(self.pool, tuple(Stage), self.memory_limits))
        self.telemetry = Telemetry(self.metrics)
        self.log = Log()
        self.pool.on_event = self._note
        self.conversations = Conversations()
        self.answers = self.metrics.answers = AnswerCache()
        self.power = Power()
        self.meters: dict[str, Meter] = {}  # by engine
        self.minilm = MiniLM(home, decoder, Used(CORE, Meter(watts_of(1), self.power)))
        self.embeddings = Embeddings(self.minilm)
        self.sessions = Sessions()
        self.errands = Errands()
        self.profiles = Profiles(home, self.embeddings, partial(load_router, home))
        self.bookcase = Bookcase(home, self.embeddings, self.client)
        self.priors = Priors()
        self.trainer = Trainer(home)
        self.specialists = Specialists(self.embeddings, self.record, lambda: self.metrics.in_flight > 0)
        self.loop = Loop(home, self.trainer, self.specialists, self.embeddings, self._lessons)
        self.promises = Promises(self.record, self._audited)
        self.odds: dict[str, Odds] = {}  # of going on from a tier, by its place in its policy
        self.first_tokens: dict[str, FirstTokens] = {}  # by model, where it is hedged
        self.database: Database | None = None
        self.journal: Journal | None = None
        self.feedback: Feedback | None = None
        self.responses: ResponseStore | None = None
        self.residency: ResidencyLog | None = None
        self._untold: list[Event] = []  # steps from before the database was open
        self.keys: KeyRing | None = None
        self.ledger: Ledger | None = None
        self.shared: Shared | None = None
        self.urls: dict[str, str | None] = {"database_url": None, "redis_url": None}  # that it was started with
        self.on_heard: Callable[[str, Mapping[str, Any]], None] = lambda about, facts: None  # from other gateways
        self._balances: dict[str, Balance] = {}
        self.gate = Slots(None)  # around all requests
        self.wait_s = 0.0  # for a place there
        self.elsewhere = Elsewhere()

    async def start(
        self,
        *,
        journal_age_days: float = 30,
        journal_size_mb: float = 512,
        database_url: str | None = None,
        redis_url: str | None = None,
    ) -> None:
        """Raises: GatewayError if the database cannot be opened."""
        started = time.time()
        self.urls = {"database_url": database_url, "redis_url": redis_url}
        await self.pool.start()
        await asyncio.sleep(0)  # their processes load while this one imports what it still needs, half a second of it
        from gateway.access.keys import KeyRing
        from gateway.store.database import open_database
        from gateway.store.feedback import Feedback
        from gateway.store.responses import ResponseStore

        self.database = await open_database(self.home, database_url)
        self.responses = ResponseStore(self.database)
        await self.responses.start()
        await self.answers.open(self.database)
        await self._open_records(self.database, started, journal_age_days, journal_size_mb, redis_url)
        self.feedback = Feedback(self.database)
        await self.bookcase.open(self.database, lambda: self.metrics.in_flight > 0, self._record_spend)
        self.trainer.open(self.database)
        self.loop.open(self.database)
        await self.promises.start(self.database, journal_age_days)
        self.keys = KeyRing(self.database)
        await self.keys.start()
        self.profiles.start()

    async def _open_records(
        self,
        database: Database,
        started: float,
        journal_age_days: float,
        journal_size_mb: float,
        redis_url: str | None,
    ) -> None:
        """What is written of requests, models and keys."""
        from gateway.access.ledger import Ledger
        from gateway.store.journal import Journal
        from gateway.store.residency import ResidencyLog
        from gateway.store.steady_clock import SteadyClock

        residency = ResidencyLog(database, max_age_days=journal_age_days)
        await residency.start(started, self.memory_limits())
        for event in self._untold:
            residency.note(event)
        self.residency, self._untold = residency, []
        self.journal = Journal(
            database,
            max_age_days=journal_age_days,
            max_size_mb=journal_size_mb,
            clock=SteadyClock(),
            others_bytes=self._bytes_beside_the_journal,
            on_spent=self.metrics.spending.take,
        )
        await self.journal.start()
        self.ledger = Ledger(database, shared=await self._share(redis_url))
        await self.ledger.start()

    def _bytes_beside_the_journal(self) -> int:
        residency = self.residency.size_bytes if self.residency is not None else 0
        return residency + max(self.bytes_of_answers, self.elsewhere.bytes_of_answers)

    @property
    def bytes_of_answers(self) -> int:
        """In the database, as far as this process knows: stored responses, and the cache's."""
        return self.answers.stored_bytes + (self.responses.size_bytes if self.responses is not None else 0)

    def places(self, name: str, count: int) -> Slots:
        """For a node that works on so many requests at once; `name` says which it is."""
        return Slots(count)

    async def metrics_text(self, *, as_openmetrics: bool = False) -> bytes:
        """For /metrics, of all that serve."""
        return self.metrics.render(as_openmetrics=as_openmetrics)

    async def _share(self, redis_url: str | None) -> SharedCounts | None:
        """With other gateways, where there is a Redis. Raises: GatewayError where its package is missing."""
        if redis_url is None:
            return None
        from gateway.access.shared_counts import SharedCounts
        from gateway.store.redis import Shared

        shared = self.shared = Shared(redis_url)
        for about in ("keys", "purge", "aside"):
            shared.hear(about, partial(self._hear, about))
        await shared.start()
        return SharedCounts(shared)

    def tell(self, about: str, **facts: object) -> None:
        """The gateways that share a Redis with this one; they find it out for themselves otherwise, only later."""
        if self.shared is not None:
            self.shared.tell(about, **facts)

    def _hear(self, about: str, facts: dict[str, Any]) -> None:
        self.heed(about, facts)
        self.on_heard(about, facts)

    def heed(self, about: str, facts: Mapping[str, Any]) -> None:
        """What another process has told."""
        if about == "keys" and self.keys is not None:
            self.keys.look_soon()
        elif about == "purge":
            self.answers.look_soon()
        elif about == "aside":
            self._heed_aside(**facts)

    def share_faults(self, balance: Balance, name: str) -> None:
        """What is set aside there is so for all gateways. Args: `name`: the same in all of them."""
        self._balances[name] = balance
        balance.on_aside = lambda aside: self.tell("aside", of=name, **asdict(aside))

    def _heed_aside(self, of: str, **facts: Any) -> None:
        balance = self._balances.get(of)
        if balance is not None:
            balance.hear(Aside(**facts))

    async def work(self) -> None:
        """Make shards, train and try adapters in the background. Of several gateways on one database one does, and
        another one after it, and none that does not hold the lock any more. Until cancelled."""
        database = self.database
        if database is None or not database.is_shared:
            self._work()
            return
        from sqlalchemy.exc import SQLAlchemyError

        from gateway.store.postgres import leading

        while True:
            with suppress(SQLAlchemyError):  # the connection that it leads by is gone
                async with leading(database.engine) as connection:
                    self._work()
                    try:
                        while True:
                            await asyncio.sleep(LOOK_EVERY_S)
                            await connection.exec_driver_sql("SELECT 1")
                    finally:
                        await self._rest()
            await asyncio.sleep(LOOK_EVERY_S)

    def _work(self) -> None:
        self.bookcase.work()
        self.trainer.work()
        self.loop.work()

    async def _rest(self) -> None:
        """Another gateway goes on with what this one has begun."""
        await self.loop.close()
        await self.trainer.close()
        await self.bookcase.rest()

    def admit(self, concurrent: int | None, waiting: int | None, wait_s: float) -> None:
        """How many requests are worked on at once, how many may wait for that, and for how long."""
        self.gate.limit(concurrent, waiting)
        self.wait_s = wait_s

    def meter(self, engine: str, watts: float | None, *, is_here: bool) -> Meter:
        """The one there is, for the hours of an engine and for its energy: measured where it `is_here` and that can be
        done, else by `watts`."""
        meter = self.meters.setdefault(engine, Meter(power=self.power if is_here else None))
        meter.watts = watts
        return meter

    def limit_journal(self, *, journal_age_days: float, journal_size_mb: float) -> None:
        if self.journal is not None:
            self.journal.limit(journal_age_days, journal_size_mb)
        if self.residency is not None:
            self.residency.limit(journal_age_days)
            self.residency.note_limits(self.memory_limits())

    async def close(self) -> None:
        await self.loop.close()
        await self.trainer.close()
        await self.pool.close()
        await self.client.close()
        await litellm.close()
        await self.promises.close()
        await self.bookcase.close()
        await self.profiles.close()
        await self.errands.close()
        await self.embeddings.close()
        self.minilm.close()
        await self.telemetry.close()
        await self.power.close()
        if self.keys is not None:
            await self.keys.close()
        if self.ledger is not None:
            await self.ledger.close()
        if self.shared is not None:
            await self.shared.close()
        if self.journal is not None:
            await self.journal.close()
        if self.residency is not None:
            await self.residency.close()
        await self.answers.close()
        if self.database is not None:
            await self.database.close()

    def record(self, trace: RequestTrace) -> None:
        """Count and journal a finished request; neither waits for anything."""
        self.metrics.record(trace)
        self.telemetry.record(trace)
        self.bookcase.record(trace)
        self.profiles.record(trace)
        if self.journal is not None:
            self.journal.record(trace)

    def _record_spend(self, trace: RequestTrace) -> None:
        if self.journal is not None:
            self.journal.record_spend(trace)

    def _audited(
        self, policy: str, request: ChatRequest, answer: Answer, trace: RequestTrace, model: str, audited: str
    ) -> None:
        """A larger model was asked about an accepted answer of `model`; `audited`: that request's own id."""
        self.bookcase.note(policy, request, answer, trace, model)
        self.specialists.audited(audited, answer)

    def _lessons(self) -> Lessons | None:
        return self.bookcase.opened.lessons if self.bookcase.opened is not None else None

    def memory_limits(self) -> tuple[int | None, int | None]:
        """Bytes of main memory and of GPUs that local models may take together; None without a limit."""
        ram, gpu = self.pool.budget.ram_bytes, self.pool.budget.gpu_bytes
        return (None if ram >= UNLIMITED.ram_bytes else ram, None if gpu >= UNLIMITED.gpu_bytes else gpu)

    def _note(self, event: Event) -> None:
        self.metrics.residency.note(event.model, event.reason, event.seconds)
        if self.residency is not None:
            self.residency.note(event)
        else:
            self._untold.append(event)

    def _gauges(self) -> Mapping[str, tuple[str, float]]:
        there = self.elsewhere
        gauges = {
            "gateway_ready": ("1 when every always-on model answers.", float(self.pool.is_ready)),
            "gateway_tasks": ("Tasks of the event loop: they grow with open requests, and go with them.", _tasks()),
        }
        if self.bookcase.opened is not None:
            is_working = self.bookcase.opened.workshop.is_working
            gauges["gateway_shards_working"] = ("1 while shards are made or proven.", float(is_working))
        if self.specialists.places:
            is_working = self.loop.is_working
            gauges["gateway_training_working"] = ("1 while an adapter is trained or tried.", float(is_working))
        if self.gate.count is not None:
            gauges["gateway_requests_waiting"] = ("Requests that wait to be worked on.", float(self.gate.waiting))
            gauges["gateway_requests_turned_away"] = (
                "Requests that found the queue full, or waited too long.",
                float(self.gate.turned_away),
            )
        if self.journal is not None:
            gauges["gateway_journal_dropped"] = (
                "Requests that the journal had no room for.",
                float(self.journal.dropped + there.dropped),
            )
            waiting, lag_s = self.journal.waiting + there.waiting, max(self.journal.lag_s, there.lag_s)
            gauges["gateway_journal_waiting"] = ("Requests that wait to be journalled.", float(waiting))
            gauges["gateway_journal_lag_seconds"] = ("How long the first of them has waited.", lag_s)
        if self.shared is not None:
            gauges["gateway_redis_up"] = ("1 while Redis answers.", float(self.shared.is_up))
            gauges["gateway_redis_failures"] = ("Times that Redis did not answer.", float(self.shared.failures))
        if (spans := self.telemetry.counts) is not None:
            sent, lost = spans[0] + there.spans_sent, spans[1] + there.spans_lost
            gauges["gateway_spans_sent"] = ("Spans that a collector has taken.", float(sent))
            gauges["gateway_spans_lost"] = ("Spans that no collector has taken.", float(lost))
        if there.workers:
            gauges["gateway_workers"] = ("Processes that answer requests.", float(there.workers))
            gauges["gateway_worker_restarts"] = ("Workers that ended and were started again.", float(there.restarts))
        return gauges


def _tasks() -> float:
    """0 where nothing runs yet."""
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:
        return 0.0
