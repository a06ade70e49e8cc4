"""What this gateway knows of its models: fed from finished requests, kept over restarts, asked by `choose`."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import yaml

from gateway import language
from gateway.capability.cards import NOTHING, About, Predicts
from gateway.capability.table import Key, Table, cells_as_json, read_cells
from gateway.capability.wording import Wording, wording_of
from gateway.chat import ChatRequest
from gateway.embedding.remembered import Embeddings
from gateway.errors import ConfigError
from gateway.learned_file import parsed_file
from gateway.tasks import ended
from gateway.trace import CHECK, STAND_IN, RequestTrace, Trace

if TYPE_CHECKING:  # numpy, which is imported when a request first needs it
    from gateway.capability.clusters import Clusters

log = logging.getLogger(__name__)
VERSION = 1
STATE = Path("state") / "capability.json"
LEARNED = Path("learned") / "capability.yaml"
LEARNED_ROUTER = Path("learned") / "router.yaml"
LEARNED_CLUSTERS = Path("learned") / "clusters.yaml"
SHIPPED_CLUSTERS = "shipped-1"
FLUSH_EVERY_S = 60.0
BLIND_S = 10.0  # after a vector could not be had in good time: so long nobody waits for one
BEGIN = "hello"
CLUSTER, PASSED = "cluster", "passed"  # facts of a hop
DAMAGED = (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError)
Json = dict[str, Any]
Told = tuple[int | None, str, float | None, float | None, float | None, float | None]
"""Arguments of `Table.note`."""


@dataclass(frozen=True)
class Look:
    """A request as the table sees it: its clusters with their weights, the nearest first, and what it is about."""

    places: Sequence[tuple[int, float]] = ()
    about: About = NOTHING


class Profiles:
    """Outlives reloads. Does nothing until a policy wants it.

    Args:
        load_router: a learned one, of which the topic of a request is asked, and what it knows of our models; called
            once, in a thread, when a candidate's `good_at` first makes it worth asking.
        rng: of exploration.
    """

    def __init__(
        self,
        home: Path,
        embeddings: Embeddings,
        load_router: Callable[[], Predicts] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._home, self._embeddings, self._load_router = home, embeddings, load_router
        self._router: Predicts | None = None
        self.rng = rng or random.Random()
        self.table = Table(SHIPPED_CLUSTERS, clock)
        self._clusters: Clusters | None = None
        self._is_wanted = False
        self._flusher: asyncio.Task[None] | None = None
        self._blind_until = 0.0
        self.is_written = True  # here; else by another process, which `on_note` tells
        self.on_note: Callable[[Told], None] | None = None

    # Its life

    def want(self) -> None:
        """Some policy chooses: read what was learned and noted. Raises: ConfigError naming a damaged file."""
        clusters, learned = self._read_clusters(), read_learned(self._home)
        is_new = not self._is_wanted or clusters != self.table.clusters
        if is_new:
            self.table = self._restored(Table(clusters, self.table.clock))
        if learned is not None and learned.clusters == clusters and (is_new or learned.at != self.table.learned_at):
            self.table.adopt(learned.cells, learned.at)
        self._is_wanted = True

    def start(self) -> None:
        """Begin to write what changes, each minute. Where a policy chooses already, have what it needs loaded."""
        self._flusher = asyncio.create_task(self._flush_again())

    async def close(self) -> None:
        if self._flusher is not None:
            await ended([self._flusher])
            self._flusher = None
        await self.flush()

    async def flush(self) -> None:
        """Write what was noted since the last time; what cannot be written is tried again."""
        if not (self.table.is_changed and self.is_written):
            return
        self.table.is_changed = False
        try:
            await asyncio.to_thread(_write, self._home / STATE, {"version": VERSION, **self.table.as_json()})
        except OSError as exc:
            self.table.is_changed = True
            log.warning("what is known of models cannot be written: %s", exc.strerror or exc)

    async def _flush_again(self) -> None:
        if self._is_wanted:
            await self._place(BEGIN)
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self.flush()

    def _restored(self, table: Table) -> Table:
        path = self._home / STATE
        try:
            data = orjson.loads(path.read_bytes())
            if data["version"] != VERSION:
                raise ValueError(f"version {data['version']}")
            table.restore(data)
        except FileNotFoundError:
            pass
        except DAMAGED as exc:
            # Nobody's work is lost with it: it fills again. It stays there for who wants to look at it.
            log.warning("%s cannot be read, and begins anew: %s", path, exc)
            with suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
        return table

    def _read_clusters(self) -> str:
        """The id of the set in use; one that was learned is read now, the shipped one when a request needs it."""
        if not (self._home / LEARNED_CLUSTERS).exists():
            if self._clusters is not None and self._clusters.id != SHIPPED_CLUSTERS:
                self._clusters = None
            return SHIPPED_CLUSTERS
        from gateway.capability import clusters

        self._clusters = clusters.read(self._home / LEARNED_CLUSTERS)
        return self._clusters.id

    # Asked before an answer

    async def look(self, request: ChatRequest, *, wants_topic: bool = False, wants_language: bool = False) -> Look:
        """Where a request stands; nothing of it where its vector cannot be had in good time."""
        wording = wording_of(request)
        if not wording.asked:
            return Look()
        spoken = None
        if wants_language:
            await language.load()
            spoken = language.detect(wording.asked)
        placed = await self._place(wording.asked) if time.monotonic() >= self._blind_until else None
        if placed is None:
            return Look(about=About(language=spoken))
        places, vector = placed
        if not wants_topic:
            return Look(places, About(language=spoken))
        return Look(places, await self._about(wording, vector, spoken))

    async def _place(self, text: str) -> tuple[list[tuple[int, float]], bytes] | None:
        """Its clusters and its vector."""
        vector = await self._embeddings.of(text)
        if vector is None:
            self._blind_until = time.monotonic() + BLIND_S
            return None
        if self._clusters is None:
            self._clusters = await asyncio.to_thread(_load_clusters, self._home)
        return self._clusters.of(vector), vector

    async def _about(self, wording: Wording, vector: bytes, spoken: str | None) -> About:
        """What the router says of a text. `vector`: of what is asked in it."""
        if self._router is None and self._load_router is not None:
            self._router = await asyncio.to_thread(self._load_router)
        router = self._router
        if router is None:
            return About(language=spoken)
        told = router.predict(wording.read, vector)
        return About(language=spoken) if told.known < router.floor else About(told.topic, spoken, told.p_right)

    # Told after it

    def record(self, trace: RequestTrace) -> None:
        """A request is finished, whatever became of it."""
        if self._is_wanted:
            for told in told_by(trace):
                self.note(*told)

    def note(
        self,
        cluster: int | None,
        model: str,
        outcome: float | None,
        cost_usd: float | None = None,
        latency_s: float | None = None,
        output_tokens: float | None = None,
    ) -> None:
        """As `Table.note`: for audits, and whoever else finds out how good an answer was."""
        told = cluster, model, outcome, cost_usd, latency_s, output_tokens
        self.hear(told)
        if self.on_note is not None:
            self.on_note(told)

    def hear(self, told: Told) -> None:
        """The same, from another process that has noted it."""
        if self._is_wanted:
            self.table.note(*told)

    def rate(self, tree: Json, value: bool | float | str) -> None:
        """Somebody rated an answer, with yes or no or from 0 to 1; words tell nothing here."""
        if not isinstance(value, str) and 0 <= value <= 1:
            answered = _answered_by(tree, None)
            if answered is not None:
                self.note(answered[0], answered[1], float(value))


def told_by(hop: Trace, cluster: int | None = None, *, in_tier: bool = False) -> Iterator[Told]:
    """What a trace tells of the models in it: arguments of `Table.note`."""
    facts = hop.facts or {}
    if hop.kind == CHECK:
        return
    if hop.kind == "choose":
        cluster = facts.get(CLUSTER)
    elif hop.kind == "tier":
        yield from _told_by_tier(hop, facts, cluster)
        in_tier = True
    elif hop.kind == "model" and not in_tier:
        yield from _told(hop, hop.name, None, cluster)
    for child in hop.children:
        yield from told_by(child, cluster, in_tier=in_tier)


def _told_by_tier(hop: Trace, facts: Mapping[str, Any], cluster: int | None) -> Iterator[Told]:
    if any(STAND_IN in (inner.facts or {}) for inner in hop.walk(checks=False)):
        return  # it was another model's answer
    outcome = None
    if facts.get("judged") or PASSED in facts:
        outcome = float(facts.get(PASSED, hop.left is None))
    if outcome is not None or hop.left is None:  # else nobody has answered: that says nothing of what it can do
        yield from _told(hop, hop.name, outcome, cluster)


def _told(hop: Trace, model: str, outcome: float | None, cluster: int | None) -> Iterator[Told]:
    spends = [inner.spend for inner in hop.models() if inner.spend is not None]
    if not spends or (outcome is None and hop.left is not None):
        return
    costs = [spend.cost_usd for spend in spends]
    cost_usd = None if None in costs else sum(cost for cost in costs if cost is not None)
    latency_s = None if hop.ended is None else hop.ended - hop.started
    yield cluster, model, outcome, cost_usd, latency_s, sum(spend.usage.output_tokens for spend in spends)


def _answered_by(tree: Json, cluster: int | None) -> tuple[int | None, str, bool] | None:
    """(cluster, name, is it a tier) of the innermost tier whose answer was taken, or of the model where there is none;
    of a trace as the journal has it."""
    kind = tree.get("kind")
    if tree.get("left") or kind == CHECK:
        return None
    if kind == "choose":
        cluster = (tree.get("facts") or {}).get(CLUSTER)
    found = None
    for child in reversed(tree.get("children") or ()):
        found = _answered_by(child, cluster)
        if found is not None:
            break
    if kind == "model" or (kind == "tier" and not (found is not None and found[2])):
        return cluster, str(tree["name"]), kind == "tier"
    return found


@dataclass(frozen=True)
class Learned:
    """What `gateway learn` made of the journal: cells of a set of clusters, of all requests until `at`."""

    clusters: str
    at: float
    cells: Mapping[Key, Any]


def read_learned(home: Path) -> Learned | None:
    """None where nothing was learned. Raises: ConfigError naming the file."""
    return parsed_file(
        home / LEARNED,
        "a table of outcomes",
        lambda data: Learned(str(data["clusters"]), float(data["learned_at"]), read_cells(data["cells"])),
    )


def write_learned(home: Path, learned: Learned) -> None:
    data = {
        "version": VERSION,
        "clusters": learned.clusters,
        "learned_at": learned.at,
        "cells": cells_as_json(learned.cells),
    }
    path = home / LEARNED
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")


def _write(path: Path, data: Json) -> None:
    """As a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.write_bytes(orjson.dumps(data))
    beside.replace(path)


def load_router(home: Path) -> Predicts:
    """What was learned here, else what is shipped; also where the former is damaged, which is told at the start."""
    from gateway.capability.router import Router, shipped

    with suppress(ConfigError):
        if (home / LEARNED_ROUTER).exists():
            return Router.load(home / LEARNED_ROUTER)
    return shipped()


def _load_clusters(home: Path) -> Clusters:
    from gateway.capability import clusters

    return clusters.load(home)
