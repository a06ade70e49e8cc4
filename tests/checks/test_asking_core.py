"""Checks that ask a model, on the real core model."""

from pathlib import Path

import orjson
import pytest

from tests.conftest import Serve

pytestmark = pytest.mark.model


@pytest.mark.slow
async def test_a_judge_and_a_second_answer_of_a_real_model(serve: Serve, core_model_path: Path) -> None:
    models = f"""
        models:
          core: {{engine: llama.cpp, source: 'file:{core_model_path}', context: 2048, slots: 4, threads: 1}}
          other: {{engine: scripted, replies: [{{text: from the other}}]}}
    """
    checks = "[{judge: {model: core, above: 0.0}}, {agreement: {samples: 2, temperature: 0.0, at_least: 0.5}}]"
    tiers = f"[{{model: core, checks: {checks}}}, {{model: other}}]"
    client = await serve(models, default=f"policy: default\nroutes: [{{name: a, answer: {{cascade: {tiers}}}}}]\n")
    reply = await client.start_chat("What is the capital of France?", max_tokens=10, temperature=0).done(120)
    assert reply.gateway["path"] == "core", "greedy answers agree, and p(yes) is above 0"
    await client.runtime.journal.flush()  # type: ignore[union-attr]
    row = await client.runtime.journal.find(reply.headers["x-gateway-trace"])  # type: ignore[union-attr]
    assert row is not None
    (tier,) = [hop for hop in orjson.loads(row.trace)["children"] if hop["kind"] == "tier"]
    assert 0 < tier["facts"]["judge"] < 1 and tier["facts"]["agreement"] >= 0.5
    asked = [hop for hop in tier["children"] if hop["kind"] == "check"]
    assert [(hop["name"], len(hop["children"])) for hop in asked] == [("judge", 1), ("agreement", 2)]
    assert all(model["spend"]["input_tokens"] > 0 for hop in asked for model in hop["children"])
