"""`make lqs ARGS="--fit DIR"`: what a draft is worth and from which threshold it is accepted, learned on a workload."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from bench.lqs import score_workload as scorer
from bench.lqs.cache import strong_answers
from bench.lqs.report import FAMILY_HEADS, HEADS, families, row, scored, table
from bench.lqs.run import HERE, Record, Setup, play, serving
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.learned_file import read_learned_file
from gateway.learned_files import LearnedFile, rounded
from gateway.learning.promise_fit import is_vetoed
from gateway.quality.certify import Audited
from gateway.quality.combiner import Combiner, Row
from gateway.quality.combiner_fit import fit_and_predict
from gateway.quality.promise import Promise, Terms
from gateway.runtime import Runtime
from gateway.store.database import open_database
from gateway.store.drafts import DraftRow, Drafts

LABELS = ("strong", "gold")
WHILE_ESCALATED = "target: 0.99, confidence: 0.95, uncertified: escalate, reading: net, fixed: true"
WHILE_FITTED = "target: 0.9999, uncertified: checks, audit: 1.0"  # which nothing certifies in the course of a pass
TERMS = Terms(reading="net", fixed=True)  # of lqs.yaml


class Label(NamedTuple):
    """Of one draft. `regret`: 1 where the strong model is right and it is not, -1 where it is the other way round."""

    right: bool
    regret: float


def fit(
    setup: Setup, records: Sequence[Record], into: Path, labels: str, policy: str, say: Callable[[str], None]
) -> None:
    """Drafts that pass their checks are the answers, and every one is audited; the others are escalated. A combiner is
    fitted to that, and a threshold certified on scores that were predicted out of fold.

    Args:
        labels: `strong`: a draft is right that says what the strong model says, as a running gateway knows it; `gold`:
            that says what the workload says, where its answers are known. The gateway never sees those.
        policy: one of those beside this file, with a promise.
    """
    home = setup.folder / "fit"
    policies, kept = home / "policies", home / "answers.jsonl"
    policies.mkdir(parents=True, exist_ok=True)
    text = (HERE / "policies" / f"{policy}.yaml").read_text()
    assert WHILE_ESCALATED in text
    (policies / f"{policy}.yaml").write_text(text.replace(WHILE_ESCALATED, WHILE_FITTED))
    with serving(Setup(**{**vars(setup), "folder": home, "policies": policies}), say) as server:
        answers = play(server, records, policy, setup.parallel, say, rests=True, kept=kept)
        server.rest(say)  # until the last audits are in
    kept_traces = {line.get("trace") for line in answers}  # a pass that was cut off asked some requests twice
    rows = [row for row in asyncio.run(_drafts(home / "home")) if row.trace in kept_traces]
    known = known_of(records, answers) if labels == "gold" else {}
    learned = learn_from(rows, into, known, fingerprint_of(setup.source, policy))
    say(learned.said)
    lines = would_have_been(records, answers, learned.accepted)
    told = table(HEADS, [row("as it would have been, each draft judged by others' labels", scored(records, lines))])
    print(told + "\n\n" + table(FAMILY_HEADS, families(records, lines)))


def would_have_been(records: Sequence[Record], answers: Sequence[Record], accepted: Set[str]) -> list[Record]:
    """The answers of a pass in which these drafts are accepted, by trace, and all others go on to the strong model.
    What that would have cost is not known here."""
    strong = {line["id"]: line for line in strong_answers(records)}
    lines = [line if line.get("trace") in accepted else {**line, **strong[line["id"]]} for line in answers]
    return [{name: value for name, value in line.items() if name != "cost_usd"} for line in lines]


def fingerprint_of(source: str, policy: str = "lqs") -> str:
    """Of the tier that is promised for, as a pass with the policy has it."""
    variables = {"LQS_SOURCE": source, "LQS_STRONG": "http://127.0.0.1:1/v1"}
    with patch.dict(os.environ, variables), tempfile.TemporaryDirectory() as home:
        gateway = build(read_config(HERE / "models.yaml", HERE / "policies"), Runtime(Path(home)))
    return next(pledge.fingerprint for pledge in gateway.pledges if pledge.policy == policy)


async def _drafts(home: Path) -> list[DraftRow]:
    database = await open_database(home)
    try:
        return await Drafts(database).find()
    finally:
        await database.close()


def known_of(records: Sequence[Record], answers: Sequence[Record]) -> dict[str, Label]:
    """Of the drafts that were answered with, by trace."""
    by_id = {record["id"]: record for record in records}
    found = {}
    for line in answers:
        if line["local"]:
            record = by_id[line["id"]]
            right = scorer.is_correct(record, line["answer"], line.get("tool_calls"))
            found[line["trace"]] = Label(right, float(record["strong_correct"]) - right)
    return found


class Learned(NamedTuple):
    """`said`: what was found, for people. `accepted`: traces of drafts that the threshold takes, each judged by a
    combiner that has not seen its label."""

    said: str
    accepted: frozenset[str]


def learn_from(rows: Sequence[DraftRow], into: Path, known: Mapping[str, Label], tier: str) -> Learned:
    """Writes `combiners.yaml` and `promises.yaml`.

    Args:
        known: labels by trace; of other drafts it counts whether they say what the strong model says.
        tier: the fingerprint of the tier that the promise is for.
    """
    rows = list({row.trace: row for row in rows if row.same is not None or is_vetoed(row)}.values())
    judged = [row for row in rows if not is_vetoed(row)]
    labels = [known.get(row.trace) or Label(bool(row.same), float(not row.same)) for row in judged]
    fitted, predicted = fit_and_predict(
        [Row(row.features, float(label.right)) for row, label in zip(judged, labels, strict=True)]
    )
    arm = judged[-1].arm
    document = rounded({"version": 1, "combiners": {arm: fitted.as_json()}})
    combiner = Combiner.from_json(document["combiners"][arm])
    fingerprint = f"{tier}-{combiner.fingerprint}"
    sample = [Audited(chance, label.regret) for chance, label in zip(predicted, labels, strict=True)]
    sample += [Audited(0.0, 0.0)] * (len(rows) - len(judged))
    promise = Promise.of_sample(sample, TERMS, fingerprint)
    into.mkdir(parents=True, exist_ok=True)
    for name, own in (("combiners", document["combiners"]), ("promises", {arm: promise.as_json()})):
        there = read_learned_file(into / f"{name}.yaml") or {}
        file = LearnedFile(name, {"version": 1, name: {**there.get(name, {}), **own}})  # beside other policies' arms
        (into / f"{name}.yaml").write_text(file.text())
    right, certificate = sum(label.right for label in labels), promise.certificate
    found = {"drafts": len(rows), "right": right, "calibration error": combiner.error, **vars(certificate)}
    taken = {row.trace for row, chance in zip(judged, predicted, strict=True) if chance >= certificate.threshold}
    return Learned(json.dumps(found), frozenset(taken & known.keys()))
