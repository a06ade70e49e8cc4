"""The loop beside the requests: what larger models had to answer is learned, tried, let in step by step, and taken back
where it does not hold."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from gateway.chat import ChatRequest
from gateway.embedding.remembered import Embeddings
from gateway.errors import GatewayError
from gateway.shards import OPERATOR
from gateway.shards.lessons import Lessons
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.store.summary import costs_of
from gateway.tasks import ended
from gateway.trace import new_id
from gateway.training import due, registry
from gateway.training.adopting import adopt
from gateway.training.curate import Curated, Rules, curate, vectors_of
from gateway.training.gate import BothRight, Case, Report, Trying, try_out
from gateway.training.jobs import Trainer, name_of, parted
from gateway.training.kinds import Kind
from gateway.training.orders import TrainingOrders
from gateway.training.pairs import digest_of
from gateway.training.process import put, train
from gateway.training.registry import Entry
from gateway.training.settings import settings_for
from gateway.training.specialists import Curriculum, Place, Specialists
from gateway.training.states import take_step
from gateway.training.trial import ON_TRIAL, Outcome, State, Step, begun, following

log = logging.getLogger(__name__)
LOOK_EVERY_S = 5.0
SETTLED_S = 10.0  # since the last lesson came: more may come with it
AT_LEAST_EVERY_S = 600.0  # where they come all the time
RETRY_S = 300.0  # after training has failed
MOST_LESSONS = 20_000
UNDECIDED = (State.CANDIDATE, State.WAITING, State.SHADOW, State.CANARY)


class Loop:
    """`work` begins it in a running server.

    Args:
        lessons: None where there is no database.
    """

    def __init__(
        self,
        home: Path,
        trainer: Trainer,
        specialists: Specialists,
        embeddings: Embeddings,
        lessons: Callable[[], Lessons | None],
    ) -> None:
        self._home, self._trainer, self._specialists = home, trainer, specialists
        self._embeddings, self._lessons = embeddings, lessons
        self._orders = TrainingOrders()
        self._database: Database | None = None
        self._looked_at: tuple[int, float] | None = None
        self._looked = time.monotonic()
        self._retry_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._complaints = Complaints(log)
        self.is_working = False

    def take(self, curriculum: Curriculum) -> None:
        """From now on this holds."""
        if curriculum.orders != self._orders:
            self._looked_at = None
        self._orders = curriculum.orders
        self._specialists.take(curriculum)

    def open(self, database: Database) -> None:
        self._database = database
        self._specialists.open(database)
        self._specialists.on_outcome = self.consider

    def work(self) -> None:
        if self._database is not None and self._task is None:
            self._specialists.work()
            self._task = asyncio.create_task(self._run(), name="learning loop")

    async def close(self) -> None:
        if self._task is not None:
            await ended([self._task])
            self._task = None
        await self._specialists.close()

    async def _run(self) -> None:
        self._forget_unfinished()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if time.monotonic() < self._retry_at:
                continue
            try:
                await self.learn(settled_s=SETTLED_S)
            except (GatewayError, SQLAlchemyError, OSError) as exc:
                reason = getattr(exc, "message", None) or getattr(exc, "orig", None) or str(exc) or type(exc).__name__
                self._complaints.say(f"learning stopped, and is tried again later: {reason}")
                self._retry_at = time.monotonic() + RETRY_S
            except Exception:
                log.exception("learning stopped, and is tried again later")
                self._retry_at = time.monotonic() + RETRY_S

    def _forget_unfinished(self) -> None:
        """What was being tried when a server ended is learned anew."""
        try:
            entries = registry.read_registry(self._home)
            for entry in entries.values():
                if entry.state is State.CANDIDATE:
                    registry.remove(self._home, entry.full_name)
        except (GatewayError, OSError) as exc:
            self._complaints.say(f"the registry of adapters cannot be read: {exc}")

    # -- from lessons to adapters ----------------------------------------------------------------------------------

    async def learn(self, settled_s: float = 0.0) -> list[Entry]:
        """Train what is due, and bring it through the gate. Returns what came of it.

        Raises: GatewayError, SQLAlchemyError, OSError."""
        lessons, places = self._lessons(), self._specialists.places
        if lessons is None or not places or not self._orders.is_automatic:
            return []
        newest = await lessons.newest()
        has_settled = not settled_s or time.time() - newest[1] >= settled_s
        if newest == self._looked_at or not (has_settled or time.monotonic() - self._looked >= AT_LEAST_EVERY_S):
            return []
        self._looked = time.monotonic()
        curated = await self._curated(lessons)
        found = []
        in_vain = due.in_vain([entry.as_json() for entry in sorted(self._entries().values(), key=_created)])
        for place in places:
            for group in due.groups(curated, place.policy, self._orders, in_vain):
                if self._place_now(place) is None or not await self._is_due(place, group):
                    continue
                self.is_working = True
                try:
                    found.append(await self._teach(place, group, curated))
                finally:
                    self.is_working = False
        self._looked_at = newest
        return found

    async def _curated(self, lessons: Lessons) -> list[Curated]:
        policies = {place.policy for place in self._specialists.places}
        kept = [one for one in await lessons.find(limit=MOST_LESSONS) if one.policy in policies]
        tasks, questions = await vectors_of(kept, self._embeddings)
        rules = Rules(barred=self._orders.barred, scrubs=self._orders.scrubs)
        return await asyncio.to_thread(curate, kept, tasks, questions, rules)

    async def _is_due(self, place: Place, group: due.Group) -> bool:
        own = [entry for entry in self._entries().values() if entry.data.get("group") == group.name]
        own = [entry for entry in own if entry.model == place.model]
        if any(entry.state in UNDECIDED for entry in own):
            return False
        if not due.is_due(group, due.trained_before(group, [entry.data for entry in own])):
            return False
        assert self._database is not None  # else nobody looks
        ids = [lesson.id for one in group.members for lesson in one.lessons]
        costs = await costs_of(self._database, ids)
        settings = settings_for(group.pairs, self._orders.settings)
        speeds = [float(entry.training["tokens_per_s"]) for entry in own if entry.training.get("tokens_per_s")]
        speed = speeds[-1] if speeds else due.SPEED
        is_worth, told = due.pays(group, self._orders, settings, lambda one: costs.get(one.id), time.time(), speed)
        if not is_worth:
            log.info("%s: training would cost more than it saves: %s", group.name, told)
        return is_worth

    async def _teach(self, place: Place, group: due.Group, curated: Sequence[Curated]) -> Entry:
        """Raises: GatewayError, OSError."""
        base = self._trainer.trainables.files.get(place.model)
        if base is None:
            raise GatewayError(f"'{place.model}' cannot be trained here: its file is not there, or no GGUF")
        pairs, tryings = due.split(group, curated)
        settings, id = settings_for(len(pairs), self._orders.settings), new_id()
        if len(group.members) > 1:  # the loss of a kind that nobody can learn would end it for all others
            settings = replace(settings, held_out=0.0)
        learned, measured = parted(pairs, settings)
        folder = self._home / "training" / f"loop-{id}"
        log.info("training an adapter of %s on %d requests of %d kinds", place.model, len(pairs), len(tryings))
        try:
            async with self._trainer.turn:
                await asyncio.to_thread(put, folder, learned, measured)
                report = await train(base, folder, settings, lambda event: None)
            data = {
                "group": group.name,
                "tenant": group.tenant,
                "pairs": group.pairs,
                "kinds": {one.cluster.id: len(one.pairs) for one in group.members},
                "trained_on": len(learned),
                "digest": digest_of(learned),
                "from": min(lesson.created for one in group.members for lesson in one.lessons),
                "to": max(lesson.created for one in group.members for lesson in one.lessons),
                "teachers": sorted({one.model or "people" for member in group.members for one in member.lessons}),
            }
            own = partial(adopt, model=place.model, name=name_of(place.policy, id), base=base, settings=settings)
            more = {"state": State.CANDIDATE, "kinds": tuple(one.kind for one in tryings), "since": time.time()}
            entry = await asyncio.to_thread(own, self._home, folder, data=data, report=report, **more)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return await self._admit(place, entry, tryings)

    async def _admit(self, place: Place, entry: Entry, tryings: Sequence[Trying]) -> Entry:
        """Through the gate, or not. Raises: GatewayError, OSError."""
        name = entry.full_name
        now = None
        if await self._trainer.until_callable(name):
            now = self._place_now(place)
        if now is None or name not in now.adapters:
            return self._refused(name, Report(), "its model's server does not take it")
        report = await try_out(tryings, partial(self._both, now, name))
        if not report.passed:
            return self._refused(name, report, report.why)
        step = Step(State.WAITING, 0.0, "it passed the gate, and waits for a person")
        if not now.is_reviewed:
            step = begun(self._orders.terms)
        parents = {self._serving(kind) for kind in report.passed} - {""}
        told = {"kinds": tuple(report.passed), "gate": report.as_json(), "parent": ",".join(sorted(parents))}
        log.info("adapter %s passed the gate for %d of %d kinds", name, len(report.passed), len(tryings))
        return self._step(name, step, **told)

    def _both(self, place: Place, name: str, kind: Kind) -> BothRight:
        key, before = None if kind.tenant == OPERATOR else kind.tenant, self._serving(kind)

        async def ask(case: Case) -> tuple[bool, bool]:
            request = ChatRequest({**case.request, "model": place.policy, "temperature": 0}, key=key)
            return await self._specialists.both(place, name, before, request, dict(case.wanted))

        return ask

    def _serving(self, kind: Kind) -> str:
        """What answers this kind now; "": the model alone."""
        entries = [one for one in self._entries().values() if one.state is State.LIVE]
        return next((one.full_name for one in entries if any(own.id == kind.id for own in one.kinds)), "")

    def _refused(self, name: str, report: Report, why: str) -> Entry:
        log.info("adapter %s is refused: %s", name, why)
        entry = self._step(name, Step(State.REFUSED, 0.0, why), gate=report.as_json(), kinds=())
        shutil.rmtree(registry.folder_of(self._home, entry), ignore_errors=True)
        return entry

    # -- on trial --------------------------------------------------------------------------------------------------

    async def consider(self, name: str) -> None:
        """There is a new outcome of an adapter on trial: what follows? Raises: GatewayError, SQLAlchemyError."""
        entry, outcomes = self._entries().get(name), self._specialists.outcomes
        if entry is None or outcomes is None or entry.state not in ON_TRIAL:
            return
        rows = await outcomes.find(name, since=entry.since)
        seen = [Outcome(row.right, row.before) for row in rows if (row.state, row.share) == (entry.state, entry.share)]
        step = following(entry.state, entry.share, seen, entry.record, self._orders.terms)
        if step is not None:
            log.info("adapter %s: %s, %s", name, step.state, step.why)
            self._step(name, step)

    def _step(self, name: str, step: Step, **more: object) -> Entry:
        return take_step(self._home, name, step, **more)

    def _entries(self) -> Mapping[str, Entry]:
        return registry.read_registry(self._home)

    def _place_now(self, place: Place) -> Place | None:
        """A reload has made another."""
        places = self._specialists.places
        return next((one for one in places if (one.policy, one.model) == (place.policy, place.model)), None)


def _created(entry: Entry) -> float:
    return entry.created
