"""What people decide of shards."""

from __future__ import annotations

from dataclasses import replace

from gateway.shards import Shard, State
from gateway.shards.store import ShardStore


async def approve(store: ShardStore, shard: Shard) -> Shard:
    """A person has read it; it still has to be proven. What it was to replace holds no more from now on."""
    changed = [replace(shard, needs_review=False, why="")]
    if shard.supersedes is not None:
        old = await store.get(shard.supersedes, [shard.audience])
        if old is not None and old.state is not State.RETIRED:
            changed.append(replace(old, state=State.RETIRED, why=f"replaced by {shard.id}"))
    return (await store.put(changed))[0]


async def take_back(store: ShardStore, shard: Shard, why: str) -> Shard:
    """Give it to nobody any more; subscribers hear of it."""
    return (await store.put([replace(shard, state=State.RETIRED, why=why)]))[0]
