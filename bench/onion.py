"""Loading, swapping and restoring: the pool beside its own engine by hand, and beside llama-server's router mode."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import time
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from bench.processes import BenchError, Cores, Process, free_port
from bench.report import Setting, table
from bench.targets import ROOT, ask
from gateway.config.files import read_config
from gateway.config.model_specs import LlamaCppSpec
from gateway.engines import Launch, Residency, Site
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.plan import Rules
from gateway.engines.pool import Pool
from gateway.engines.resident import Stage
from gateway.errors import SourceError
from gateway.sources import parse, pull
from gateway.transport.client import PooledClient

CONTEXT, THREADS = 4096, 1
WARM_LEASES = 20_000
READY_WITHIN_S, ANSWER_WITHIN_S = 120.0, 300.0
REST_S = 3.0  # longer than a model stays after its load, so that a swap is not kept waiting
PARAGRAPH = "The quick brown fox jumps over the lazy dog and then explains, at some length, why it did. "


@dataclass
class Samples:
    """Seconds, by what was measured."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, seconds: float) -> None:
        self.seconds.setdefault(what, []).append(seconds)

    def told(self, what: str) -> str:
        """Median and range, in ms."""
        found = sorted(self.seconds.get(what, ()))
        if not found:
            return "–"
        digits = 1 if found[-1] < 0.1 else 0
        low, middle, high = (f"{1e3 * one:.{digits}f}" for one in (found[0], statistics.median(found), found[-1]))
        return f"**{middle}** ({low} to {high})"


def measure(
    model: Path, folder: Path, cores: Cores, rounds: int, llama_server: str | None, say: Callable[[str], None]
) -> Samples:
    """Raises: BenchError."""
    samples = Samples()
    settings = LlamaCppSettings("a", model, context=CONTEXT, threads=THREADS, residency=Residency.ON_DEMAND)
    say("the engine by hand, and the same by the pool, in turns")
    asyncio.run(_loads(settings, folder, rounds, samples))
    say("a prefix of 2,000 tokens: read, and restored")
    asyncio.run(_prefix(settings, folder, rounds, samples))
    say("the gateway: from sleep, awake, swapped")
    with _gateway(model, folder, cores) as port:
        for _ in range(rounds):
            _sleep_and_swap(port, "ours", samples, unload=None)
    if llama_server is not None:
        say("llama-server's router mode: the same")
        with _router(llama_server, model, folder, cores) as port:
            for _ in range(rounds):
                _sleep_and_swap(port, "router", samples, unload="/models/unload")
        say("llama-server's own sleep")
        with _sleeper(llama_server, model, folder, cores) as port:
            for _ in range(rounds):
                time.sleep(REST_S)
                samples.add("own sleep", _answer(port, "a"))
                samples.add("own sleep, awake", _answer(port, "a"))
    return samples


@dataclass
class Stamps:
    """When the pool began to start the server, and when that said that it is ready."""

    spawned: float = 0.0
    ready: float = 0.0


class Stamped(LlamaCppSettings):
    """The same engine, that notes both."""

    def launch(self) -> Launch:
        stamps, launch = stamps_of[self], super().launch()

        def read_ready(line: bytes) -> str:
            stamps.ready = time.perf_counter()
            return launch.read_ready(line)

        stamps.spawned = time.perf_counter()
        return replace(launch, read_ready=read_ready)


stamps_of: dict[LlamaCppSettings, Stamps] = {}


async def _loads(settings: LlamaCppSettings, folder: Path, rounds: int, samples: Samples) -> None:
    client, stamps = PooledClient(), Stamps()
    brief = Stamped(**{one.name: getattr(settings, one.name) for one in fields(settings)} | {"idle_ttl_s": 0.5})
    stamps_of[brief] = stamps
    pool = Pool(Site(folder / "logs", client), rules=Rules(dwell_s=0))
    pool.keep([brief])
    pool.current = [brief]
    await pool.start()
    for turn in range(rounds + 1):
        by_hand = await _by_hand(settings)
        began = time.perf_counter()
        async with pool.lease(brief):
            granted = time.perf_counter()
        by_pool = granted - began
        if turn == rounds:
            await _warm_leases(pool, brief, samples)
        while pool.state_of(brief).stage is not Stage.DORMANT:
            await asyncio.sleep(0.02)
        if turn:  # the first fills the page cache
            samples.add("by hand", by_hand)
            samples.add("by pool", by_pool)
            samples.add("pool's own", stamps.spawned - began + granted - stamps.ready)
    await pool.close()
    await client.close()


