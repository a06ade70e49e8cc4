"""The replay workload: what its strong model says, and what was learned from it beforehand."""

from __future__ import annotations

import pytest

from bench.lqs.cache import strong_answers
from bench.lqs.learn import TERMS, fingerprint_of, would_have_been
from bench.lqs.report import scored
from bench.lqs.run import CORE, HERE, records_of
from gateway.quality.learned import read_combiners, read_promises
from gateway.quality.promise import Promise, Status


def test_the_strong_model_is_as_right_as_it_is_said_to_be() -> None:
    records = records_of(HERE / "data" / "dev.jsonl.gz")
    result = scored(records, strong_answers(records))
    assert result["accuracy"] == result["strong_accuracy"] and result["destroyed"] == result["rescued"] == 0


def test_drafts_that_are_accepted_stay_and_the_others_are_the_strong_models() -> None:
    records = records_of(HERE / "data" / "dev.jsonl.gz")[:2]
    drafts = [
        {"id": record["id"], "answer": "a draft", "local": True, "trace": str(n), "cost_usd": 1}
        for n, record in enumerate(records)
    ]
    kept, left = would_have_been(records, drafts, {"0"})
    assert (kept["answer"], kept["local"]) == ("a draft", True) and "cost_usd" not in kept
    assert (left["answer"], left["local"]) == (records[1]["strong_answer"], False)


@pytest.mark.parametrize("policy", ["lqs", "adapters"])
def test_what_was_learned_is_for_the_tier_as_it_is_and_certified(policy: str) -> None:
    arm = f"{policy}/all/core"
    fingerprint = f"{fingerprint_of(CORE, policy)}-{read_combiners(HERE)[arm].fingerprint}"
    promise = Promise.from_json(read_promises(HERE)[arm], TERMS, fingerprint)
    assert promise.status is Status.CERTIFIED, "learn it anew: make lqs ARGS='--fit bench/lqs/learned --labels gold'"
    assert promise.certificate.bound <= TERMS.allowed_regret
