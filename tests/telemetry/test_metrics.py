"""What /metrics says of requests and models, and how much of it at most."""

from __future__ import annotations

import re

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway import __version__
from gateway.telemetry.counts import OTHER, Counts, Kept
from gateway.telemetry.histogram import Histogram
from tests.asgi import Client
from tests.conftest import Serve

MODELS = """
models:
  small: {engine: scripted, replies: [{text: 'no'}]}
  large: {engine: scripted, replies: [{text: a longer answer than that, between_ms: 1}]}
  broken: {engine: scripted, replies: [{error: {status: 529, message: broken}}]}
"""
ESCALATES = """
policy: default
routes:
  - name: hard
    answer: {cascade: [{model: small, checks: [{length: {min_chars: 5}}]}, {model: large}]}
"""

Series = dict[str, float]


async def samples(client: Client) -> dict[str, Series]:
    """By name: value by labels, as they stand in the text."""
    text = (await client.call("GET", "/metrics")).body.decode()
    found: dict[str, Series] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def test_what_became_of_requests_models_and_checks_is_counted(serve: Serve) -> None:
    client = await serve(MODELS, default=ESCALATES)
    await client.chat(stream=True)
    await client.chat(stream=True)
    await client.chat(model="broken")
    found = await samples(client)
    assert found["gateway_escalations_total"] == {"policy=default,route=hard": 2}
    assert found["gateway_check_failures_total"] == {"check=length,tier=small": 2}
    assert found["gateway_model_errors_total"] == {"kind=http_529,model=broken": 1}
    assert found["gateway_first_token_seconds_count"] == {
        "model=large,operation=chat": 2,
        "model=small,operation=chat": 2,
    }
    assert found["gateway_inter_token_seconds_count"]["model=large,operation=chat"] == 2
    assert 0.001 < found["gateway_inter_token_seconds_sum"]["model=large,operation=chat"] / 2 < 1
    assert found["gateway_model_seconds_count"]["model=large,operation=chat"] == 2
    assert found["gateway_tokens_total"]["direction=output,model=large"] > 2
    assert list(found["gateway_build_info"].values()) == [1] and f"version={__version__}" in str(found)
    assert found["gateway_journal_waiting"][""] in (0, 1, 2, 3) and found["gateway_journal_lag_seconds"][""] >= 0


async def test_first_answers_that_do_are_no_escalations(serve: Serve) -> None:
    client = await serve(MODELS, default=ESCALATES)
    await client.chat(model="large")
    found = await samples(client)
    assert "gateway_escalations_total" not in found and "gateway_check_failures_total" not in found
    assert "gateway_first_token_seconds_count" not in found, "it was not streamed"


async def test_a_call_that_nobody_waits_for_has_neither_ended_well_nor_failed(serve: Serve) -> None:
    client = await serve(MODELS.replace("between_ms: 1}", "between_ms: 60000}"), default=ESCALATES)
    call = client.start_chat(model="large", stream=True)
    await call.wrote.wait()
    call.leave()
    await call.done()
    found = await samples(client)
    assert found["gateway_requests_total"] == {"model=,policy=direct,route=large,status=499": 1}
    assert "gateway_model_seconds_count" not in found and "gateway_model_errors_total" not in found
    assert found["gateway_tokens_total"]["direction=input,model=large"] > 0, "it has cost something all the same"


async def test_openmetrics_is_for_those_who_ask_for_it(serve: Serve) -> None:
    client = await serve(MODELS, default=ESCALATES)
    await client.chat()
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    reply = await client.call("GET", "/metrics", headers={"accept": accept})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name for family in openmetrics(reply.body.decode())}
    assert {"gateway_requests", "gateway_request_seconds", "gateway_build_info"} <= families
    plain = await client.call("GET", "/metrics")
    assert plain.headers["content-type"].startswith("text/plain")


async def test_nothing_that_a_client_makes_up_becomes_a_label(serve: Serve) -> None:
    client = await serve(MODELS, default=ESCALATES)
    for number in range(20):
        made_up = f"made-up-{number}"
        headers = {"x-request-id": made_up, "x-gateway-session": made_up, "user-agent": made_up}
        await client.chat(made_up, model=made_up, headers=headers)
        await client.chat(made_up, headers={**headers, "x-gateway-policy": made_up})
        await client.chat(made_up, user=made_up, metadata={"a": made_up}, headers=headers)
    text = (await client.call("GET", "/metrics")).body.decode()
    assert "made-up" not in text
    assert len(re.findall(r"^gateway_requests_total\{", text, re.MULTILINE)) == 3


def test_past_so_many_labels_all_others_count_together() -> None:
    counts = Counts(most=3)
    for number in range(10):
        counts.add((str(number), "x"))
    counts.add(("0", "x"))
    assert counts == {("0", "x"): 2, ("1", "x"): 1, ("2", "x"): 1, (OTHER, OTHER): 7}
    kept = Kept(lambda: Histogram((1.0,)), most=2)
    for number in range(5):
        kept[(str(number),)].add(0.5)
    assert {labels: sum(histogram.counts) for labels, histogram in kept.items()} == {("0",): 1, ("1",): 1, (OTHER,): 3}
