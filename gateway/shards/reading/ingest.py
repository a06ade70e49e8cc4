"""Documents into the store: what is new is added as one lot, what went is retired, what stayed is left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.shards import OPERATOR, Kind, Scope, Shard, Trust
from gateway.shards.memory.extracting import conversations_in, extract
from gateway.shards.memory.memories import Action, Memories
from gateway.shards.reading.documents import Document, Skipped
from gateway.shards.reading.reingest import Plan, plan
from gateway.shards.safety.screen import screened
from gateway.shards.store import ShardStore, Where
from gateway.trace import new_id

AUTHOR = "examples"


@dataclass
class Ingested:
    """Counts of shards, by what became of them. `lot`: of those added; `suspicious`: of these, how many wait for
    approval, because they read like orders to a model."""

    lot: str
    documents: int = 0
    added: int = 0
    kept: int = 0
    superseded: int = 0
    suspicious: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        skipped = [{"source": one.source, "why": one.why} for one in self.skipped]
        return {**self.__dict__, "skipped": skipped}


def like_of(
    lot: str, tenant: str = OPERATOR, scope: Scope = Scope.TENANT, writer: str = OPERATOR, trust: Trust = Trust.OPERATOR
) -> Shard:
    """What all shards of an ingest have in common."""
    return Shard("", Kind.CONTENT, tenant, scope, lot=lot, author=AUTHOR, writer=writer, trust=trust)


async def ingest(store: ShardStore, documents: Iterable[Document | Skipped], like: Shard) -> Ingested:
    """Each document is one step: what is done stays, should a later one fail."""
    report = Ingested(like.lot or new_id())
    like = replace(like, lot=report.lot)
    for document in documents:
        if isinstance(document, Skipped):
            report.skipped.append(document)
        else:
            await ingest_one(store, document, like, report)
    return report


async def ingest_one(store: ShardStore, document: Document, like: Shard, report: Ingested) -> None:
    where = Where(audiences=(like.audience,), tenant=like.tenant, source=document.source, kind=str(Kind.CONTENT))
    existing = await store.find(where)
    known = {shard.id: shard for shard in existing}
    planned, add = await asyncio.to_thread(_planned, document, existing, like)  # of a large one for seconds
    changed = [shard for shard in planned.keep if shard != known.get(shard.id)]
    await store.put([*add, *changed, *planned.supersede])
    report.documents += 1
    report.added += len(add)
    report.kept += len(planned.keep)
    report.superseded += len(planned.supersede)
    report.suspicious += sum(shard.needs_review for shard in add)


def _planned(document: Document, existing: Sequence[Shard], like: Shard) -> tuple[Plan, list[Shard]]:
    planned = plan(document, existing, now=time.time(), like=like)
    return planned, [screen(shard) for shard in planned.add]


async def ingest_conversations(store: ShardStore, path: Path, tenant: str, report: Ingested) -> None:
    """What users said of themselves in past conversations, and what was agreed with them, as their memories.

    Raises: InvalidRequest for a file that holds something else.
    """
    memories = Memories(store)
    for conversation in conversations_in(path):
        found = extract(conversation.messages)
        changes = await memories.keep(found, tenant, conversation.user, OPERATOR, f"{path.name}#{conversation.session}")
        new = [one.shard for one in changes if one.action is not Action.NOOP]
        await store.put([replace(shard, lot=report.lot) for shard in new])
        report.documents += 1
        report.added += len(new)
        report.kept += len(changes) - len(new)
        report.superseded += sum(one.replaced is not None for one in changes)
        report.suspicious += sum(shard.needs_review for shard in new)


def screen(shard: Shard) -> Shard:
    """Cleaned; what reads like an order to a model waits for approval."""
    cleaned, doubts = screened(shard)
    return replace(cleaned, needs_review=True, why=f"suspicious: {doubts[0]}") if doubts else cleaned
