"""Shards tested because somebody says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.errors import InvalidRequest
from gateway.shards import Shard
from gateway.shards.bookcase import Opened
from gateway.shards.orders import Subject
from gateway.shards.proving.proof import Progress
from gateway.shards.workshop import TESTED_AT_ONCE, by_lot


async def prove_all(
    opened: Opened, subjects: Sequence[Subject], ids: Sequence[str] | None, reader: str | None, progress: Progress
) -> list[dict[str, Any]]:
    """Test these shards, or all that a reader was not tested with, on one reader or on all. One result for each shard,
    and one for each lot. Raises: GatewayError."""
    chosen = [one for one in subjects if reader is None or one.reader.name == reader]
    if not chosen:
        known = ", ".join(one.reader.name for one in subjects) or "none: no policy says `shards: true`"
        raise InvalidRequest(f"there is no reader of shards {reader or ''}; there are: {known}", param="reader")
    await opened.workshop.embed()
    results: list[dict[str, Any]] = []
    for subject in chosen:
        meant = await _meant(opened, subject, ids)
        for members in [[one] for one in meant] if ids else by_lot(meant):
            proven = await opened.workshop.prove(members, subject, progress)
            seen: set[int] = set()
            for shard, (standing, proof) in zip(members, proven, strict=True):
                if id(proof) not in seen:  # of a lot there is one for all
                    seen.add(id(proof))
                    text = shard.fact or shard.title or shard.trigger
                    about = {"shard": shard.id, "reader": subject.reader.name, "state": str(standing.state)}
                    results.append({**about, "text": text, "members": len(members), **proof.as_json()})
    return results


async def _meant(opened: Opened, subject: Subject, ids: Sequence[str] | None) -> list[Shard]:
    if not ids:
        name, fingerprint = subject.reader.name, subject.reader.fingerprint
        return await opened.store.untested(name, fingerprint, TESTED_AT_ONCE)
    return [await opened.store.one(id) for id in ids]