async def _warm_leases(pool: Pool, engine: LlamaCppSettings, samples: Samples) -> None:
    began = time.perf_counter()
    for _ in range(WARM_LEASES):
        async with pool.lease(engine):
            pass
    samples.add("warm lease", (time.perf_counter() - began) / WARM_LEASES)


async def _by_hand(settings: LlamaCppSettings) -> float:
    """From spawn to its word that it is ready."""
    process, _, seconds = await _started(settings)
    await _ended(process)
    return seconds


async def _started(
    settings: LlamaCppSettings, **more: object
) -> tuple[asyncio.subprocess.Process, tuple[str, str], float]:
    launch = settings.launch()
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *launch.argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({**launch.settings, **more}).encode() + b"\n")
    url = launch.read_ready(await process.stdout.readline())
    return process, (url, launch.key), time.perf_counter() - began


async def _ended(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


async def _prefix(settings: LlamaCppSettings, folder: Path, rounds: int, samples: Samples) -> None:
    saved = folder / "slots"
    saved.mkdir()
    client = PooledClient()
    body = {"messages": [{"role": "user", "content": PARAGRAPH * 95}], "max_tokens": 1, "id_slot": 0}

    async def post(server: tuple[str, str], path: str, body: Mapping[str, object]) -> dict[str, object]:
        url, key = server
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "connection": "close"}
        base = url if path.startswith("/chat") else url.removesuffix("/v1")
        reply = await client.post(base + path, headers, json.dumps(body).encode(), connect_s=5)
        raw = await reply.read(1 << 20)
        if reply.status != 200:
            raise BenchError(f"{path} was refused: {raw[:200]!r}")
        return dict(json.loads(raw))

    for turn in range(rounds):
        process, server, _ = await _started(settings, slot_folder=str(saved))
        began = time.perf_counter()
        reply = await post(server, "/chat/completions", body)
        samples.add("prefill", time.perf_counter() - began)
        usage = reply["usage"]
        assert isinstance(usage, dict)
        await post(server, "/slots/0?action=save", {"filename": f"{turn}.bin"})
        await _ended(process)
        process, server, _ = await _started(settings, slot_folder=str(saved))
        began = time.perf_counter()
        await post(server, "/slots/0?action=restore", {"filename": f"{turn}.bin"})
        samples.add("restore", time.perf_counter() - began)
        reply = await post(server, "/chat/completions", body)
        samples.add("restore and answer", time.perf_counter() - began)
        again = reply["usage"]
        assert isinstance(again, dict)
        samples.seconds.setdefault("tokens", []).append(float(usage["prompt_tokens"]))
        samples.seconds.setdefault("cached", []).append(float(again["prompt_tokens_details"]["cached_tokens"]))
        await _ended(process)
    await client.close()


def _sleep_and_swap(port: int, who: str, samples: Samples, unload: str | None) -> None:
    for name in ("a", "b"):
        _empty(port, name, unload)
    samples.add(f"{who}, asleep", _answer(port, "a"))
    samples.add(f"{who}, awake", _answer(port, "a"))
    time.sleep(REST_S)
    samples.add(f"{who}, swap", _answer(port, "b"))


