"""`/v1/usage`, `/v1/usage/savings` and what /metrics has of money and energy."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from gateway.access.keys import create_key
from gateway.costs.ledger import Ledger, UsageSums
from gateway.telemetry.spending import MOST_KEYS, SpendingMetrics
from tests.asgi import Client
from tests.conftest import Serve

MODELS = """
models:
  core:
    engine: scripted
    replies: [{when: {contains: hard}, text: ""}, {text: easy as pie}]
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    energy: {joules_per_token: 1}
  expert:
    engine: scripted
    replies: [{text: it is so}]
    price: {input_usd_per_mtok: 10, output_usd_per_mtok: 20}
    energy: {joules_per_token: 10}
  unpriced: {engine: scripted, replies: [{text: who knows}]}
"""
POLICY = """
policy: default
serves: [auto]
routes:
  - name: all
    answer: {cascade: [{model: core, checks: [not_empty]}, {model: expert}]}
"""


async def asked(client: Client, path: str, token: str | None = None) -> dict[str, object]:
    headers: Mapping[str, str] = {"authorization": f"Bearer {token}"} if token else {}
    response = await client.call("GET", path, headers=headers)
    assert response.status == 200, response.body
    told: dict[str, object] = response.json
    return told


def named(told: dict[str, object], *names: str) -> dict[tuple[str, ...], dict[str, object]]:
    data = told["data"]
    assert isinstance(data, list)
    return {tuple(row[name] for name in names): row for row in data}


async def test_each_call_is_its_own_models(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    easy = await client.chat("an easy one")
    hard = await client.chat("a hard one")
    told = await asked(client, "/v1/usage?by=model,purpose")
    rows = named(told, "model", "purpose")
    assert rows.keys() == {("core", "answer"), ("core", "draft"), ("expert", "answer")}
    assert rows["core", "draft"]["requests"] == 0 and rows["core", "draft"]["calls"] == 1
    total = told["total"]
    assert isinstance(total, dict) and total["requests"] == 2
    assert total["cost_usd"] == pytest.approx(easy.gateway["cost_usd"] + hard.gateway["cost_usd"])
    assert total["energy_j"] == pytest.approx(easy.gateway["energy_j"] + hard.gateway["energy_j"])
    assert hard.gateway["energy_j"] == 30.0, "three words of expert, none of core"


async def test_an_unknown_cost_is_told_apart(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    await client.chat("x", model="unpriced")
    await client.chat("x", model="core")
    told = await asked(client, "/v1/usage?by=model")
    rows = named(told, "model")
    assert rows["unpriced",]["cost_usd"] is None and rows["unpriced",]["unknown_cost"] == 1
    assert rows["unpriced",]["energy_j"] is None
    total = told["total"]
    assert isinstance(total, dict)
    assert total["cost_usd"] is None and total["known_cost_usd"] == rows["core",]["cost_usd"]


async def test_savings_are_against_one_model_alone(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    replies = [await client.chat(text) for text in ("easy", "hard")]
    told = await asked(client, "/v1/usage/savings?since=1d")
    (one,) = named(told, "policy").values()
    spent = sum(reply.gateway["cost_usd"] for reply in replies)
    inputs = [reply.json["usage"]["prompt_tokens"] for reply in replies]
    outputs = [reply.json["usage"]["completion_tokens"] for reply in replies]
    alone = (sum(inputs) * 10 + sum(outputs) * 20) / 1e6
    largest = one["largest"]
    assert isinstance(largest, dict) and largest["models"] == ["expert"]
    assert largest["instead_usd"] == pytest.approx(alone)
    assert largest["saved_usd"] == pytest.approx(alone - spent)
    assert (largest["compared"], largest["estimated"]) == (2, 1)
    assert told["total"] == {"largest": largest["saved_usd"], "best_single": largest["saved_usd"]}
    assert told["false_accepts"] == []
    empty = await asked(client, "/v1/usage/savings?until=2020-01-01")
    assert empty["data"] == [] and empty["total"] == {"largest": None, "best_single": None}


async def test_a_promise_shows_how_often_it_was_wrong(serve: Serve) -> None:
    policy = POLICY + "quality: {audit: 1}\n"
    client = await serve(MODELS, default=policy)
    for _ in range(3):
        await client.chat("easy")
    await client.runtime.promises.idle()
    told = await asked(client, "/v1/usage/savings")
    (one,) = named(told, "policy").values()
    (wrong,) = told["false_accepts"]  # type: ignore[misc]
    assert wrong["strong"] == "expert" and wrong["audits_of_accepted"] == 3 and wrong["false_accept_rate"] == 1.0
    rows = named(await asked(client, "/v1/usage?by=purpose"), "purpose")
    assert one["overhead_usd"] == pytest.approx(rows["audit",]["cost_usd"])
    assert rows["audit",]["requests"] == 3
    largest = one["largest"]
    assert isinstance(largest, dict)
    gained = largest["instead_usd"] - largest["spent_usd"]
    assert largest["saved_usd"] == pytest.approx(gained - rows["audit",]["cost_usd"])
    assert largest["saved_usd"] < 0, "each answer was asked of expert too"


async def test_the_strong_model_of_a_promise_is_the_largest(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY + "quality: {strong: core}\n")
    (policy,) = {id(policy): policy for policy in client.gateway.policies.values()}.values()
    assert [(rival.name, rival.is_largest) for rival in policy.rivals] == [("core", True), ("expert", False)]


async def test_a_policy_with_one_model_has_nothing_to_compare(serve: Serve) -> None:
    client = await serve(MODELS, default="policy: default\nroutes: [{name: a, answer: {model: core}}]\n")
    await client.chat("easy", model="default")
    assert (await asked(client, "/v1/usage/savings"))["data"] == []


async def test_a_key_sees_its_own(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    database, keys = client.runtime.database, client.runtime.keys
    assert database is not None and keys is not None
    tokens = {name: (await create_key(database, name))[1] for name in ("app", "batch")}
    await keys.refresh()
    for name, count in (("app", 2), ("batch", 1)):
        for _ in range(count):
            await client.chat("easy", headers={"authorization": f"Bearer {tokens[name]}"})
    own = await asked(client, "/v1/usage?by=key", tokens["batch"])
    assert named(own, "key").keys() == {("batch",)} and "idle" not in own
    (saved,) = named(await asked(client, "/v1/usage/savings", tokens["app"]), "policy").values()
    assert saved["requests"] == 2
    assert (await client.call("GET", "/v1/usage")).status == 401


@pytest.mark.parametrize(
    ("query", "param"), [("by=user", "by"), ("since=soon", "since"), ("until=2026-99-01", "until")]
)
async def test_nonsense_is_refused(serve: Serve, query: str, param: str) -> None:
    client = await serve(MODELS)
    response = await client.call("GET", f"/v1/usage?{query}")
    assert (response.status, response.error["param"]) == (400, param)


async def test_metrics_of_money_and_energy(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.chat("easy")
    assert client.runtime.journal is not None
    await client.runtime.journal.flush()
    series = dict(re.findall(r"^(gateway_\S+) (\S+)$", (await client.call("GET", "/metrics")).body.decode(), re.M))
    cost = reply.gateway["cost_usd"]
    assert float(series['gateway_policy_cost_usd_total{policy="default"}']) == pytest.approx(cost)
    assert float(series['gateway_key_cost_usd_total{key=""}']) == pytest.approx(cost)
    assert float(series['gateway_energy_joules_total{model="core",source="modelled"}']) == 3.0
    saved = float(series['gateway_saved_usd_total{baseline="largest"}'])
    assert saved == pytest.approx(9 * cost), "expert costs ten times as much"
    assert float(series['gateway_saved_usd_total{baseline="best_single"}']) == saved


def test_keys_without_end_make_no_series_without_end() -> None:
    metrics, ledger = SpendingMetrics(), Ledger()
    for number in range(MOST_KEYS + 50):
        where = (0, f"k{number}", "p", "r", "m", "core", "answer")
        ledger.usage[where] = UsageSums(calls=1, cost_usd=1.0)
    metrics.take(ledger)
    metrics.take(ledger)
    family = next(family for family in metrics.collect() if family.name == "gateway_key_cost_usd")
    values = {sample.labels["key"]: sample.value for sample in family.samples}
    assert len(values) == MOST_KEYS + 1 and values["other"] == 100.0 and values["k0"] == 2.0
    assert sum(values.values()) == 2 * (MOST_KEYS + 50)
