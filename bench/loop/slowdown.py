"""How much slower requests are while an adapter is trained beside them."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

from bench.loop.story import HERE, Say, requests
from bench.lqs.run import CORE, Record, Server, Setup, serving
from gateway.sources import parse, path_of
from gateway.training.pairs import Pair
from gateway.training.process import put, train
from gateway.training.settings import Settings

ASKED = 60
PAIRS = 600
WARM_S = 45.0  # until the child computes


def measure(options: argparse.Namespace, say: Say) -> None:
    """Raises: BenchError."""
    with tempfile.TemporaryDirectory(prefix="slowdown-") as name:
        folder = Path(name)
        records = list(requests(ASKED, seed=1))
        workload = folder / "workload.jsonl"
        workload.write_text("")
        setup = Setup(workload, None, folder, options.model, policies=HERE / "policies", models=HERE / "models.yaml")
        with serving(setup, say) as server:
            model = path_of(parse(CORE), folder / "home", None)
            alone = asked(server, records)
            beside, speed = asyncio.run(_beside(server, records, model, folder / "job"))
            again = asked(server, records)
    for told, found in (("alone", alone), ("while training", beside), ("alone again", again)):
        print(f"{told}: median {statistics.median(found):.3f} s, 95 % within {sorted(found)[int(0.95 * ASKED)]:.3f} s")
    ratio = statistics.median(beside) / statistics.median([*alone, *again])
    print(f"{ratio:.2f} times as long; the child trained {speed:.0f} tokens a second beside them")


def asked(server: Server, records: list[Record]) -> list[float]:
    """Seconds of each, one after the other, of the local model by its name."""
    return [float(server.ask(record, "core")["latency_s"]) for record in records]


async def _beside(server: Server, records: list[Record], model: Path, folder: Path) -> tuple[list[float], float]:
    pairs = [
        Pair((*record["messages"], {"role": "assistant", "content": record["strong_answer"]}))
        for record in requests(PAIRS)
    ]
    put(folder, pairs, [])
    speeds: list[float] = []

    def tell(event: Record) -> None:
        if event["event"] == "step":
            speeds.append(float(event["tokens_per_s"]))

    training = asyncio.create_task(train(model, folder, Settings(epochs=50, held_out=0), tell))
    await asyncio.sleep(WARM_S)
    try:
        return await asyncio.to_thread(asked, server, records), speeds[-1] if speeds else 0.0
    finally:
        training.cancel()
        await asyncio.gather(training, return_exceptions=True)
