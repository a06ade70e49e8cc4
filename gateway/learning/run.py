"""`gateway learn` from end to end: what the configuration wants learned, the evidence, the fitters, the files."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.capability.profiles import LEARNED_CLUSTERS
from gateway.capability.wording import wording_of
from gateway.chat import ChatRequest
from gateway.config.build import build
from gateway.config.choices import card_of
from gateway.config.files import Config
from gateway.embedding.remembered import Embeddings
from gateway.errors import GatewayError, InvalidRequest
from gateway.gateway import Gateway
from gateway.learned_files import Learned, LearnedFile
from gateway.learning import budget_fit, capability_fit, routing_fit, threshold_fit, worth_fit
from gateway.learning.budget_fit import fit_budgets, places_in
from gateway.learning.capability_fit import fit_capability
from gateway.learning.evidence import Evidence, gather
from gateway.learning.fit import Context, Fitted, Fitter, files_of, fit_all
from gateway.learning.recorded import Recording
from gateway.learning.routing_fit import fit_router
from gateway.learning.threshold_fit import Wanted, fit_thresholds, names_in
from gateway.learning.worth_fit import fit_combiners
from gateway.runtime import Runtime
from gateway.store.database import open_database

log = logging.getLogger(__name__)
FITTERS: tuple[Fitter, ...] = (fit_capability, fit_thresholds, fit_budgets, fit_combiners, fit_router)
AT_ONCE = 256  # texts that are embedded together
MOST_RECORDED = 5000  # requests of a workload


@dataclass(frozen=True)
class Lesson:
    """What a run has found: `files` are to be written, `fitted` also has what is refused."""

    evidence: Evidence
    fitted: Sequence[Fitted]
    files: Sequence[LearnedFile]


async def learn(
    config: Config,
    home: Path,
    *,
    since: float = 0.0,
    shares: Mapping[str, float] | None = None,
    workload: Sequence[Recording] = (),
) -> Lesson:
    """Writes nothing.

    Args:
        since: unix seconds; older requests do not count.
        shares: wanted share of requests at each learned threshold or above it, by its name.
        workload: recorded requests to learn from too, the last `MOST_RECORDED` of them.
    Raises: ConfigError, GatewayError.
    """
    runtime = Runtime(home)
    gateway = build(config, runtime)
    learned, now = Learned(home), time.time()
    in_use = {name: data for name in learned.names() if (data := learned.read(name)) is not None}
    wanted = wanted_thresholds(config, in_use.get(threshold_fit.NAME), shares or {})
    database = await open_database(home, config.settings.database_url)
    try:
        evidence = await gather(database, since)
        vectors = await _of_lessons(evidence, runtime.embeddings)
        recorded = await _recorded(workload[-MOST_RECORDED:], runtime.embeddings)
    finally:
        await database.close()
        runtime.profiles.table.is_changed = False  # to be written by a server, and by nobody else
        await runtime.close()
    settings = {**_settings(config, gateway, home), threshold_fit.NAME: wanted}
    context = _placed(Context(in_use, now, workload=recorded, settings=settings), vectors, home)
    fitted = fit_all(evidence, FITTERS, context)
    return Lesson(evidence, fitted, files_of(fitted, learned, evidence, now))


def _placed(context: Context, vectors: Mapping[str, bytes], home: Path) -> Context:
    """With the clusters of requests whose words were kept; what reads large files is done only where it is needed."""
    settings = dict(context.settings)
    places: dict[str, int] = {}
    if vectors or context.workload or (home / LEARNED_CLUSTERS).exists():
        from gateway.capability import clusters

        own = clusters.load(home)
        places = {id: own.of(vector)[0][0] for id, vector in vectors.items()}
        settings |= {capability_fit.CLUSTERS: own.id, routing_fit.FIND_CLUSTERS: own}
    if context.workload:
        from gateway.capability.router import shipped

        settings[routing_fit.PRIOR] = shipped()
    return replace(context, places=places, settings=settings)


def _settings(config: Config, gateway: Gateway, home: Path) -> dict[str, Any]:
    cards = {
        name: card_of(entry, gateway.models[name], home)
        for name, entry in config.models.items()
        if gateway.models[name].responder is not None
    }
    inactive = frozenset(name for name, model in gateway.models.items() if model.responder is None)
    budgets = [
        place
        for file in config.policies
        for i, route in enumerate(file.spec.routes)
        for place in places_in(file.spec.policy, route.name, route.answer, ("routes", i, "answer"), inactive)
    ]
    terms = {one.arm: one.terms for one in gateway.pledges}  # as a running server has them
    return {capability_fit.CARDS: cards, budget_fit.NAME: budgets, worth_fit.TERMS: terms}


def wanted_thresholds(config: Config, in_use: Any, shares: Mapping[str, float]) -> dict[str, Wanted]:
    """Those that rules name, with the share that is asked for now, or that was asked for before.

    Raises: InvalidRequest for a name that no rule has.
    """
    signals: dict[str, str] = {}
    policies: dict[str, set[str]] = {}
    for file in config.policies:
        for route in file.spec.routes:
            for signal, name in names_in(route.when):
                signals[name] = signal
                policies.setdefault(name, set()).add(file.spec.policy)
    for name in shares:
        if name not in signals:
            known = ", ".join(signals) or "none"
            raise InvalidRequest(f"no rule compares with learned.{name}; there are: {known}", param="--share")
    former = {
        name: float(entry["share"])
        for name, entry in ((in_use or {}).get("thresholds") or {}).items()
        if isinstance(entry, Mapping) and isinstance(entry.get("share"), int | float)
    }
    wanted = {**former, **shares}
    return {name: Wanted(signals[name], frozenset(policies[name]), wanted[name]) for name in signals if name in wanted}


async def _of_lessons(evidence: Evidence, embeddings: Embeddings) -> dict[str, bytes]:
    """None where they cannot be made: the table then knows fewer clusters."""
    texts = {id: wording_of(ChatRequest(lesson.request)).asked for id, lesson in evidence.lessons.items()}
    try:
        return await _vectors(texts, embeddings)
    except GatewayError as exc:
        log.warning("which clusters the kept requests are in is not known: %s", exc.message)
        return {}


async def _vectors(texts: Mapping[str, str], embeddings: Embeddings) -> dict[str, bytes]:
    """Of those that say something, by id. Raises: GatewayError where they cannot be made."""
    ids = [id for id, text in texts.items() if text]
    found: dict[str, bytes] = {}
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        found |= zip(part, await embeddings.of_all([texts[id] for id in part]), strict=True)
    return found


async def _recorded(workload: Sequence[Recording], embeddings: Embeddings) -> list[tuple[Recording, bytes]]:
    texts = {str(place): routing_fit.said_in(recording).asked for place, recording in enumerate(workload)}
    vectors = await _vectors(texts, embeddings)
    return [(workload[int(place)], vector) for place, vector in vectors.items()]


def parse_shares(given: Sequence[str]) -> dict[str, float]:
    """Of `NAME=0.2`. Raises: GatewayError."""
    found = {}
    for one in given:
        name, _, text = one.partition("=")
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not name or not 0 <= share <= 1:
            raise GatewayError(f"'{one}' is no NAME=SHARE with a share from 0 to 1")
        found[name] = share
    return found
