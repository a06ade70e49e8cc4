"""How shards stand with their readers, in memory and behind it in the database; and what each use of one changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from gateway.given import FACT, Given
from gateway.shards import Json, Standing, State
from gateway.shards.proving.watch import Action, share_withheld, watch
from gateway.shards.store import ShardStore
from gateway.store.complaints import Complaints
from gateway.trace import CHECK, RequestTrace, Trace

log = logging.getLogger(__name__)
REMEMBERED = 200_000  # standings
WRITE_EVERY_S = 1.0
NOTHING_PROVEN = 0.5  # a pass rate, where a proof says nothing of it


@dataclass(frozen=True, slots=True)
class Use:
    """One answer of a reader that was given a shard, or from which it was withheld, and whether it passed."""

    shard: str
    reader: str
    was_shown: bool
    passed: bool


class Ledger:
    """Use it in one event loop, between `start` and `close`."""

    def __init__(self, store: ShardStore, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._known: dict[tuple[str, str], Standing | None] = {}
        self._changed: set[tuple[str, str]] = set()
        self._uses: list[Use] = []
        self.on_uses: Callable[[Sequence[Use]], None] = self.use  # or another process's
        self.on_set: Callable[[], None] = lambda: None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complaints = Complaints(log)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_writing(), name="shards' ledger")

    async def close(self) -> None:
        self._closing.set()
        if self._task is not None:
            await self._task
            self._task = None
        await self.settle()

    def forget(self) -> None:
        """Shards have changed, perhaps by another process: read again what is not our own change."""
        self._known = {key: one for key, one in self._known.items() if key in self._changed}

    async def standings(self, ids: Sequence[str], reader: str) -> dict[str, Standing]:
        """Those that there are."""
        missing = [id for id in ids if (id, reader) not in self._known]
        if missing:
            if len(self._known) > REMEMBERED:
                self.forget()
            found = {one.shard: one for one in await self._store.standings(missing, reader)}
            for id in missing:
                self._known.setdefault((id, reader), found.get(id))
        known = ((id, self._known.get((id, reader))) for id in ids)
        return {id: one for id, one in known if one is not None}

    def share_of(self, standing: Standing | None) -> float:
        """Of conversations that go without it. What a person has corrected, everybody is given who asks like that."""
        if standing is not None and standing.evidence.get("corrected"):
            return 0.0
        return share_withheld(standing.state if standing is not None else State.TRIAL)

    def record(self, trace: RequestTrace) -> None:
        """What a finished request tells of the shards in it. Never waits, never raises."""
        if trace.totals().shards:
            self.on_uses(list(uses_in(trace)))

    def rate(self, tree: Json, *, is_good: bool) -> None:
        """Somebody rated an answer: a use of the shards that its model was given. `tree`: its trace, as journalled."""
        self.on_uses(list(rated_uses(tree, is_good)))

    def use(self, uses: Sequence[Use]) -> None:
        self._uses.extend(uses)

    async def settle(self) -> None:
        """Work in what was recorded before this call, and write it. Raises: SQLAlchemyError."""
        uses, self._uses = self._uses, []
        for use in uses:
            standing = (await self.standings([use.shard], use.reader)).get(use.shard)
            if standing is None or standing.state is State.RETIRED:
                continue
            baseline = float(standing.evidence.get("baseline", NOTHING_PROVEN))
            after, finding = watch(standing, use.was_shown, use.passed, baseline, self._clock())
            if finding.action is not Action.KEEP:
                after = replace(after, evidence={**after.evidence, "why": finding.why})
                log.info("shard %s is %s for %s: %s", use.shard, after.state, use.reader, finding.why)
            self._known[use.shard, use.reader] = after
            self._changed.add((use.shard, use.reader))
        changed, self._changed = self._changed, set()
        try:
            await self._store.set_standings([one for key in changed if (one := self._known[key]) is not None])
        except BaseException:
            self._changed |= changed
            raise

    async def set(self, standings: Iterable[Standing]) -> None:
        """After a proof."""
        written = list(standings)
        await self._store.set_standings(written)
        for standing in written:
            self._known[standing.shard, standing.reader] = standing
        self.on_set()

    async def demote(self, reader: str, fingerprint: str) -> int:
        """The reader's model has changed: what was proven with another is on trial again. Returns how many were."""
        found = await self._store.standings(reader=reader)
        stale = [one for one in found if one.state is State.LIVE and one.fingerprint != fingerprint]
        why = "the model has changed: it is proven anew"
        await self.set(replace(one, state=State.TRIAL, evidence={**one.evidence, "why": why}) for one in stale)
        return len(stale)

    async def _keep_writing(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), WRITE_EVERY_S)
            if not self._uses and not self._changed:
                continue
            try:
                await self.settle()
            except SQLAlchemyError as exc:
                reason = getattr(exc, "orig", None) or type(exc).__name__
                self._complaints.say(f"uses of shards could not be written: {reason}")


def rated_uses(hop: Json, is_good: bool) -> Iterable[Use]:
    """Of the hops whose answer was taken."""
    if hop.get("left") or hop.get("kind") == CHECK:
        return
    given = (hop.get("facts") or {}).get(FACT) if hop.get("kind") == "shards" else None
    if isinstance(given, dict):
        for one in given.get("considered", ()):
            if one.get("in"):
                yield Use(one["shard"], str(hop.get("name")), True, is_good)
        for shard in given.get("withheld", ()):
            yield Use(shard, str(hop.get("name")), False, is_good)
    for child in hop.get("children", ()):
        yield from rated_uses(child, is_good)


def uses_in(trace: Trace) -> Iterable[Use]:
    """A tier with checks tells whether the answer passed; without checks nothing is known of it."""
    for tier in trace.walk(checks=False):
        if tier.kind != "tier" or not (tier.facts or {}).get("judged"):
            continue
        for hop in tier.walk(checks=False):
            given = (hop.facts or {}).get(FACT) if hop.kind == "shards" else None
            if isinstance(given, Given):
                for shard in given.chosen:
                    yield Use(shard, given.reader, True, tier.left is None)
                for shard in given.withheld:
                    yield Use(shard, given.reader, False, tier.left is None)
