"""The learned router, refitted on recorded requests: used only where it foresees more than the table of outcomes.

Not on what the journal keeps: words are kept of requests that a small model has failed, and of hardly any that it has
answered well. Who learns from those alone takes everything for difficult.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.capability.wording import Wording, wording_of
from gateway.learned_files import Learned
from gateway.learning.evidence import Evidence
from gateway.learning.fit import OLDER, Context, Fitted, HeldOut
from gateway.learning.paired import difference
from gateway.learning.recorded import Recording

if TYPE_CHECKING:
    from gateway.capability.clusters import Clusters
    from gateway.capability.router import Router

NAME = "router"
FIND_CLUSTERS, PRIOR = "find clusters", "prior"  # settings: Clusters, and the Router that is added to
LEAST = 100  # requests
OWN_WEIGHT = 12.0  # outcomes that all of a model's count for, against those of a cluster
MEASURE = "squared error of the chance that a model is right, against the table's"
Json = dict[str, Any]
Known = tuple[Recording, bytes]


def fit_router(older: Evidence, newer: Evidence, context: Context) -> Fitted | None:
    """Of a workload that was given; its later part is held out."""
    workload = [one for one in context.workload if _qualities(one[0])]
    clusters: Clusters | None = context.settings.get(FIND_CLUSTERS)
    if len(workload) < LEAST or clusters is None:
        return None
    cut = int(OLDER * len(workload))
    router = _fitted(workload[:cut], context.settings[PRIOR])
    held_out = _held_out(router, _Table(workload[:cut], clusters), workload[cut:])
    return Fitted(NAME, _document(router), cut, held_out, needs="better", is_sorted=False)


def _fitted(workload: Sequence[Known], prior: Router) -> Router:
    from gateway.learning.router_fit import fit

    names = sorted({name for recording, _ in workload for name in _qualities(recording)})
    outcomes = {name: [_qualities(one).get(name, math.nan) for one, _ in workload] for name in names}
    texts = [said_in(recording).read for recording, _ in workload]
    return fit(texts, outcomes, [vector for _, vector in workload], prior=prior)


class _Table:
    """What the table of outcomes would say: each model's share of right answers by cluster."""

    def __init__(self, workload: Sequence[Known], clusters: Clusters) -> None:
        self._clusters = clusters
        self._sums: dict[tuple[int, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for recording, vector in workload:
            cluster = clusters.of(vector)[0][0]
            for name, quality in _qualities(recording).items():
                for place in (cluster, -1):
                    self._sums[place, name][0] += quality
                    self._sums[place, name][1] += 1

    def chance(self, model: str, vector: bytes) -> float:
        s, n = self._sums[-1, model]
        whole = (s + 1) / (n + 2)
        near = [0.0, 0.0]
        for cluster, weight in self._clusters.of(vector):
            own = self._sums[cluster, model]
            near = [near[0] + weight * own[0], near[1] + weight * own[1]]
        return (near[0] + OWN_WEIGHT * whole) / (near[1] + OWN_WEIGHT)


def _held_out(router: Router, table: _Table, newer: Sequence[Known]) -> HeldOut | None:
    then, now = [], []
    for recording, vector in newer:
        said = router.predict(said_in(recording).read, vector).p_right
        known = {name: quality for name, quality in _qualities(recording).items() if name in said}
        if known:
            then.append(sum((table.chance(name, vector) - q) ** 2 for name, q in known.items()) / len(known))
            now.append(sum((said[name] - q) ** 2 for name, q in known.items()) / len(known))
    if not now:
        return None
    return HeldOut(MEASURE, len(now), sum(then) / len(then), sum(now) / len(now), difference(then, now))


def _document(router: Router) -> Json:
    """As its own file has it."""
    with tempfile.TemporaryDirectory(prefix="router-") as folder:
        router.save(Learned(Path(folder)).path(NAME))
        document = Learned(Path(folder)).read(NAME)
    assert document is not None  # it has just been written
    return document


def said_in(recording: Recording) -> Wording:
    return wording_of(recording.request(""))


def _qualities(recording: Recording) -> Mapping[str, float]:
    return {name: one.quality for name, one in recording.outcomes.items() if one.quality is not None}