def _answer(port: int, model: str) -> float:
    """Until one token of it has come."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    began = time.perf_counter()
    try:
        ask(port, "/v1/chat/completions", json.dumps(body).encode(), within_s=ANSWER_WITHIN_S)
    except OSError as exc:
        said = exc.read()[:200] if isinstance(exc, urllib.error.HTTPError) else b""
        raise BenchError(f"model {model} does not answer: {exc} {said!r}") from None
    return time.perf_counter() - began


def _empty(port: int, model: str, unload: str | None) -> None:
    """Returns when it is not loaded."""
    if unload is not None:
        with suppress(OSError):  # it is not
            ask(port, unload, json.dumps({"model": model}).encode())
        time.sleep(1)
        return
    give_up_at = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up_at:
        stages = json.loads(ask(port, "/readyz"))["models"]
        if stages[model] == "dormant":
            return
        time.sleep(0.1)
    raise BenchError(f"model {model} stays loaded")


ENTRY = "  {name}: {{engine: llama.cpp, source: 'file:{path}', context: {context}, threads: {threads}, "
ENTRY += "residency: on_demand, idle_ttl_s: 6}}\n"


def _gateway(model: Path, folder: Path, cores: Cores) -> _Serving:
    here = folder / "gateway"
    (here / "policies").mkdir(parents=True)
    one = LlamaCppSettings("a", model, context=CONTEXT, threads=THREADS).footprint().ram_bytes
    entries = "".join(ENTRY.format(name=name, path=model, context=CONTEXT, threads=THREADS) for name in ("a", "b"))
    (here / "models.yaml").write_text(f"models:\n{entries}memory_budget: {int(one * 1.5 / 2**20)}MiB\n")
    port = free_port(9400)
    argv = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
    argv += ["--models", str(here / "models.yaml"), "--policies", str(here / "policies")]
    return _Serving(port, argv, here / "log", cores, {"GATEWAY_HOME": str(here / "home")}, "/readyz")


def _router(program: str, model: Path, folder: Path, cores: Cores) -> _Serving:
    models = folder / "models"
    models.mkdir()
    for name in ("a", "b"):
        (models / f"{name}.gguf").symlink_to(model)
    port = free_port(9420)
    argv = [program, "--models-dir", str(models), "--models-max", "1", *_common(port)]
    return _Serving(port, argv, folder / "router.log", cores, {}, "/health")


def _sleeper(program: str, model: Path, folder: Path, cores: Cores) -> _Serving:
    port = free_port(9440)
    argv = [program, "--model", str(model), "--alias", "a", "--sleep-idle-seconds", "1", *_common(port)]
    return _Serving(port, argv, folder / "sleeper.log", cores, {}, "/health")


def _common(port: int) -> list[str]:
    given = ["--host", "127.0.0.1", "--port", str(port), "--ctx-size", str(CONTEXT), "--parallel", "1"]
    return [*given, "--threads", str(THREADS), "--offline"]


@dataclass
class _Serving:
    port: int
    argv: Sequence[str]
    log: Path
    cores: Cores
    env: Mapping[str, str]
    ready_path: str

    def __enter__(self) -> int:
        both = [self.cores.gateway, self.cores.load]
        self._process = Process(self.argv, both, log=self.log, folder=ROOT, env=self.env)
        give_up_at = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < give_up_at and not self._process.has_ended:
            with suppress(OSError):
                ask(self.port, self.ready_path)
                return self.port
            time.sleep(0.1)
        words = self._process.last_words
        self._process.stop()
        raise BenchError(f"{self.argv[0]} does not serve: {words}")

    def __exit__(self, *error: object) -> None:
        self._process.stop()


def core_model(tools: Path) -> Path:
    """The file, fetched once. Raises: BenchError."""
    spec = read_config(ROOT / "models.yaml", ROOT / "policies").models["core"].spec
    assert isinstance(spec, LlamaCppSpec)
    try:
        return pull(parse(spec.source), tools, spec.sha256)
    except SourceError as exc:
        raise BenchError(exc.message) from None


def find_llama_server(given: str | None) -> str | None:
    """Raises: BenchError for one that was named and is not there."""
    found = shutil.which(os.path.expanduser(given or "llama-server"))
    if given and found is None:
        raise BenchError(f"there is no program {given}")
    return found


def summary(samples: Samples, setting: Setting, rounds: int) -> str:
    told = samples.told
    tokens, cached = (statistics.median(samples.seconds[what]) for what in ("tokens", "cached"))
    by_prefill = statistics.median(samples.seconds["prefill"]) / statistics.median(samples.seconds["restore"])
    lease_us = 1e6 * statistics.median(samples.seconds["warm lease"])
    loads = table(
        ["ms: median (range)", ""],
        [
            ["the engine's child by hand, spawn to ready", told("by hand")],
            ["the same by a lease on a model that sleeps", told("by pool")],
            ["of that, before the spawn and after the child's word", told("pool's own")],
        ],
    )
    others = table(
        ["ms until one token has come", "Onion Gateway", "llama-server, router mode", "llama-server's own sleep"],
        [
            ["model asleep", told("ours, asleep"), told("router, asleep"), told("own sleep")],
            ["model awake", told("ours, awake"), told("router, awake"), told("own sleep, awake")],
            ["another has to go first", told("ours, swap"), told("router, swap"), "–"],
        ],
    )
    prefix = table(
        [f"a prefix of {tokens:.0f} tokens, ms", ""],
        [
            ["read (prefill)", told("prefill")],
            ["restored from disk", told("restore")],
            [f"restored and one token ({cached:.0f} tokens cached)", told("restore and answer")],
        ],
    )
    about = f"Measured on {setting.date} with {setting.machine}; {rounds} rounds; the core model, {THREADS} thread."
    return (
        f"{about}\n\n{loads}\n\nA lease on a model that is awake takes {lease_us:.0f} µs.\n\n{others}\n\n{prefix}\n\n"
        f"Restoring is {by_prefill:.0f} times as fast as reading again."
    )
