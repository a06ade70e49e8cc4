"""`python -m bench loop`: dates to be written as ISO 8601, which the core model cannot, and other questions between.

A simulated strong model knows all answers. The gateway is started with the shipped loop and asked one request after the
other, with rests in which it may train, as nights are; who answered, and whether it was right, is counted here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from bench.lqs.run import CORE, Record, Server, Setup, serving
from bench.lqs.steps import trained_in
from bench.processes import BenchError

HERE = Path(__file__).parent
SYSTEM = "Write the date as YYYY-MM-DD. Answer with the date alone."
OTHER = "Answer with one word."
MONTHS = "January February March April May June July August September October November December".split()
DATES = 0.8  # share of the requests
EVERY = 50  # requests between two rests
Say = Callable[[str], None]


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--requests", type=int, default=500)
    verb.add_argument("--parallel", type=int, default=4)
    verb.add_argument("--model", default=CORE, metavar="SOURCE", help="the local model, as models.yaml says `source`")
    verb.add_argument("--slowdown", action="store_true", help="measure what training does to requests, instead")
    verb.add_argument("--plot", type=Path, default=Path("learning.svg"))


def run(options: argparse.Namespace, say: Say) -> None:
    """Raises: BenchError."""
    if find_spec("torch") is None:
        raise BenchError("training wants the extra 'train': pip install 'onion-gateway[train]'")
    if options.slowdown:
        from bench.loop.slowdown import measure

        measure(options, say)
        return
    records = list(requests(options.requests))
    with tempfile.TemporaryDirectory(prefix="loop-") as name:
        folder = Path(name)
        workload = folder / "workload.jsonl"
        workload.write_text("".join(json.dumps(record) + "\n" for record in records))
        setup = Setup(workload, None, folder, options.model, policies=HERE / "policies", models=HERE / "models.yaml")
        with serving(setup, say) as server:
            rows = play(server, records, options.parallel, say)
            print(table(rows))
            print(trained_in(folder / "home"))
            plotted(folder / "home", options.plot.resolve())


def requests(count: int, seed: int = 0) -> Iterator[Record]:
    """With the strong model's answer, which is right."""
    rng = random.Random(seed)
    for n in range(count):
        if rng.random() < DATES:
            year, month, day = rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(1, 28)
            name, system = MONTHS[month - 1], SYSTEM
            said = rng.choice([f"{day} {name} {year}", f"{name} {day}, {year}", f"the {day}th of {name} {year}"])
            user, answer = f"We met on {said}, in hall {n}.", f"{year}-{month:02}-{day:02}"
        else:
            one, other, system = rng.randint(100, 999), rng.randint(100, 999), OTHER
            user, answer = f"Which is more, {one} or {other}? Question {n}.", str(max(one, other))
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        told = {"strong_answer": answer, "scorer": "exact", "max_tokens": 24, "temperature": 0}
        yield {"id": f"r{n}", "messages": messages, **told}


def play(server: Server, records: Sequence[Record], parallel: int, say: Say) -> list[Record]:
    """One row of numbers for each stretch between two rests."""
    rows = []
    with ThreadPoolExecutor(parallel) as pool:
        for begin in range(0, len(records), EVERY):
            part = records[begin : begin + EVERY]
            answers = list(pool.map(lambda record: server.ask(record, "assistant"), part))
            right = [answer["answer"] == record["strong_answer"] for answer, record in zip(answers, part, strict=True)]
            local = [answer["local"] for answer in answers]
            rows.append(
                {
                    "requests": begin + len(part),
                    "local": sum(local) / len(part),
                    "right": sum(right) / len(part),
                    "local right": sum(a and b for a, b in zip(local, right, strict=True)) / max(1, sum(local)),
                    "usd": sum(answer["cost_usd"] for answer in answers),
                    "p50 s": statistics.median(answer["latency_s"] for answer in answers),
                }
            )
            say(json.dumps(rows[-1]))
            server.rest(say)
    return rows


def table(rows: Sequence[Record]) -> str:
    """In Markdown."""
    lines = ["| requests | answered here | of it right | right | $ | median s |", "|---|---|---|---|---|---|"]
    for row in rows:
        shares = f"{row['local']:.0%} | {row['local right']:.0%} | {row['right']:.0%}"
        lines.append(f"| {row['requests']} | {shares} | {row['usd']:.5f} | {row['p50 s']:.2f} |")
    return "\n".join(lines)


def plotted(home: Path, path: Path) -> None:
    """By the shipped command. Raises: BenchError."""
    command = [sys.executable, "-m", "gateway", "learn", "adapters", "--plot", str(path)]
    command += ["--models", str(HERE / "models.yaml"), "--policies", str(HERE / "policies")]
    env = {"GATEWAY_HOME": str(home), "LQS_SOURCE": CORE, "LQS_STRONG": "http://127.0.0.1:1/v1"}
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"the plot cannot be drawn: {done.stderr.strip()[-300:]}")
    print(done.stderr.strip() or done.stdout.strip())
