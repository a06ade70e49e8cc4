"""Work on shards beside the requests: vectors for what is new, proofs for candidates, new shards from what larger
models had to answer. One thing at a time, each step when nobody waits for an answer, as far as that can be had."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy.exc import SQLAlchemyError

from gateway.chat import ChatRequest, Json
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.shards import OPERATOR, Shard, Standing, State
from gateway.shards.authors import examples as by_examples
from gateway.shards.authors import model as by_model
from gateway.shards.clusters import Cluster, gather
from gateway.shards.lessons import Lessons
from gateway.shards.orders import Orders, Reader, Subject
from gateway.shards.proving.evidence import LotProof, Proof
from gateway.shards.proving.proof import Progress, Prover
from gateway.shards.search.calibration import calibrate
from gateway.shards.shelf import OF_A_CLUSTER, Shelf, task_of
from gateway.store.complaints import Complaints
from gateway.tasks import ended
from gateway.trace import SHARDS, RequestTrace, Trace

log = logging.getLogger(__name__)
LOOK_EVERY_S = 2.0
EMBEDDED_AT_ONCE = 64
TESTED_AT_ONCE = 2000  # shards that are looked at in one go
LOT_FROM = 12  # facts that came together: fewer are tested one by one
SETTLED_S = 10.0
QUIET_S = 1.0  # that a proof waits for others' requests to end, at each step
GROWTH, GROWTH_IN_VAIN = 1.5, 3.0  # a cluster is worked on again when it has so many times the lessons
RETRY_S = 60.0  # after the reader could not be asked


@dataclass
class Bill:
    """What the work has cost so far."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    usd: float | None = 0.0

    def add(self, trace: Trace) -> None:
        totals = trace.totals()
        self.requests += len(totals.asked)
        self.input_tokens += totals.input_tokens
        self.output_tokens += totals.output_tokens
        self.seconds += time.monotonic() - trace.started
        self.usd = None if self.usd is None or totals.cost_usd is None else self.usd + totals.cost_usd

    def since(self, other: Bill) -> Json:
        usd = None if self.usd is None or other.usd is None else round(self.usd - other.usd, 8)
        return {
            "requests": self.requests - other.requests,
            "input_tokens": self.input_tokens - other.input_tokens,
            "output_tokens": self.output_tokens - other.output_tokens,
            "seconds": round(self.seconds - other.seconds, 2),
            "usd": usd,
        }


