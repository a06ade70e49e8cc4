"""`gateway replay`: recorded requests under another policy, from what their models are known to have answered."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from gateway.capability.profiles import Profiles
from gateway.chat import Answer, ChatRequest
from gateway.chunks import Chunk
from gateway.config.build import build
from gateway.config.files import Config, ModelEntry, read_config
from gateway.config.leaves import Surroundings
from gateway.embedding import Embedded, Embedder, EmbeddingRequest
from gateway.embedding.remembered import Embeddings
from gateway.errors import GatewayError, InvalidRequest
from gateway.gateway import Gateway, Model
from gateway.learning.paired import Interval, difference, mean_of
from gateway.learning.playback import RecordedFacts, RecordedModel, Tape, with_recorded_checks
from gateway.learning.recorded import NotRecorded, Outcome, Recording
from gateway.learning.virtual_clock import VirtualClock
from gateway.routing.policy import Policy
from gateway.runtime import Runtime
from gateway.trace import RequestTrace, Trace

LOCAL_ENGINES = frozenset({"llama.cpp", "llama-cpp-python", "vllm", "attach"})
MOST_PATHS = 20
Step = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Played:
    """One request as it went. What is None is not known. `model` is empty where nobody answered."""

    model: str
    path: str
    route: str
    cost_usd: float | None
    latency_s: float | None
    quality: float | None
    is_escalated: bool = False


@dataclass
class Run:
    """All requests under one policy, in their order; None where what would have come of it was not recorded, and
    `missing` says how often for want of what."""

    name: str
    played: list[Played | None]
    missing: Counter[str] = field(default_factory=Counter)


def play(
    config: Config, home: Path, recordings: Sequence[Recording], policy: str, step: Step | None = None, name: str = ""
) -> Run:
    """Every recording under a policy of this configuration, on a clock of its own.

    Raises: ConfigError.
    """
    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        return runner.run(_play(config, home, recordings, policy, step, name or policy))


async def _play(
    config: Config, home: Path, recordings: Sequence[Recording], policy: str, step: Step | None, name: str
) -> Run:
    runtime = Runtime(home)
    runtime.embeddings = Embeddings(_Outside(runtime.minilm))
    runtime.profiles = Profiles(home, runtime.embeddings)
    try:
        player = _Player(config, runtime, policy)
        run = Run(name, [])
        for number, recording in enumerate(recordings):
            played, missing = await player.play(recording)
            run.played.append(played)
            if missing is not None:
                run.missing[missing] += 1
            if step is not None and not number % 50:
                step(number, len(recordings))
        return run
    finally:
        runtime.profiles.table.is_changed = False  # to be written by a server, and by nobody else
        await runtime.close()


class _Outside:
    """Vectors are really made, in a thread: the replay's clock waits for them."""

    def __init__(self, inner: Embedder) -> None:
        self._inner, self.name = inner, inner.name

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Embedded:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClock)
        with loop.outside():
            return await self._inner.embed(request, trace)


