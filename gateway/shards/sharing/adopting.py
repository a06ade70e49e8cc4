"""Shards from elsewhere come into the store: as candidates, under ids of their own, without touching anything else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from gateway.errors import InvalidRequest
from gateway.shards import OPERATOR, Json, Scope, Shard, Standing, State, Trust, audience_of
from gateway.shards.sharing.records import Claim, Record, content_hash, digest, source_of
from gateway.shards.store import ShardStore

WITHDRAWN = "withdrawn by "
"""How `why` of a shard begins that its publisher, and nobody here, has retired: it may come back."""
IDS_AT_ONCE = 500
MOST_NAMED = 20


@dataclass(frozen=True)
class Receiver:
    """For whom shards from elsewhere are, as whoever lets them in says.

    Args:
        needs_review: they wait until somebody here approves them.
        readers: models here; claims of other readers' evidence are not kept. None: all are.
    """

    tenant: str = OPERATOR
    scope: Scope = Scope.TENANT
    user: str | None = None
    writer: str = OPERATOR
    trust: Trust = Trust.TESTED
    needs_review: bool = False
    readers: Collection[str] | None = None

    def __post_init__(self) -> None:
        if (self.scope is Scope.USER) != (self.user is not None):
            raise InvalidRequest("the scope 'user' needs a user, and no other scope has one", param="user")

    @property
    def audience(self) -> str:
        return audience_of(self.scope, self.tenant, self.user)


@dataclass
class Adopted:
    """What became of records, in numbers; `rejected` tells why some were refused, of the first."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    edited_here: int = 0
    retired_here: int = 0
    withdrawn: int = 0
    refused: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def reject(self, id: str, why: str) -> None:
        self.refused += 1
        if len(self.rejected) < MOST_NAMED:
            self.rejected.append((id, why))


class Adoption:
    """One publisher's shards by one way (`feed` or `bundle`) and name, for one receiver."""

    def __init__(self, store: ShardStore, receiver: Receiver, channel: str, publisher: str, name: str) -> None:
        self._store, self._to = store, receiver
        self._channel, self.publisher, self._name = channel, publisher, name
        self.source = source_of(channel, publisher, name)
        self.audience = receiver.audience

    def local_id(self, id: str, audience: str = "") -> str:
        """Always the same for the same shard, way and receiver; it cannot be made to meet another shard's."""
        return digest("adopted", self.source, audience or self.audience, id)

    async def take(self, records: Sequence[Record], report: Adopted) -> None:
        """Write what is new or has changed. What was edited or retired here stays as it is here."""
        for start in range(0, len(records), IDS_AT_ONCE):
            await self._take(records[start : start + IDS_AT_ONCE], report)

    async def _take(self, records: Sequence[Record], report: Adopted) -> None:
        held = await self._store.get_many([self.local_id(record.id) for record in records])
        writes: list[Shard] = []
        standings: list[Standing] = []
        for record in {record.id: record for record in records}.values():
            shard = self._localised(record)
            write = _next(held.get(shard.id), shard, report)
            if write is not None:
                writes.append(write)
                standings += self._claims(record, shard.id)
        if writes:
            # before the text: a new one must not be given to a reader because the old one was proven
            await self._forget_proofs([shard.id for shard in writes if shard.id in held])
            await self._store.put(writes)
            await self._store.set_standings(standings)

    async def drop(self, ids: Collection[str], report: Adopted, why: str = "") -> None:
        """Retire what is held under these ids of the publisher's, at once."""
        await self.retire({self.local_id(id) for id in ids}, report, why)

    async def retire(self, local_ids: Collection[str], report: Adopted, why: str = "") -> None:
        wanted = sorted(local_ids)
        for start in range(0, len(wanted), IDS_AT_ONCE):
            held = await self._store.get_many(wanted[start : start + IDS_AT_ONCE])
            gone = [shard.id for shard in held.values() if shard.state is not State.RETIRED]
            if gone:
                await self._store.set_state(gone, State.RETIRED, f"{WITHDRAWN}{self.publisher}{why and ': '}{why}")
            report.withdrawn += len(gone)

    def _localised(self, record: Record) -> Shard:
        to = self._to
        return record.shard.now(
            id=self.local_id(record.id),
            tenant=to.tenant,
            scope=to.scope,
            user=to.user,
            writer=to.writer,
            trust=to.trust,
            needs_review=to.needs_review,
            source=source_of(self._channel, self.publisher, self._name, record.via),
            source_hash=content_hash(record.shard),
            lot=digest("lot", self.source, self.audience, record.lot) if record.lot else "",
        )

    def _claims(self, record: Record, id: str) -> list[Standing]:
        readers = self._to.readers
        return [
            Standing(id, one.reader, State.CANDIDATE, one.fingerprint, self._said(one))
            for one in {claim.reader: claim for claim in record.claims}.values()
            if readers is None or one.reader in readers
        ]

    def _said(self, claim: Claim) -> Json:
        return {"claim": {"by": self.publisher, "state": claim.state, "evidence": claim.evidence}}

    async def _forget_proofs(self, ids: Sequence[str]) -> None:
        """They were of another text."""
        proven = await self._store.standings(ids) if ids else []
        await self._store.set_standings([Standing(one.shard, one.reader) for one in proven])


def _next(old: Shard | None, new: Shard, report: Adopted) -> Shard | None:
    """What is to be written; None where all stays as it is."""
    if old is None:
        report.new += 1
        return new
    if content_hash(old) != old.source_hash:
        report.edited_here += 1
        return None
    is_withdrawn = old.state is State.RETIRED and old.why.startswith(WITHDRAWN)
    is_same = old.source_hash == new.source_hash
    new = replace(new, version=old.version + 1, created=old.created)
    if old.state is State.RETIRED and not is_withdrawn:
        report.retired_here += 1
        return None if is_same else replace(new, state=State.RETIRED, why=old.why)
    if is_same and not is_withdrawn:
        report.unchanged += 1
        return None
    report.changed += 1
    return new
