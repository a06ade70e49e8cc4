"""What a decision costs: the time from a request to its route, for rules of each kind."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.onion import core_model
from bench.processes import BenchError
from gateway.chat import ChatRequest
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.embedding import minilm
from gateway.errors import SourceError
from gateway.gateway import Gateway
from gateway.routing.conditions import Conditions
from gateway.routing.learned import Learned
from gateway.routing.likeness import everyday
from gateway.routing.policy import Facts, Policy
from gateway.runtime import Runtime
from gateway.trace import Trace

Say = Callable[[str], None]
WARM_UP = 20
SETTLE_S = 60.0
CONTEXT = 8192
NEAR_CONTEXT = 7000  # bounds do not tell whether so many, and a short text, fit
SHORT, MIDDLE, LONG = 9, 38, 200  # words: about 12, 50 and 256 tokens
EXAMPLES = everyday()[:20]
RULES: dict[str, list[Any]] = {
    "five plain rules": [
        {"background": True},
        {"has": "image"},
        {"header": {"x-team": "legal"}},
        {"metadata": {"tier": "gold"}},
        {"regex": "INV-[0-9]+"},
    ],
    "keywords": [{"keywords": ["legal", "contract", "tax return"]}],
    "input_tokens": [{"input_tokens": {"above": 6000}}],
    "fits": [{"not": {"fits": "core"}}],
    "fits, counted by the model's server": [{"not": {"fits": "core"}}],
    "session, warm, budget_left": [{"session": "core", "not": {"warm": "core"}, "budget_left": {"above": 9}}],
    "similar_to": [{"similar_to": {"examples": EXAMPLES, "floor": 1.0}}],
    "topic and difficulty": [{"topic": "law", "difficulty": {"above": 1.0}}],
    "is_about, cosines alone": [{"is_about": "the user wants to cancel an order"}],
}
JUDGED = {"is_about": {"text": "the user wants to cancel an order", "by": "core"}}


@dataclass(frozen=True)
class Row:
    """Microseconds of wall time, and of CPU in all threads of the process."""

    name: str
    walls: Sequence[float]
    cpus: Sequence[float]

    def line(self) -> str:
        walls = statistics.quantiles(self.walls, n=100, method="inclusive")
        cpu = statistics.median(self.cpus)
        return f"  {self.name:52} p50 {walls[49]:9.1f} us   p99 {walls[98]:9.1f} us   of CPU {cpu:9.1f} us"


def measure(folder: Path, tools: Path, count: int, say: Say) -> list[Row]:
    """Args: `folder` is for files of this run, `tools` keeps model files between runs. Raises: BenchError."""
    try:
        for file in minilm.files(tools):
            file.pull(lambda done, total: None)
    except SourceError as exc:
        raise BenchError(exc.message) from None
    return asyncio.run(_measure(folder, core_model(tools), tools, count, say))


async def _measure(folder: Path, model: Path, tools: Path, count: int, say: Say) -> list[Row]:
    runtime = Runtime(folder / "home")
    (folder / "home").mkdir()
    (folder / "home" / "models").symlink_to(tools / "models")
    gateway = build(read_config(*_write(folder, model)), runtime)
    runtime.pool.keep(gateway.engines)
    runtime.pool.current = gateway.engines
    await runtime.start()
    try:
        say("loading the core model, reading examples")
        await runtime.pool.settled(gateway.engines, SETTLE_S)
        await gateway.prepare()
        return [row async for row in _rows(gateway, runtime, count, say)]
    finally:
        await runtime.close()


async def _rows(gateway: Gateway, runtime: Runtime, count: int, say: Say) -> Any:
    texts = Texts(random.Random(7))
    for name in list(RULES)[:6]:
        say(name)
        limits = {"max_tokens": NEAR_CONTEXT} if "counted" in name else {}
        yield await _timed(name, gateway.policies[_named(name)], texts.many(MIDDLE, count), **limits)
    for name in ("similar_to", "topic and difficulty", "is_about, cosines alone"):
        say(name)
        policy = gateway.policies[_named(name)]
        for words, tokens in ((SHORT, 12), (MIDDLE, 50), (LONG, 256)):
            few = texts.many(words, count // 5)
            yield await _timed(f"{name}: text of about {tokens} tokens", policy, few)
        known = texts.many(MIDDLE, count)
        await runtime.embeddings.of_known(known)
        yield await _timed(f"{name}: its vector is known", policy, known)
    say("the learned router")
    yield _of_router(gateway, texts.many(MIDDLE, count))
    policy = gateway.policies["judged"]
    say("is_about, judged by the core model")
    condition: Any = next(iter(policy.routes[0].when.parts()))  # type: ignore[union-attr]
    asked = condition.argument
    asked._middles = dict.fromkeys(asked.said.texts, 0.0)  # it is to be asked, whatever it can tell
    yield await _judged(asked, texts.many(MIDDLE, max(10, count // 50)))
    again = texts.many(MIDDLE, 1) * count
    yield await _timed("is_about: judged before", policy, again)


async def _timed(name: str, policy: Policy, texts: Sequence[str], **fields: Any) -> Row:
    bodies = [{"model": "auto", "messages": [{"role": "user", "content": text}], **fields} for text in texts]
    requests = [ChatRequest(body) for body in bodies]
    for request in requests[:WARM_UP] if len(requests) > 2 * WARM_UP else ():
        await policy.decide(request)
    walls, cpus = [], []
    for request in requests[WARM_UP:] if len(requests) > 2 * WARM_UP else requests:
        started, cpu = time.perf_counter(), time.process_time()
        facts = Facts(request)
        policy.told(facts) or await policy.decide(request, facts)
        walls.append((time.perf_counter() - started) * 1e6)
        cpus.append((time.process_time() - cpu) * 1e6)
    return Row(name, walls, cpus)


async def _judged(asked: Conditions, texts: Sequence[str]) -> Row:
    """Each of them, also where the last took too long."""
    walls, cpus = [], []
    for text in texts:
        asked._ask_at = 0.0
        request = ChatRequest({"model": "auto", "messages": [{"role": "user", "content": text}]})
        started, cpu = time.perf_counter(), time.process_time()
        await asked.judge(request, Trace("request", ""))
        walls.append((time.perf_counter() - started) * 1e6)
        cpus.append((time.process_time() - cpu) * 1e6)
    return Row("is_about: judged by the core model", walls, cpus)


def _of_router(gateway: Gateway, texts: Sequence[str]) -> Row:
    """From the text's n-grams alone."""
    condition: Any = next(iter(gateway.policies[_named("topic and difficulty")].routes[0].when.parts()))  # type: ignore[union-attr]
    learned: Learned = condition.argument
    walls, cpus = [], []
    for text in texts:
        started, cpu = time.perf_counter(), time.process_time()
        learned.predict(text, None)
        walls.append((time.perf_counter() - started) * 1e6)
        cpus.append((time.process_time() - cpu) * 1e6)
    return Row("the learned router: n-grams, without a vector", walls[WARM_UP:], cpus[WARM_UP:])


