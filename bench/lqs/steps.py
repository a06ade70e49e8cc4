"""`make lqs`: an ablation on a part of the workload, then the whole of it under the promise."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.lqs.cache import nearest_answers, strong_answers
from bench.lqs.learn import LABELS, fit
from bench.lqs.report import FAMILY_HEADS, HEADS, families, row, scored, table
from bench.lqs.run import CORE, HERE, Record, Setup, play, records_of, serving
from bench.processes import BenchError
from gateway.training.registry import read_registry

Say = Callable[[str], None]
PLAIN = {"bare": "bare", "typed": "+ typed decoding", "checks": "+ checks"}  # policies without shards
EVERY = 4  # requests of which one is in the ablation's sample


def add_arguments(verb: argparse.ArgumentParser) -> None:
    data = HERE / "data"
    verb.add_argument("--workload", type=Path, default=data / "dev.jsonl.gz")
    verb.add_argument("--documents", type=Path, default=data / "documents", help="to be put in beforehand; '-': none")
    verb.add_argument("--out", type=Path, help="the answers of the last step, as JSON lines")
    verb.add_argument("--frozen", type=Path, default=HERE / "learned", help="what was learned beforehand")
    verb.add_argument("--fit", type=Path, metavar="DIR", help="learn on this workload, every draft audited, into DIR")
    verb.add_argument(
        "--labels",
        choices=LABELS,
        default=LABELS[0],
        help="of --fit: is a draft right if it says what the strong model says, or what the workload says",
    )
    verb.add_argument("--model", default=CORE, metavar="SOURCE", help="the local model, as models.yaml says `source`")
    verb.add_argument("--only-last", action="store_true", help="without the ablation")
    verb.add_argument(
        "--adapters", action="store_true", help="the model is trained in the course of the pass (wants the extra train)"
    )
    verb.add_argument("--limit", type=int, help="only so many requests")
    verb.add_argument("--parallel", type=int, default=3)
    verb.add_argument("--home", type=Path, help="keep the gateway's home there; a run that was cut off goes on")


def run(options: argparse.Namespace, say: Say) -> None:
    """Raises: BenchError."""
    records = records_of(options.workload)[: options.limit]
    documents = None if str(options.documents) == "-" or not options.documents.exists() else options.documents
    policy = "adapters" if options.adapters else "lqs"
    with _folder(options.home) as folder:
        setup = Setup(options.workload, documents, folder, options.model, parallel=options.parallel)
        if options.fit is not None:
            fit(setup, records, options.fit, options.labels, policy, say)
            return
        if options.adapters and find_spec("torch") is None:
            raise BenchError("training wants the extra 'train': pip install 'onion-gateway[train]'")
        rows = [] if options.only_last else ablation(setup, records[::EVERY], say)
        if not options.only_last:
            say("with shards and the promise, the whole workload")
        frozen = options.frozen if options.frozen.is_dir() else None
        if frozen is None:
            say(f"nothing was learned beforehand in {options.frozen}: everything will be escalated")
        learned = Setup(**{**vars(setup), "folder": folder / "last", "learned": frozen})
        with serving(learned, say) as server:
            kept = learned.folder / "answers.jsonl" if options.home is not None else None
            answers = play(server, records, policy, options.parallel, say, rests=True, kept=kept)
            cached, likeness = nearest_answers(server, records)
        if options.out is not None:
            options.out.write_text("".join(json.dumps(line) + "\n" for line in answers))
        name = "+ shards + certified thresholds" + (" + adapters" if options.adapters else "")
        rows.append(row(name, scored(records, answers)))
        rows.append(row("baseline: the strong model alone", scored(records, strong_answers(records))))
        rows.append(_cache_row(records, cached, likeness))
        print(table(HEADS, rows) + "\n\n" + table(FAMILY_HEADS, families(records, answers)))
        if options.adapters:
            print("\n" + trained_in(learned.folder / "home"))


def ablation(setup: Setup, sample: Sequence[Record], say: Say) -> list[list[str]]:
    """Each step on the same requests; what shards add is seen with everything accepted that passes its checks."""
    rows = []
    with serving(Setup(**{**vars(setup), "documents": None, "folder": setup.folder / "plain"}), say) as server:
        for policy, name in PLAIN.items():
            answers = play(server, sample, policy, setup.parallel, say, rests=False)
            rows.append(row(name, scored(sample, answers)))
    with serving(Setup(**{**vars(setup), "folder": setup.folder / "shards"}), say) as server:
        answers = play(server, sample, "shards", setup.parallel, say, rests=True)
        rows.append(row("+ shards", scored(sample, answers)))
    return rows


def trained_in(home: Path) -> str:
    """What was trained there, for people."""
    entries = sorted(read_registry(home).values(), key=lambda one: one.created)
    minutes = sum(float(one.training.get("seconds", 0)) for one in entries) / 60
    lines = [
        f"{one.full_name}: {one.state}, {one.data['trained_on']} requests; {one.record.right} of {one.record.count}"
        f" right at the gate, {one.record.before} before, in {len(one.kinds)} kinds"
        for one in entries
    ]
    return "\n".join([f"{len(entries)} trainings, {minutes:.1f} minutes", *lines])


def _cache_row(records: Sequence[Record], cached: Sequence[Record], likeness: Sequence[float]) -> list[str]:
    """The most alike are answered from the cache, as many as keep the quality, by the scorer's own bound; the rest by
    the strong model."""
    strong = {line["id"]: line for line in strong_answers(records)}
    best: dict[str, Any] | None = None
    for floor in (0.98, 0.96, 0.94, 0.92, 0.9, 0.85, 0.8):
        mixed = [line if alike >= floor else strong[line["id"]] for line, alike in zip(cached, likeness, strict=True)]
        result = scored(records, mixed)
        if best is None or result["LQS99"]["lqs_net"] > best["LQS99"]["lqs_net"]:
            best = result
    assert best is not None  # there are floors
    return row("baseline: the nearest strong answer again (not local words)", best)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="lqs-") as folder:
        yield Path(folder)