class _Player:
    def __init__(self, config: Config, runtime: Runtime, policy: str) -> None:
        self._tape = Tape()

        def model_of(entry: ModelEntry, around: Surroundings) -> Model:
            leaf = around.leaves[entry.name] = RecordedModel(entry.name, self._tape)
            card: dict[str, Any] = {"accepts": list(entry.accepts)}
            if entry.spec is not None:
                card = {"accepts": list(entry.spec.accepts), "good_at": list(entry.spec.good_at)}
                if entry.spec.price is not None:
                    card["price"] = entry.spec.price.model_dump(exclude_defaults=True)
            return Model(entry.name, entry.engine, leaf, stated=card)

        built = build(config, runtime, model_of)
        changed = {id(one): self._on_tape(one) for one in built.policies.values()}
        self._policies = {name: changed[id(one)] for name, one in built.policies.items()}
        self._gateway: Gateway = replace(built, policies=self._policies)
        self._policy = policy

    def _on_tape(self, policy: Policy) -> Policy:
        routes = [replace(route, answer=with_recorded_checks(route.answer, self._tape)) for route in policy.routes]
        return replace(policy, routes=tuple(routes))

    async def play(self, recording: Recording) -> tuple[Played | None, str | None]:
        """How it went, or what it went without."""
        tape, trace = self._tape, RequestTrace(self._policy)
        request = recording.request(self._policy)
        tape.put_in(recording, request)
        loop = asyncio.get_running_loop()
        started = loop.time()
        answer: Answer | None = None
        try:
            answer = await self._answer(request, recording, trace)
        except GatewayError:
            pass  # nobody answers it
        except NotRecorded as missing:
            return None, tape.missing or str(missing)
        except BaseExceptionGroup as several:  # of tasks beside each other
            if several.split(NotRecorded)[1] is not None:
                raise
            return None, tape.missing or "the request's words"
        if tape.missing is not None:
            return None, tape.missing
        return _played(recording.outcomes, tape.asked, answer, trace, loop.time() - started), None

    async def _answer(self, request: ChatRequest, recording: Recording, trace: RequestTrace) -> Answer:
        if recording.body is not None:
            return await self._gateway.answer(request, _discard, trace)
        policy, facts = self._policies[self._policy], RecordedFacts(request, self._tape)
        decision = policy.told(facts) or await policy.decide(request, facts)
        trace.route = decision.route.name
        return await decision.route.answer.respond(request, _discard, trace)


async def _discard(chunk: Chunk) -> None:
    pass


def _played(
    outcomes: Mapping[str, Outcome], asked: Sequence[str], answer: Answer | None, trace: RequestTrace, took_s: float
) -> Played:
    totals = trace.totals()
    known_latency = all(outcomes[name].latency_s is not None for name in asked)
    model = "" if answer is None else answer.model
    if answer is not None:
        quality = outcomes[model].quality
    else:  # no answer is no good one, where anything is known of good and bad
        quality = 0.0 if any(one.quality is not None for one in outcomes.values()) else None
    escalated = bool(model) and bool(asked) and model != asked[0]
    latency_s = took_s if known_latency else None
    return Played(model, totals.path, trace.route or "", totals.cost_usd, latency_s, quality, escalated)


def always(model: str, recordings: Iterable[Recording], name: str = "") -> Run:
    """One model for everything."""
    run = Run(name or f"always {model}", [])
    for recording in recordings:
        outcome = recording.outcomes.get(model)
        if outcome is None:
            run.played.append(None)
            run.missing[model] += 1
            continue
        failed = outcome.error is not None
        quality = 0.0 if failed and outcome.quality is None else outcome.quality
        path = f"{model}!{outcome.error}" if failed else model
        run.played.append(Played("" if failed else model, path, "", outcome.cost_usd, outcome.latency_s, quality))
    return run


def as_it_was(recordings: Iterable[Recording]) -> Run:
    """What the gateway did, by its journal."""
    run = Run("as it was", [])
    for recording in recordings:
        was = recording.was
        if was is None:
            run.played.append(None)
            run.missing["the journal's row"] += 1
            continue
        asked = was.path.split(",")[0].split("!")[0]
        outcome = recording.outcomes.get(was.model or "")
        quality = None if outcome is None else outcome.quality
        escalated = was.model is not None and was.model != asked
        run.played.append(Played(was.model or "", was.path, "", was.cost_usd, was.latency_s, quality, escalated))
    return run


def baselines(recordings: Sequence[Recording]) -> list[Run]:
    """The cheapest model, the dearest and the best one, each for everything, where costs and qualities are known. Only
    models that were recorded as often as any."""
    counts = Counter(name for recording in recordings for name in recording.outcomes)
    most = max(counts.values(), default=0)
    costs, qualities = {}, {}
    for name in (name for name, count in counts.items() if count == most):
        known = [recording.outcomes[name] for recording in recordings if name in recording.outcomes]
        paid = [one.cost_usd for one in known if one.cost_usd is not None]
        good = [one.quality for one in known if one.quality is not None]
        if paid:
            costs[name] = sum(paid) / len(paid)
        if good:
            qualities[name] = sum(good) / len(good)
    chosen: dict[str, list[str]] = {}
    for which, model in (
        ("cheapest", min(costs, key=costs.__getitem__, default=None)),
        ("dearest", max(costs, key=costs.__getitem__, default=None)),
        ("best", max(qualities, key=qualities.__getitem__, default=None)),
    ):
        if model is not None:
            chosen.setdefault(model, []).append(which)
    return [always(model, recordings, f"always {' and '.join(which)}: {model}") for model, which in chosen.items()]