@dataclass
class Workshop:
    """Args:
    orders: gives those that hold now; a reload changes them.
    is_busy: somebody waits for an answer.
    spent: takes what the work has asked of models.
    """

    shelf: Shelf
    lessons: Lessons
    orders: Callable[[], Orders]
    is_busy: Callable[[], bool] = lambda: False
    spent: Callable[[RequestTrace], None] = lambda trace: None
    bill: Bill = field(default_factory=Bill)

    def __post_init__(self) -> None:
        self._provers: dict[str, Prover] = {}
        self._wanted: dict[str, int] = {}  # lessons that a cluster needs to be worked on again
        self._fingerprints: dict[str, str] = {}
        self._calibrated: dict[str, int] = {}  # revision, by tenant
        self._retry_at = 0.0
        self._learned_from: tuple[int, float] | None = None  # how many lessons there were, and when the last one came
        self._in_hand = 0
        self._working = asyncio.Lock()
        self._complaints = Complaints(log)
        self._task: asyncio.Task[None] | None = None

    @property
    def is_working(self) -> bool:
        """Is a shard being made or proven? To look for work is none."""
        return self._in_hand > 0

    @contextmanager
    def _work_in_hand(self) -> Iterator[None]:
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="shards' workshop")

    async def close(self) -> None:
        if self._task is not None:
            await ended([self._task])
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.work(settled_s=SETTLED_S)
            except (GatewayError, SQLAlchemyError) as exc:
                reason = getattr(exc, "message", None) or getattr(exc, "orig", None) or type(exc).__name__
                self._complaints.say(f"work on shards stopped, and goes on in a minute: {reason}")
                self._retry_at = time.monotonic() + RETRY_S
            except Exception:
                log.exception("work on shards stopped, and goes on in a minute")
                self._retry_at = time.monotonic() + RETRY_S

    async def work(self, settled_s: float = 0.0) -> None:
        """All there is to do now. Facts that come together are tested together, so once none has come for so long.

        Raises: GatewayError where a model cannot be asked."""
        async with self._working:
            await self.embed()
            await self.calibrate()
            orders = self.orders()
            if not orders.is_automatic or time.monotonic() < self._retry_at:
                return
            for subject in orders.subjects:
                await self._notice(subject.reader)
                await self._prove_pending(subject, settled_s)
            await self._learn(orders)

    async def embed(self) -> int:
        """Vectors for what has none yet. Returns how many were made. Raises: GatewayError."""
        made = 0
        while texts := await self.shelf.store.without_vector(EMBEDDED_AT_ONCE):
            vectors = await self.shelf.vectors.of_all([text for _, text in texts])
            await self.shelf.store.set_vectors(dict(zip((id for id, _ in texts), vectors, strict=True)))
            made += len(texts)
        if made:
            await self.shelf.index.refresh()
        return made

    async def calibrate(self) -> None:
        """The floors of relevance, where shards have changed. Raises: GatewayError."""
        index = self.shelf.index
        for tenant in list(self.shelf.floors):
            if index.revision and self._calibrated.get(tenant) != index.revision:
                self._calibrated[tenant] = index.revision
                self.shelf.floors[tenant] = await calibrate(self.shelf.store, index, self.shelf.vectors, tenant)

    async def _notice(self, reader: Reader) -> None:
        """Another model behind the same name: what was proven is on trial."""
        if self._fingerprints.get(reader.name) != reader.fingerprint:
            count = await self.shelf.ledger.demote(reader.name, reader.fingerprint)
            if count:
                log.info("model %s has changed: %d shards are on trial again", reader.name, count)
            self._fingerprints[reader.name] = reader.fingerprint

    async def _prove_pending(self, subject: Subject, settled_s: float) -> None:
        pending = await self.shelf.store.untested(subject.reader.name, subject.reader.fingerprint, TESTED_AT_ONCE)
        for members in by_lot(pending):
            if settled_s and time.time() - max(member.created for member in members) < settled_s:
                continue
            await self.prove(members, subject)

    async def prove(
        self, shards: Sequence[Shard], subject: Subject, progress: Progress | None = None
    ) -> list[tuple[Standing, Proof | LotProof]]:
        """Test shards on a reader, those of a lot together, and write down how they stand. Raises: GatewayError."""
        with self._work_in_hand():
            return await self._prove(shards, subject, progress)

    async def _prove(
        self, shards: Sequence[Shard], subject: Subject, progress: Progress | None
    ) -> list[tuple[Standing, Proof | LotProof]]:
        prover, before = self._prover(subject), replace(self.bill)
        results: list[tuple[Standing, Proof | LotProof]] = []
        if len(shards) >= LOT_FROM and len({shard.lot for shard in shards}) == 1 and shards[0].lot:
            standings, lot_proof = await prover.prove_lot(shards, progress)
            results = [(standing, lot_proof) for standing in standings]
        else:
            for n, shard in enumerate(shards):
                if progress is not None:
                    progress(n, len(shards))
                results.append(await prover.prove(shard))
        cost = self.bill.since(before)
        results = [(replace(s, evidence={**s.evidence, "cost": cost}), proof) for s, proof in results]
        current = await self.shelf.store.get_many([shard.id for shard in shards])
        versions = {id: shard.version for id, shard in current.items()}
        # A text that has changed meanwhile has been proven by nobody.
        await self.shelf.ledger.set(s for s, _ in results if versions.get(s.shard) == s.evidence["version"])
        await self.shelf.index.refresh()
        for standing, proof in results[:1]:
            log.info("%d shards tested on %s (%s): %s", len(results), subject.reader.name, standing.state, proof.why)
        return results

    def _prover(self, subject: Subject) -> Prover:
        prover = self._provers.get(subject.reader.name)
        if prover is None or prover.reader.fingerprint != subject.reader.fingerprint:
            prover = Prover(subject.reader, lambda request: self._ask(subject, request), self.shelf.vectors)
            self._provers[subject.reader.name] = prover
        prover.ask = lambda request: self._ask(subject, request)  # a reload has made another responder
        prover.floors = self.shelf.floors[OPERATOR]
        return prover

    async def _ask(self, subject: Subject, request: ChatRequest) -> Json:
        waited = 0.0
        while self.is_busy() and waited < QUIET_S:
            await asyncio.sleep(0.05)
            waited += 0.05
        trace = RequestTrace(subject.reader.name)
        trace.purpose = SHARDS
        try:
            answer = await subject.responder.respond(request, _nobody, trace)
            trace.answered_by, trace.status = answer.model, 200
        except GatewayError as exc:
            trace.status, trace.error = exc.status, exc.code
            raise
        finally:
            self.bill.add(trace)
            self.spent(trace)
        message: Json = (answer.body.get("choices") or [{}])[0].get("message") or {}
        return message

    # -- learning from what larger models answered -----------------------------------------------------------------

    async def _learn(self, orders: Orders) -> None:
        newest = await self.lessons.newest()
        if newest == self._learned_from or newest[0] < by_examples.MIN_LESSONS or not orders.subjects:
            return
        lessons = await self.lessons.find()
        vectors = await self.shelf.vectors.of_known([task_of(ChatRequest(one.request)) for one in lessons])
        clusters = gather(lessons, vectors)
        clusters.sort(key=lambda one: -len(one.lessons))  # where there is most to win
        for cluster in clusters:
            count = len(by_examples.usable(cluster.lessons))
            if count < by_examples.MIN_LESSONS or count < self._wanted.get(cluster.id, 0):
                continue
            with self._work_in_hand():
                is_near = await self._make(cluster, orders)
            self._wanted[cluster.id] = int(count * (GROWTH if is_near else GROWTH_IN_VAIN))
        self._learned_from = newest

    async def _make(self, cluster: Cluster, orders: Orders) -> bool:
        """A shard of the cluster, or the next version of the one there is: that stays until the new one is proven.
        Returns whether more requests may make it do, or it does."""
        is_near = False
        known = await self.shelf.store.of_source(f"{OF_A_CLUSTER}{cluster.id}", cluster.tenant)
        before = known[0] if known else None
        for shard in await self._drafts(cluster, orders, before):
            if cluster.policy in orders.reviewed:
                shard = replace(shard, needs_review=True, why=shard.why or "waits for approval")
            start, standings = replace(self.bill), []
            for subject in orders.subjects:
                shard, standing, proof = await self._prover(subject).prove_or_narrow(shard)
                evidence = {**standing.evidence, "cost": self.bill.since(start), "lessons": len(cluster.lessons)}
                standings.append(replace(standing, evidence=evidence))
                is_near |= proof.is_near
                log.info("a shard of %d requests for %s: %s", len(cluster.lessons), subject.reader.name, proof.why)
            if before is None or any(one.state is not State.CANDIDATE for one in standings):
                stored = (await self.shelf.store.put([shard]))[0]
                await self.shelf.ledger.set(standings)
                await self.lessons.use([one.id for one in cluster.lessons])
                await self.embed()
                await self.shelf.index.refresh()
                before = stored
            if any(one.state is not State.CANDIDATE for one in standings):
                break
        return is_near

    async def _drafts(self, cluster: Cluster, orders: Orders, before: Shard | None) -> list[Shard]:
        """What is tried in turn: what the author writes, then bare examples."""
        drafts = []
        if orders.author is not None:
            author = orders.author
            try:
                drafts.append(
                    await by_model.author_process(
                        cluster, lambda request: self._ask(author, request), author.reader.name, before
                    )
                )
            except GatewayError as exc:
                self._complaints.say(f"the author '{author.reader.name}' could not be asked: {exc.message}")
        drafts.append(by_examples.author(cluster, before))
        return [draft for draft in drafts if draft is not None]


def by_lot(shards: Sequence[Shard]) -> list[list[Shard]]:
    """Those that came together, together; each of the others by itself."""
    lots: dict[str, list[Shard]] = {}
    for shard in shards:
        lots.setdefault(shard.lot or shard.id, []).append(shard)
    return list(lots.values())


async def _nobody(chunk: Chunk) -> None:
    """Nobody listens."""