class Texts:
    """Words of everyday requests in ever new orders."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._words = sorted({word for text in everyday() for word in text.split()})

    def many(self, words: int, count: int) -> list[str]:
        return [" ".join(self._rng.choices(self._words, k=words)) for _ in range(count)]


def _named(rules: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in rules)


def _write(folder: Path, model: Path) -> tuple[Path, Path]:
    core = {"engine": "llama.cpp", "source": f"file:{model}", "context": CONTEXT, "slots": 1, "residency": "always"}
    (folder / "models.yaml").write_text(json.dumps({"models": {"core": core}}))
    (folder / "policies").mkdir()
    for name, conditions in itertools.chain(RULES.items(), [("judged", [JUDGED])]):
        routes = [{"name": f"r{n}", "when": when, "answer": {"model": "core"}} for n, when in enumerate(conditions)]
        policy = {"policy": _named(name), "routes": [*routes, {"name": "else", "answer": {"model": "core"}}]}
        (folder / "policies" / f"{_named(name)}.yaml").write_text(json.dumps(policy))
    return folder / "models.yaml", folder / "policies"


def summary(rows: Sequence[Row]) -> str:
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return "\n".join([*_lines(rows), f"load of the machine: {load}"])


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "from a request to its route, where no rule holds:"
    for row in rows:
        yield row.line()