def summary(run: Run, local: frozenset[str] = frozenset()) -> dict[str, Any]:
    """One run in numbers. Latency and cost are of the requests where they are known; `unknown` counts the others."""
    played = [one for one in run.played if one is not None]
    costs = [one.cost_usd for one in played if one.cost_usd is not None]
    waits = sorted(one.latency_s for one in played if one.latency_s is not None)
    qualities = [one.quality for one in played if one.quality is not None]
    count = len(played)
    return {
        "name": run.name,
        "requests": len(run.played),
        "covered": count,
        "not_covered": dict(run.missing.most_common()),
        "quality": _told(mean_of(qualities) if qualities else None, count - len(qualities)),
        "cost_usd": {"total": sum(costs), "mean": sum(costs) / len(costs) if costs else None}
        | {"unknown": count - len(costs)},
        "latency_s": {"p50": _quantile(waits, 0.5), "p95": _quantile(waits, 0.95), "unknown": count - len(waits)},
        "escalated": sum(one.is_escalated for one in played) / count if count else None,
        "local": sum(one.model in local for one in played) / count if count and local else None,
        "failed": sum(not one.model for one in played),
        "answered_by": dict(Counter(one.model for one in played if one.model).most_common()),
        "paths": dict(Counter(one.path for one in played).most_common(MOST_PATHS)),
        "routes": dict(Counter(one.route for one in played if one.route).most_common()),
    }


def compared(ours: Run, theirs: Run) -> dict[str, Any]:
    """Ours minus theirs, on the requests that both cover."""
    pairs = [(a, b) for a, b in zip(ours.played, theirs.played, strict=True) if a is not None and b is not None]
    out: dict[str, Any] = {"against": theirs.name, "requests": len(pairs)}
    for measure in ("quality", "cost_usd", "latency_s"):
        both = [(getattr(a, measure), getattr(b, measure)) for a, b in pairs]
        known = [(a, b) for a, b in both if a is not None and b is not None]
        found = difference([a for a, _ in known], [b for _, b in known]) if known else None
        out[measure] = _told(found, len(pairs) - len(known))
    return out


def _told(interval: Interval | None, unknown: int) -> dict[str, Any]:
    bare = {"value": None, "low": None, "high": None}
    return {**(interval.as_json() if interval is not None else bare), "unknown": unknown}


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def config_for(models: Path | None, policies: Path, names: Iterable[str]) -> Config:
    """The policies, with the models of a models.yaml and those that were recorded. Raises: ConfigError."""
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        bare = {name: {"engine": "scripted", "replies": [{"text": "recorded"}]} for name in sorted(names)}
        made = Path(folder) / "models.yaml"
        made.write_text(yaml.safe_dump({"models": bare}), encoding="utf-8")
        recorded = read_config(made, policies)
    if models is None:
        return recorded
    config = read_config(models, policies)
    return replace(config, models={**recorded.models, **config.models})


def policy_in(config: Config) -> str:
    """Name of the one policy, or of the default one. Raises: InvalidRequest."""
    names = [file.spec.policy for file in config.policies]
    if len(names) == 1:
        return names[0]
    if "default" in names:
        return "default"
    raise InvalidRequest(f"which policy? There are: {', '.join(names) or 'none'}", param="--policy")


def local_models(config: Config) -> frozenset[str]:
    return frozenset(name for name, entry in config.models.items() if entry.engine in LOCAL_ENGINES)
