"""A local engine behind the gateway, and the same engine by itself: tokens per second, in turns."""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.ours import make_key, write_config
from bench.processes import BenchError, Cores, Process, free_port
from bench.report import Setting, number, table
from bench.targets import ROOT, ask

STREAMS = {1: 128, 8: 64}  # at a time: tokens of each
READY_WITHIN_S = 600.0  # the model is fetched at the first run
ANSWER_WITHIN_S = 300.0
SUBJECTS = ("the sea", "a mill", "two brothers", "winter", "an old map", "bread", "the night train", "a lighthouse")


@dataclass(frozen=True)
class Server:
    """`path`: of chats."""

    port: int
    path: str
    model: str
    key: str


@dataclass(frozen=True)
class Pair:
    """Tokens per second of the two, one right after the other."""

    direct: float
    behind: float

    @property
    def ratio(self) -> float:
        return self.behind / self.direct


Pairs = Mapping[int, Sequence[Pair]]
"""By number of streams."""


def measure(folder: Path, tools: Path, cores: Cores, rounds: int, say: Callable[[str], None]) -> Pairs:
    """Raises: BenchError."""
    home = folder / "home"
    home.mkdir()
    (tools / "models").mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(tools / "models")  # fetched once
    write_config(folder, "engine", policies=("bench",))
    port, told = free_port(9200), folder / "engine.json"
    argv = [sys.executable, "-m", "bench.engine_gateway", "serve", "--port", str(port)]
    argv += ["--models", str(folder / "models.yaml"), "--policies", str(folder / "policies")]
    key = make_key(home)
    env = {"GATEWAY_HOME": str(home), "BENCH_ENGINE_FILE": str(told)}
    with Process(argv, [cores.gateway, cores.load], log=folder / "gateway.log", folder=ROOT, env=env) as process:
        _wait_until_ready(port, process)
        engine = json.loads(told.read_text())
        url = urlsplit(engine["url"])
        direct = Server(url.port or 80, f"{url.path}/chat/completions", engine["id"], engine["key"])
        behind = Server(port, "/v1/chat/completions", "bench", key)
        return {streams: _in_turns(direct, behind, streams, tokens, rounds, say) for streams, tokens in STREAMS.items()}


def _wait_until_ready(port: int, process: Process) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up_at:
        if process.has_ended:
            raise BenchError(f"the gateway has ended: {process.last_words}")
        with suppress(OSError):
            ask(port, "/readyz")
            return
        time.sleep(0.2)
    raise BenchError(f"the engine was not ready: {process.last_words}")


def _in_turns(
    direct: Server, behind: Server, streams: int, tokens: int, rounds: int, say: Callable[[str], None]
) -> list[Pair]:
    """A B, B A, A B and so on, so that a machine that gets slower or faster is nobody's gain."""
    for server in (direct, behind):
        tokens_per_s(server, streams, tokens)  # prompts are in the engine's cache from now on
    pairs = []
    for turn in range(rounds):
        order = (direct, behind) if turn % 2 == 0 else (behind, direct)
        speed = {server.port: tokens_per_s(server, streams, tokens) for server in order}
        pair = Pair(speed[direct.port], speed[behind.port])
        say(f"{streams} streams: {pair.direct:.1f} by itself, {pair.behind:.1f} behind ({pair.ratio:.1%})")
        pairs.append(pair)
    return pairs


def tokens_per_s(server: Server, streams: int, tokens: int) -> float:
    """Of so many streams that begin together, from the first question to the last token. Raises: BenchError."""
    with ThreadPoolExecutor(streams) as pool:
        began = time.monotonic()
        counts = list(pool.map(lambda subject: _stream(server, subject, tokens), SUBJECTS[:streams]))
        took_s = time.monotonic() - began
    if set(counts) != {tokens}:
        raise BenchError(f"{tokens} tokens were asked for, and {counts} came")
    return sum(counts) / took_s


def _stream(server: Server, subject: str, tokens: int) -> int:
    """Returns: tokens of the answer, as the engine counts them."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": f"Write a long story about {subject}."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_WITHIN_S)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
        connection.request("POST", server.path, json.dumps(body), headers)
        reply = connection.getresponse()
        text = reply.read().decode()
    except (OSError, http.client.HTTPException) as exc:
        raise BenchError(f"a stream broke: {exc}") from None
    finally:
        connection.close()
    if reply.status != 200:
        raise BenchError(f"a stream was refused: {reply.status} {text[:200]}")
    return tokens_in(text)


def tokens_in(stream: str) -> int:
    """What the last `usage` of a stream says. Raises: BenchError where it is not whole."""
    events = [line.removeprefix("data:").strip() for line in stream.splitlines() if line.startswith("data:")]
    if not events or events[-1] != "[DONE]":
        raise BenchError(f"a stream was cut off: {stream[-200:]}")
    usages = [usage for event in events[:-1] if (usage := json.loads(event).get("usage"))]
    return int(usages[-1]["completion_tokens"]) if usages else 0


def summary(pairs: Pairs, setting: Setting) -> str:
    rows = []
    for streams, of in pairs.items():
        ratios = sorted(pair.ratio for pair in of)
        direct, behind = (statistics.median(speeds) for speeds in zip(*((p.direct, p.behind) for p in of), strict=True))
        rows.append(
            [
                str(streams),
                str(STREAMS.get(streams, "–")),
                number(direct, 1),
                number(behind, 1),
                f"**{statistics.median(ratios):.1%}** ({ratios[0]:.1%} to {ratios[-1]:.1%})",
            ]
        )
    head = ["streams", "tokens of each", "tokens/s by itself", "behind the gateway", "ratio: median (range)"]
    rounds = max((len(of) for of in pairs.values()), default=0)
    about = f"Measured on {setting.date} with {setting.machine}; {rounds} pairs of rounds; the core model."
    return f"{about}\n\n{table(head, rows)}"
