"""The table of outcomes by cluster and model, from the journal and from probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.capability.cards import Card
from gateway.capability.estimates import Asked, estimate
from gateway.capability.profiles import CLUSTER, SHIPPED_CLUSTERS, VERSION, told_by
from gateway.capability.profiles import Learned as LearnedTable
from gateway.capability.table import ANYWHERE, Cell, Key, Table, cells_as_json, read_cells
from gateway.learning.evidence import Evidence, Row
from gateway.learning.fit import Context, Fitted, HeldOut
from gateway.learning.paired import difference
from gateway.trace import Spend, Trace, Usage

NAME, PROBES = "capability", "probes"
CARDS, CLUSTERS = "cards", "clusters"  # settings
MEASURE = "squared error of the chance that an answer passes"
Json = dict[str, Any]
Told = tuple[int | None, str, float | None, float | None, float | None, float | None]


@dataclass(frozen=True)
class _Model:
    key: str
    card: Card
    has_checks: bool = True


def fit_capability(older: Evidence, newer: Evidence, context: Context) -> Fitted | None:
    clusters = str(context.settings.get(CLUSTERS, SHIPPED_CLUSTERS))
    probed = probe_cells(context.in_use.get(PROBES), clusters)
    found = table_of(older, context, clusters, probed)
    rows = sum(1 for one in older.rows if any(told[2] is not None for told in told_of(one, context.places)))
    if not rows:
        return None
    at = max(one.row.created for one in older.rows)
    before = _table(context.in_use.get(NAME), clusters, context.now)
    held_out = _held_out(before, found, newer, context)
    return Fitted(NAME, document(LearnedTable(clusters, at, found.cells())), rows, held_out)


def document(learned: LearnedTable) -> Json:
    """As `capability.profiles.read_learned` reads it."""
    cells = cells_as_json(learned.cells)
    return {"version": VERSION, "clusters": learned.clusters, "learned_at": learned.at, "cells": cells}


def table_of(evidence: Evidence, context: Context, clusters: str, probed: Mapping[Key, Cell]) -> Table:
    """All of it, noted at its time."""
    moment = 0.0

    def clock() -> float:
        return moment

    table = Table(clusters, clock)
    for one in evidence.rows:
        moment = one.row.created
        for told in told_of(one, context.places):
            table.note(*told)
        rated = evidence.ratings.get(one.row.id)
        if rated is not None and one.hops:
            table.note(_cluster_of(one, context.places), one.hops[-1].model, rated)
    moment = context.now
    return _with(table, probed, clusters, clock)


def _with(table: Table, probed: Mapping[Key, Cell], clusters: str, clock: Any) -> Table:
    """The probes too."""
    cells = table.cells()
    for key, cell in probed.items():
        aged = read_cells({key[1]: {str(key[0]): cell.as_json()}})[key]
        aged.fade(clock())
        cells.setdefault(key, Cell(clock())).add(aged)
    both = Table(clusters, clock)
    both.adopt(cells, clock())
    return both


def probe_cells(data: Json | None, clusters: str) -> dict[Key, Cell]:
    """What probes have found, of this set of clusters; of another one, what it says of the models at large."""
    found: dict[Key, Cell] = {}
    for one in (data or {}).get("probes", {}).values():
        for (cluster, model), cell in read_cells(one["cells"]).items():
            key = (cluster if one["clusters"] == clusters else ANYWHERE, model)
            found.setdefault(key, Cell(cell.at)).add(cell)
    return found


def _table(data: Json | None, clusters: str, now: float) -> Table:
    """What is in use; an empty one where nothing is, or for another set of clusters."""
    table = Table(clusters, lambda: now)
    if data is not None and data.get("clusters") == clusters:
        table.adopt(read_cells(data["cells"]), float(data["learned_at"]))
    return table


def _held_out(before: Table, after: Table, newer: Evidence, context: Context) -> HeldOut | None:
    cards: Mapping[str, Card] = context.settings.get(CARDS, {})
    errors: list[tuple[float, float]] = []
    for one in newer.rows:
        for cluster, model, outcome, *_ in told_of(one, context.places):
            if outcome is not None:
                places = [(ANYWHERE if cluster is None else cluster, 1.0)]
                asked = _Model(model, cards.get(model, Card()))
                then, now = (estimate(table, places, asked, Asked()).p for table in (before, after))
                errors.append(((then - outcome) ** 2, (now - outcome) ** 2))
    if not errors:
        return None
    then_all, now_all = [then for then, _ in errors], [now for _, now in errors]
    count = len(errors)
    return HeldOut(MEASURE, count, sum(then_all) / count, sum(now_all) / count, difference(then_all, now_all))


def told_of(one: Row, places: Mapping[str, int]) -> Iterator[Told]:
    """As a live trace tells it, by which the running table counts."""
    if "cut" not in one.tree:
        yield from told_by(trace_of(one.tree), _cluster_of(one, places))


def _cluster_of(one: Row, places: Mapping[str, int]) -> int | None:
    waiting: list[Json] = [one.tree]
    while waiting:
        hop = waiting.pop()
        cluster = (hop.get("facts") or {}).get(CLUSTER)
        if isinstance(cluster, int):
            return cluster
        waiting += hop.get("children") or ()
    return places.get(one.row.id)


def trace_of(tree: Json) -> Trace:
    """A hop of the journal as it was when it was noted."""
    hop = Trace(str(tree.get("kind")), str(tree.get("name")))
    hop.started = tree.get("at_ms", 0.0) / 1e3
    hop.ended = hop.started + tree["ms"] / 1e3 if "ms" in tree else None
    hop.left, hop.facts = tree.get("left"), tree.get("facts")
    if hop.kind == "choose" and hop.facts is not None and CLUSTER not in hop.facts:
        hop.facts = {**hop.facts, CLUSTER: None}
    spend = tree.get("spend")
    if spend:
        usage = Usage(spend["input_tokens"], spend["output_tokens"], spend["cached_tokens"], spend["estimated"])
        busy_s = 0.0 if hop.ended is None else hop.ended - hop.started
        hop.spend = Spend(hop.name, usage, spend["cost_usd"], busy_s)
    hop.children = [trace_of(child) for child in tree.get("children") or ()]
    return hop


def without(cells: Mapping[Key, Cell], former: Mapping[Key, Cell], now: float) -> dict[Key, Cell]:
    """Cells less what an earlier probe has put into them."""
    found = dict(cells)
    for key, cell in former.items():
        if key in found:
            cell.fade(now)
            found[key].fade(now)
            found[key].add(cell, -1.0)
            _not_below_zero(found[key])
    return {key: cell for key, cell in found.items() if cell.calls > 0.5 or cell.n > 0.5}


def _not_below_zero(cell: Cell) -> None:
    for name in ("s", "n", "calls", "latency_s", "priced", "cost_usd", "counted", "output_tokens"):
        setattr(cell, name, max(0.0, getattr(cell, name)))
    cell.latencies = {bucket: count for bucket, count in cell.latencies.items() if count > 1e-3}


def with_probe(in_use: Mapping[str, Json], clusters: str, probe: Json, model: str, now: float) -> tuple[Json, Json]:
    """The documents `probes` and `capability`, with this probe in place of an earlier one of the model.

    Args:
        probe: `clusters`, `at`, `cells`, and what else is to be kept of it.
    """
    probes = dict((in_use.get(PROBES) or {}).get("probes", {}))
    former = probe_cells({"probes": {model: probes[model]}}, clusters) if model in probes else {}
    probes[model] = probe
    table = in_use.get(NAME)
    same = table is not None and table.get("clusters") == clusters
    cells = without(read_cells(table["cells"]), former, now) if table is not None and same else {}
    learned_at = float(table["learned_at"]) if table is not None and same else 0.0
    for key, cell in probe_cells({"probes": {model: probe}}, clusters).items():
        own = cells.setdefault(key, Cell(now))
        own.fade(now)
        own.add(cell)
    return {"version": 1, "probes": probes}, document(LearnedTable(clusters, learned_at, cells))
