"""Fitting is pure: older requests teach, newer ones judge, and what is worse is refused."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.capability.budget import Budget
from gateway.capability.clusters import Clusters
from gateway.capability.profiles import SHIPPED_CLUSTERS
from gateway.capability.router import Router
from gateway.capability.table import read_cells
from gateway.learned_files import Learned
from gateway.learning.budget_fit import Place, fit_budgets
from gateway.learning.capability_fit import document, fit_capability, table_of, with_probe
from gateway.learning.evidence import Evidence, Row
from gateway.learning.fit import Context, Fitted, HeldOut, files_of, fit_all, split
from gateway.learning.paired import Interval
from gateway.learning.recorded import Outcome, Recording
from gateway.learning.router_fit import fit
from gateway.learning.routing_fit import FIND_CLUSTERS, PRIOR, fit_router, said_in
from gateway.learning.threshold_fit import Wanted, fit_thresholds, names_in, threshold_for_share
from gateway.learning.worth_fit import TERMS, fit_combiners
from gateway.quality.combiner import Combiner, Term
from gateway.quality.promise import Promise, Terms
from gateway.store.drafts import DraftRow
from gateway.store.rows import JournalRow

DAY_S = 86_400.0
START = 1_800_000_000.0


def model(name: str, left: str | None = None, ms: float = 100.0) -> dict[str, Any]:
    spend = {"input_tokens": 10, "output_tokens": 5, "cached_tokens": 0, "estimated": False, "cost_usd": 0.001}
    return {"kind": "model", "name": name, "at_ms": 0, "ms": ms, "spend": spend} | ({"left": left} if left else {})


def tier(name: str, passed: bool | None) -> dict[str, Any]:
    left = {"left": "regex"} if passed is False else {}
    facts = {"facts": {"judged": True}} if passed is not None else {}
    inner = model(name, "regex" if passed is False else None)
    return {"kind": "tier", "name": name, "at_ms": 0, "ms": 100.0, "children": [inner], **left, **facts}


def row(number: int, children: list[dict[str, Any]], facts: dict[str, Any] | None = None) -> Row:
    tree = {"kind": "request", "name": "auto", "at_ms": 0, "ms": 100, "children": children, "facts": facts or {}}
    answered = children[-1]["name"]
    return Row(
        JournalRow(
            id=f"{number:032x}",
            created=START + number * 60,
            key=None,
            policy="p",
            route="all",
            requested_model="auto",
            model=answered,
            path=answered,
            stream=False,
            status=200,
            error=None,
            input_tokens=10,
            output_tokens=5,
            cost_usd=0.001,
            escalated=False,
            ms=100.0,
            first_chunk_ms=None,
            trace=json.dumps(tree),
        )
    )


def evidence(rows: list[Row], ratings: dict[str, float] | None = None) -> Evidence:
    return Evidence(tuple(rows), ratings or {}, {}, ())


def context(in_use: dict[str, Any] | None = None, **settings: Any) -> Context:
    return Context(in_use or {}, START + DAY_S, settings=settings)


def passing(count: int, share: float, seed: int = 1) -> list[Row]:
    rng = random.Random(seed)
    return [row(n, [tier("small", rng.random() < share), tier("large", None)]) for n in range(count)]


def test_the_newer_fifth_is_held_out() -> None:
    older, newer = split(evidence(passing(100, 0.5)))
    assert (len(older.rows), len(newer.rows)) == (80, 20)
    assert older.rows[-1].row.created < newer.rows[0].row.created
    assert split(evidence([]))[0].rows == ()


def test_the_table_is_learned_and_beats_knowing_nothing() -> None:
    [found] = fit_all(evidence(passing(400, 0.1)), [fit_capability], context())
    assert found.name == "capability" and found.rows == 320 and found.why_not == ""
    assert found.held_out is not None and found.held_out.count == 80
    assert found.held_out.gain.is_above_zero and found.held_out.after < 0.18 < found.held_out.before
    cells = read_cells(found.document["cells"])
    small = cells[-1, "small"]
    assert small.n == pytest.approx(320, rel=0.05) and small.s / small.n == pytest.approx(0.1, abs=0.05)
    assert cells[-1, "large"].n == 0 and cells[-1, "large"].calls > 300


def test_what_is_worse_than_what_is_in_use_is_refused() -> None:
    rows = passing(160, 0.95, seed=2) + [row(160 + n, [tier("small", n % 20 == 0)]) for n in range(40)]
    good = table_of(evidence(passing(400, 0.05)), context(), SHIPPED_CLUSTERS, {})
    from gateway.capability.profiles import Learned as LearnedTable

    in_use = {"capability": document(LearnedTable(SHIPPED_CLUSTERS, START, good.cells()))}
    [found] = fit_all(evidence(rows), [fit_capability], context(in_use))
    assert found.why_not == "worse on the newer requests"


def test_ratings_count_as_outcomes() -> None:
    rows = [row(n, [model("large")]) for n in range(10)]
    rated = evidence(rows, {rows[3].row.id: 0.0, rows[4].row.id: 1.0})
    cell = table_of(rated, context(), SHIPPED_CLUSTERS, {}).cells()[-1, "large"]
    assert cell.n == pytest.approx(2, rel=0.03) and cell.s == pytest.approx(1, rel=0.03)


def test_too_few_newer_requests_refuse_and_a_router_has_to_be_better() -> None:
    held = HeldOut("m", 10, 0.5, 0.4, Interval(0.1, 0.05, 0.15))
    assert "only 10 newer" in Fitted("x", {}, 5, held).why_not
    unsure = HeldOut("m", 50, 0.5, 0.49, Interval(0.01, -0.05, 0.07))
    assert Fitted("x", {}, 5, unsure).why_not == ""
    assert Fitted("x", {}, 5, unsure, needs="better").why_not == "not surely better on the newer requests"
    assert Fitted("x", {}, 5, refused="no").why_not == "no"


def test_a_probe_is_part_of_the_table_until_it_is_done_again() -> None:
    sums = dict.fromkeys(("priced", "cost_usd", "counted", "output_tokens"), 0.0)
    cell = {"at": START, "s": 1.0, "n": 2.0, "calls": 2.0, "latency_s": 1.0, "latencies": {"20": 2}, **sums}
    probe = {"at": START, "clusters": "c", "cells": {"new": {"3": cell}}}
    probes, table = with_probe({}, "c", probe, "new", START)
    in_use = {"probes": probes, "capability": table}
    probes, table = with_probe(in_use, "c", probe, "new", START + 60)
    assert read_cells(table["cells"])[3, "new"].n == pytest.approx(2, rel=1e-3)
    other = {**probe, "cells": {"b": {"3": cell}}}
    _, both = with_probe({"probes": probes, "capability": table}, "c", other, "b", START)
    assert set(read_cells(both["cells"])) == {(3, "new"), (3, "b")}
    learned = fit_capability(evidence(passing(40, 0.5)), evidence([]), context({"probes": probes}, clusters="c"))
    assert learned is not None and (3, "new") in read_cells(learned.document["cells"])


def test_a_threshold_leaves_the_wanted_share_above_it() -> None:
    values = [n / 100 for n in range(100)]
    for share in (0.0, 0.2, 0.5, 1.0):
        limit = threshold_for_share(values, share)
        assert sum(value >= limit for value in values) == round(share * 100)
    assert threshold_for_share([0.5], 0.0) > 0.5
    for wrong in ([], [1.0]):
        with pytest.raises(ValueError):
            threshold_for_share(wrong, 1.5 if wrong else 0.5)


def difficult(count: int, seed: int, shift: float = 0.0) -> list[Row]:
    rng = random.Random(seed)
    return [
        row(n, [model("small")], {"signals": [{"signal": "difficulty", "value": shift + rng.random(), "us": 1}]})
        for n in range(count)
    ]


def test_thresholds_that_rules_name_are_learned_for_a_share() -> None:
    wanted = {"hard": Wanted("difficulty", frozenset({"p"}), 0.25)}
    in_use = {"thresholds": {"version": 1, "thresholds": {"hard": 0.1, "other": 0.3}}}
    [found] = fit_all(evidence(difficult(500, 3)), [fit_thresholds], context(in_use, thresholds=wanted))
    assert found.why_not == "" and found.document["thresholds"]["other"] == 0.3
    assert found.document["thresholds"]["hard"]["value"] == pytest.approx(0.75, abs=0.06)
    assert found.held_out is not None and found.held_out.before > 0.5 and found.held_out.after < 0.15
    assert fit_all(evidence(difficult(30, 3)), [fit_thresholds], context(in_use, thresholds=wanted)) == []


def test_a_threshold_that_has_drifted_away_is_not_taken_back() -> None:
    wanted = {"hard": Wanted("difficulty", frozenset({"p"}), 0.25)}
    older = difficult(400, 3)
    drifted = [
        row(400 + n, [model("small")], {"signals": [{"signal": "difficulty", "value": 1 + n / 100}]})
        for n in range(100)
    ]
    in_use = {"thresholds": {"version": 1, "thresholds": {"hard": {"value": 1.75, "share": 0.25}}}}
    [found] = fit_all(evidence(older + drifted), [fit_thresholds], context(in_use, thresholds=wanted))
    assert found.why_not == "worse on the newer requests"


def test_names_of_thresholds_are_found_wherever_a_rule_may_have_them() -> None:
    when = {
        "all": [
            {"difficulty": {"above": "learned.a"}},
            {"not": {"any": [{"difficulty": {"below": {"learned": "b", "default": 0.4}}}]}},
            {"input_tokens": {"below": 10}},
        ]
    }
    assert list(names_in(when)) == [("difficulty", "a"), ("difficulty", "b")]


def decided(number: int, rng: random.Random) -> Row:
    p = rng.random()
    candidates = [
        {"model": "small", "p": round(p, 4), "sigma": 0.3, "n": 5, "cost_usd": 0.0, "latency_s": 1, "joules": 1},
        {"model": "large", "p": 0.9, "sigma": 0.2, "n": 5, "cost_usd": 0.01, "latency_s": 3, "joules": 9},
    ]
    passed = rng.random() < p
    choose = {"kind": "choose", "name": "choose", "facts": {"candidates": candidates}}
    choose["children"] = [tier("small", passed)] if passed else [tier("small", False), tier("large", True)]
    return row(number, [{**choose, "at_ms": 0, "ms": 100.0}])


def test_a_budget_is_kept_on_newer_requests() -> None:
    rng = random.Random(4)
    rows = [decided(n, rng) for n in range(400)]
    place = Place("p/routes/0/answer", "p", "all", frozenset({"small", "large"}), Budget("usd", 0.0012), None, 1.0)
    [found] = fit_all(evidence(rows), [fit_budgets], context(budgets=[place]))
    entry = found.document["budgets"]["p/routes/0/answer"]
    assert entry["rows"] == 320 and entry["cost"] <= 0.0012
    assert math.isfinite(entry["lambda"]) and entry["lambda"] > 1
    assert found.held_out is not None and found.held_out.after < 0.18 < found.held_out.before
    assert found.why_not == ""
    other = Place("p/routes/1/answer", "p", "all", frozenset({"a", "b"}), Budget("usd", 0.002), None, 1.0)
    assert fit_all(evidence(rows), [fit_budgets], context(budgets=[other])) == []


def draft(number: int, rng: random.Random, fingerprint: str = "new-c2") -> DraftRow:
    sure = rng.random()
    same = rng.random() < sure
    seen = {"logprob_mean": -1 + sure}
    at = START + number * 60
    return DraftRow(str(number), at, "p/0", fingerprint, "small", 0.5, True, False, True, same, seen)


def test_combiners_are_learned_from_drafts_and_only_of_the_newest_model() -> None:
    rng = random.Random(6)
    drafts = [draft(n, rng, "old-c1") for n in range(100)] + [draft(100 + n, rng) for n in range(500)]
    terms = {TERMS: {"p/0": Terms(0.9, 0.95)}}
    found, kept = fit_all(Evidence((), {}, {}, tuple(drafts)), [fit_combiners], context(**terms))
    assert found.rows == 380 and found.why_not == ""
    assert found.held_out is not None and found.held_out.count == 120 and found.held_out.gain.is_above_zero
    combiner = Combiner.from_json(found.document["combiners"]["p/0"])
    assert combiner.predict({"logprob_mean": -0.1}) > 0.75 > 0.3 > combiner.predict({"logprob_mean": -0.95})
    assert kept.name == "promises" and kept.why_not == ""
    state = kept.document["promises"]["p/0"]
    promise = Promise.from_json(state, Terms(0.9, 0.95), f"new-{combiner.fingerprint}")
    assert promise.tally.requests == 500
    few = Evidence((), {}, {}, tuple(drafts[:30]))
    assert fit_all(few, [fit_combiners], context({"combiners": found.document})) == []


def test_a_combiner_that_is_worse_on_newer_drafts_is_not_taken() -> None:
    rng = random.Random(7)
    good = Combiner(0.0, {"a": Term(0.0, 1.0, 3.0)})
    values = [rng.choice([-1.0, 1.0]) for _ in range(500)]
    drafts = [
        replace(draft(n, rng), features={"a": value}, same=(value > 0) == (n >= 400)) for n, value in enumerate(values)
    ]
    in_use = {"combiners": {"version": 1, "combiners": {"p/0": good.as_json()}}}
    assert fit_all(Evidence((), {}, {}, tuple(drafts)), [fit_combiners], context(in_use)) == []


def asked_and_answered(count: int, seed: int, *, foreseeable: bool) -> list[tuple[Recording, bytes]]:
    """`tiny` can do sums and `giant` letters, where anything is to be foreseen. Of both, the words say which it is,
    and the vector nothing."""
    rng = random.Random(seed)
    found = []
    for n in range(count):
        is_sum = rng.random() < 0.5
        text = f"What is {n} plus {rng.randrange(99)}?" if is_sum else f"Write a letter to {rng.choice(['Ann', 'Bo'])}"
        right = {"tiny": is_sum, "giant": not is_sum}
        if not foreseeable:
            right = {name: rng.random() < 0.5 for name in right}
        outcomes = {name: Outcome(quality=float(rng.random() < (0.9 if one else 0.1))) for name, one in right.items()}
        vector = np.random.default_rng(rng.randrange(10**9)).normal(size=384).astype("<f4")
        body = {"messages": [{"role": "user", "content": text}]}
        found.append((Recording(str(n), body, outcomes), (vector / np.linalg.norm(vector)).tobytes()))
    return found


def routed(workload: list[tuple[Recording, bytes]]) -> Fitted:
    texts = [said_in(one).asked for one, _ in workload]
    outcomes = {name: [one.outcomes[name].quality or 0.0 for one, _ in workload] for name in ("tiny", "giant")}
    labels = ["math/sum" if "plus" in text else "writing/letter" for text in texts]
    prior = fit(texts, outcomes, [vector for _, vector in workload], labels=labels, small=["tiny"], large=["giant"])
    rows = np.stack([np.frombuffer(vector, "<f4") for _, vector in workload[:8]])
    settings = {FIND_CLUSTERS: Clusters("c", rows), PRIOR: prior}
    [found] = fit_all(evidence([]), [fit_router], Context({}, START, workload=workload, settings=settings))
    return found


def test_the_router_is_used_where_it_foresees_more_than_the_table(tmp_path: Path) -> None:
    found = routed(asked_and_answered(260, 8, foreseeable=True))
    assert found.why_not == "" and found.rows == 208 and found.held_out is not None
    assert found.held_out.after < 0.15 < 0.2 < found.held_out.before
    learned = Learned(tmp_path)
    learned.write(files_of([found], learned, evidence([]), START))
    said = Router.load(learned.path("router")).predict("What is 7 plus 8?")
    assert said.p_right["tiny"] > 0.6 > 0.4 > said.p_right["giant"]


def test_the_router_is_refused_where_there_is_nothing_to_foresee() -> None:
    assert routed(asked_and_answered(260, 9, foreseeable=False)).why_not == "not surely better on the newer requests"


def test_the_same_evidence_gives_the_same_files(tmp_path: Any) -> None:
    def files() -> list[str]:
        seen = evidence(passing(200, 0.3))
        fitted = fit_all(seen, [fit_capability], context())
        return [file.text() for file in files_of(fitted, Learned(tmp_path), seen, START)]

    assert files() == files() and len(files()) == 2
