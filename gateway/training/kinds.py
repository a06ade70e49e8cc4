"""A kind of task that an adapter has learned: which requests are of it. Pure."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from gateway.shards.clusters import Cluster
from gateway.shards.search.likeness import cosine, cosines

OUTLIERS = 0.1  # share of its own requests that may lie beyond its edge
Json = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What became of requests that were held out, asked of the adapter and of what answered before.

    Args:
        right, before: how many each of them had right, of `count`.
        wins, losses: that only the adapter had right, and that only the other had.
    """

    count: int = 0
    right: int = 0
    before: int = 0
    wins: int = 0
    losses: int = 0

    @classmethod
    def of(cls, pairs: Sequence[tuple[bool, bool]]) -> Record:
        """Args: (adapter's right, the other's right) of each."""
        return cls(
            len(pairs),
            sum(own for own, _ in pairs),
            sum(other for _, other in pairs),
            sum(own and not other for own, other in pairs),
            sum(other and not own for own, other in pairs),
        )

    @classmethod
    def summed(cls, records: Iterable[Record]) -> Record:
        found = list(records)
        return cls(**{one.name: sum(getattr(record, one.name) for record in found) for one in fields(cls)})

    @property
    def rate(self) -> float:
        """Share that is right; a guess of one half counts as one more request."""
        return (self.right + 0.5) / (self.count + 1)


@dataclass(frozen=True)
class Kind:
    """Args:
    id: the cluster's.
    form: what its answers look like, see `form_of`.
    vector: the mean of its tasks' vectors, of unit length.
    floor: likeness to it from which a request is one of them.
    pairs: that were trained on.
    held_out: what the gate saw.
    """

    id: str
    tenant: str
    policy: str
    form: str
    vector: bytes
    floor: float
    pairs: int = 0
    held_out: Record = Record()

    @classmethod
    def of(cls, cluster: Cluster, pairs: int = 0) -> Kind:
        middle = mean(cluster.vectors)
        own = sorted(cosines(middle, cluster.vectors))
        edge = own[int(OUTLIERS * (len(own) - 1))]
        floor = max(cluster.floor, edge - 1e-6)
        return cls(cluster.id, cluster.tenant, cluster.policy, cluster.form, middle, floor, pairs)

    def likeness(self, tenant: str, policy: str, form: str, vector: bytes) -> float | None:
        """Of a request; None where it is none of them."""
        if (tenant, policy, form) != (self.tenant, self.policy, self.form):
            return None
        found = cosine(vector, self.vector)
        return found if found >= self.floor else None

    def with_record(self, record: Record) -> Kind:
        return replace(self, held_out=record)

    def as_json(self) -> Json:
        names = ("id", "tenant", "policy", "form", "floor", "pairs")
        told: Json = {name: getattr(self, name) for name in names}
        return {**told, "vector": b64encode(self.vector).decode(), "held_out": vars(self.held_out)}

    @classmethod
    def from_json(cls, said: Json) -> Kind:
        """Raises: KeyError, TypeError, ValueError for what is none."""
        return cls(**{**said, "vector": b64decode(said["vector"]), "held_out": Record(**said["held_out"])})


def mean(vectors: Sequence[bytes]) -> bytes:
    """Of unit vectors in float32, as one."""
    import numpy as np

    rows = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
    middle = rows.mean(axis=0)
    length = math.sqrt(float(middle @ middle)) or 1.0
    found: bytes = (middle / length).astype("<f4").tobytes()
    return found
