"""The supervisor's side: what workers ask of it, and what it tells them. Each worker has a desk, which knows what the
worker holds, and lets it all go when the worker is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

from gateway.access.keys import KeyInfo
from gateway.access.ledger import Entry, Used
from gateway.config.files import Config
from gateway.costs.ledger import Ledger
from gateway.engines import Engine, Lease
from gateway.engines.wishes import Wish
from gateway.errors import BackendUnavailable, GatewayError
from gateway.shards.proving.ledger import Use
from gateway.store.budgets import Sums
from gateway.telemetry.metrics import Counted
from gateway.workers.channel import Channel, Lost
from gateway.workers.journal import Written, write
from gateway.workers.limits import Admitted
from gateway.workers.office import About, Office, Order
from gateway.workers.pool import Seen, seen
from gateway.workers.runtime import Report, news_of

log = logging.getLogger(__name__)
GATHER_S = 5.0  # for a worker to hand over what it has
PREPARE_S = 30.0  # for a worker to build a configuration, and what its rules work out beforehand


@dataclass
class Lent:
    """A lease or a place. `wish`: of a lease."""

    context: AbstractAsyncContextManager[Any]
    wish: Wish = field(default_factory=Wish)


class Desk:
    """Of one worker, from its start until it is gone."""

    def __init__(self, office: Office, pid: int = 0) -> None:
        self._office, self._runtime = office, office.runtime
        self.pid = pid
        self.is_ready = self.was_ready = self.is_done = False
        self.report = Report()
        self.ended = asyncio.Event()
        self._config: Config | None = None  # what the worker serves
        self._prepared: Config | None = None
        self._engines: dict[int, Engine] = {}
        self._lent: dict[int, Lent] = {}
        self._entries: dict[int, Entry] = {}
        self._told: dict[int, Seen] = {}
        self._told_about: About | None = None
        self._told_arms: dict[str, tuple[str, int]] = {}
        self.channel = Channel(
            {
                "begin": self._begin,
                "ready": self._ready,
                "keep": self._keep,
                "drop": self._drop,
                "lease": self._lease,
                "take": self._take,
                "leave": self._leave,
                "prefetch": self._prefetch,
                "enter": self._enter,
                "hold": self._hold,
                "end": self._end,
                "told": self._told_of,
                "spent": self._spent,
                "rows": self._rows,
                "counts": self._counts,
                "gather": office.gather,
                "metrics": office.metrics_text,
                "find": office.find,
                "done": self._done,
                "news": self._news,
                "tell": self._tell,
                "settled": office.runtime.promises.take,
                "audited": office.runtime.promises.spend,
                "uses": self._uses,
                "standings": self._standings,
                "outcome": office.runtime.loop.consider,
                "train": office.runtime.trainer.look,
                "cancel_job": office.runtime.trainer.cancel,
                "bye": lambda: None,  # by its answer a worker knows that all before it has come
            },
            self._lost,
        )
        office.desks.append(self)

    # -- its life --------------------------------------------------------------------------------------------------

    def _begin(self) -> tuple[Order, About]:
        self._config = self._office.order.config
        return self._office.order, self._office.about

    def _ready(self) -> None:
        self.is_ready = self.was_ready = True
        if len(self._office.ready) == self._office.count:
            self._office.has_opened.set()
        self.tell_news()
        self._catch_up()

    def _done(self) -> None:
        """It stops, and its last request has ended."""
        self.is_done = True
        self._office.part()

    def _catch_up(self) -> None:
        """Another configuration has come while it started."""
        config = self._office.order.config
        if self.is_ready and self._config is not config:
            self._office.do(self._change(config))

    async def _change(self, config: Config) -> None:
        with suppress(Lost):
            try:
                await self.prepare(config)
            except GatewayError as exc:
                log.error("worker %d does not take the configuration, and is ended: %s", self.pid, exc.message)
                self.channel.close()
            else:
                self.swap()

    def _lost(self) -> None:
        """It holds nothing any more, and what it kept goes."""
        self.is_ready = False
        for held in list(self._lent):
            self._leave(held, 0, False)
        for held in list(self._entries):
            self._end(held, Used())
        self._drop(list(self._engines))
        self._office.leave(self)
        self.ended.set()

    # -- its configuration -----------------------------------------------------------------------------------------

    async def prepare(self, config: Config) -> None:
        """Raises: GatewayError."""
        try:
            async with asyncio.timeout(PREPARE_S):
                await self.channel.ask("prepare", config)
        except TimeoutError:
            raise GatewayError(f"worker {self.pid} has not taken the configuration within {PREPARE_S:g} s") from None
        self._prepared = config

    def swap(self) -> None:
        if self._prepared is None:
            self._catch_up()
            return
        self._config, self._prepared = self._prepared, None
        self._told_arms.clear()  # there may be new ones, of which it knows nothing
        self.channel.tell("swap")

    def forget(self) -> None:
        self._prepared = None
        self.channel.tell("forget")

    async def gather(self) -> None:
        with suppress(Lost, TimeoutError):  # who is that late is late with the next numbers too
            async with asyncio.timeout(GATHER_S):
                await self.channel.ask("hand_over")

    # -- engines ---------------------------------------------------------------------------------------------------

    def _keep(self, engines: Mapping[int, Engine]) -> dict[int, Seen]:
        pool = self._runtime.pool
        try:
            found = {number: self._seen(engine) for number, engine in engines.items()}
        except KeyError as exc:
            name = getattr(exc.args[0], "name", "?")
            raise GatewayError(f"model '{name}' is another one by now") from None
        pool.keep(list(engines.values()))
        self._engines.update(engines)
        self._told.update(found)
        return found

    def _seen(self, engine: Engine) -> Seen:
        return seen(self._runtime.pool, engine, self._runtime.metrics.residency.loads)

    def _drop(self, numbers: Sequence[int]) -> None:
        gone = [self._engines.pop(number) for number in numbers if number in self._engines]
        self._runtime.pool.drop(gone)
        for number in numbers:
            self._told.pop(number, None)

    def tell_news(self) -> None:
        """What has changed since it was told last."""
        changed = {}
        for number, engine in self._engines.items():
            found = self._seen(engine)
            if found != self._told.get(number):
                changed[number] = self._told[number] = found
        if changed:
            self.channel.tell("engines", changed, self._runtime.pool.taken)
        about = self._office.about
        if about != self._told_about:
            self._told_about = about
            self.channel.tell("about", about)
        states = self._runtime.promises.states(self._told_arms)
        if states:
            self._told_arms |= {name: (arm.fingerprint, arm.version) for name, arm in states.items()}
            self.channel.tell("promises", states)

    async def _lease(self, held: int, number: int, deadline: float | None, wish: Wish) -> tuple[Lease, Wish]:
        engine = self._engines[number]
        context = self._runtime.pool.lease(engine, deadline, wish)
        lease = await context.__aenter__()
        self._lent[held] = Lent(context, wish)
        found, told = self._seen(engine), self._told.get(number)
        if told is None or (told.lease, told.found, told.is_loaded) != (found.lease, found.found, found.is_loaded):
            self._told[number] = found
            self.channel.tell("engines", {number: found}, self._runtime.pool.taken)  # comes before the lease does
        return lease, wish

    def _prefetch(self, number: int, chance: float) -> None:
        self._runtime.pool.prefetch(self._engines[number], chance)

    # -- places and limits -----------------------------------------------------------------------------------------

    async def _take(
        self,
        held: int,
        place: tuple[str | None, int],
        deadline: float | None,
        name: str,
        priority: int,
        wait_s: float | None,
    ) -> None:
        context = self._office.slots(*place).taken(deadline, name, priority, wait_s)
        await context.__aenter__()
        self._lent[held] = Lent(context)

    def _leave(self, held: int, tokens: int, is_doubted: bool) -> None:
        """Nothing, where it was never granted. `is_doubted`: the server could not be reached."""
        lent = self._lent.pop(held, None)
        if lent is not None:
            lent.wish.tokens = tokens
            self._office.do(_left(lent.context, BackendUnavailable("not reached") if is_doubted else None))

    async def _enter(self, held: int, key: KeyInfo, fixed_tokens: int, tokens_an_answer: int) -> Admitted:
        ledger = self._runtime.ledger
        assert ledger is not None  # it is opened before a worker begins
        entry = self._entries[held] = await ledger.enter(key, lambda usual: fixed_tokens + tokens_an_answer * usual)
        cap = entry.cap
        if cap is None:
            return Admitted(entry.headers())
        return Admitted(entry.headers(), cap.left_usd, entry.over_budget("").headers)

    async def _hold(self, held: int, usd: float) -> tuple[bool, float]:
        """Is it held now? And what is left after that."""
        cap = self._entries[held].cap
        assert cap is not None  # else nobody asks
        return await cap.hold(usd), cap.left_usd

    def _end(self, held: int, used: Used) -> None:
        entry = self._entries.pop(held, None)
        if entry is not None:
            entry.book(used)

    async def _told_of(self, key: KeyInfo) -> dict[str, object]:
        assert self._runtime.ledger is not None  # it is opened before a worker begins
        return await self._runtime.ledger.told(key)

    def _spent(self, spent: Mapping[tuple[int, str], Sums]) -> None:
        assert self._runtime.ledger is not None  # it is opened before a worker begins
        for (key, day), sums in spent.items():
            self._runtime.ledger.spend(key, day, sums)

    # -- what happened ---------------------------------------------------------------------------------------------

    async def _rows(self, rows: Sequence[tuple[Any, ...]], spent: Ledger) -> tuple[Written, str]:
        assert self._runtime.journal is not None  # it is opened before a worker begins
        return await write(self._runtime.journal, rows, spent)

    def _news(self, topic: str, *news: Any) -> None:
        """For all: what one of them has learned."""
        news_of(self._runtime, topic)(*news)
        for desk in self._office.ready:
            if desk is not self:
                desk.channel.tell("news", topic, *news)

    def _tell(self, about: str, facts: Mapping[str, object]) -> None:
        self._runtime.tell(about, **facts)
        self._news("gateways", about, facts)

    def _uses(self, uses: Sequence[Use]) -> None:
        if self._runtime.bookcase.opened is not None:
            self._runtime.bookcase.opened.ledger.use(uses)

    def _standings(self) -> None:
        if self._runtime.bookcase.opened is not None:
            self._runtime.bookcase.opened.ledger.forget()

    def _counts(self, counted: Counted | None, report: Report) -> None:
        if counted is not None:
            self._runtime.metrics.take(counted)
        self.report = report
        self._office.take_reports()


async def _left(context: AbstractAsyncContextManager[Any], error: Exception | None) -> None:
    with suppress(BackendUnavailable):
        await context.__aexit__(type(error) if error is not None else None, error, None)
