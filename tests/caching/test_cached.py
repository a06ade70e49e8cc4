"""Cached answers, through the whole application: which requests are the same, and which answers are kept."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.access.keys import create_key
from gateway.errors import ConfigError
from tests.caching.asking import HELLO, POLICY, USAGE, asked, cached, caching, policy, said, scripted
from tests.conftest import Serve, build_from

CALL = {"tool_calls": [{"name": "look_up", "arguments": {}}]}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
TWO = "{cascade: [{model: core, checks: [{length: {min_words: 3}}]}, {model: other}], cache: true}"


async def test_the_same_request_is_answered_from_the_cache(serve: Serve) -> None:
    client = await cached(serve)
    first, second = await client.chat("hi"), await client.chat("hi")
    assert (said(first), said(second), asked(client)) == ("miss", "hit", 1)
    assert second.text == first.text == "one two"
    assert second.json["usage"] == first.json["usage"] == USAGE
    assert second.json["id"] != first.json["id"]
    assert (second.headers["x-gateway-path"], second.headers["x-gateway-model"]) == ("cache:core", "core")
    assert float(first.headers["x-gateway-cost-usd"]) > 0 == float(second.headers["x-gateway-cost-usd"])
    assert second.headers["age"] == "0" and "age" not in first.headers
    assert (second.gateway["cache"], second.gateway["age"], second.gateway["cost_usd"]) == ("hit", 0, 0.0)
    assert (first.gateway["cache"], "age" in first.gateway) == ("miss", False)


async def test_nothing_is_said_of_a_cache_where_there_is_none(serve: Serve) -> None:
    client = await serve(scripted(HELLO), default=policy("{model: core}"))
    for _ in range(2):
        reply = await client.chat("hi", headers={"cache-control": "only-if-cached"})
        assert reply.status == 200 and said(reply) is None and "cache" not in reply.gateway
    direct = await cached(serve)
    assert [said(await direct.chat("hi", model="core")) for _ in range(2)] == [None, None]
    assert (asked(client), asked(direct)) == (2, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5}, {"top_p": 0.5}, {"n": 2}, {"seed": 1}, {"stop": ["x"]}, {"max_tokens": 9},
        {"response_format": {"type": "json_object"}}, {"logprobs": True}, {"logit_bias": {"1": 2}}, {"top_k": 3},
        {"reasoning_effort": "low"}, {"messages": [{"role": "system", "content": "Be brief."}]},
        {"messages": [{"role": "user", "content": "Hi"}]}, {"vendor_field": 1},
    ],
)  # fmt: skip
async def test_what_shapes_the_answer_makes_another_request(serve: Serve, fields: dict[str, Any]) -> None:
    client = await cached(serve)
    await client.chat("hi")
    assert said(await client.chat("hi", **fields)) == "miss"
    assert said(await client.chat("hi", **fields)) == "hit"


async def test_what_does_not_shape_it_makes_none(serve: Serve) -> None:
    client = await cached(serve)
    await client.chat("hi")
    more = {"metadata": {"a": "b"}, "store": True, "user": "ann", "prompt_cache_key": "k", "safety_identifier": "s"}
    assert said(await client.chat("hi", **more, temperature=None)) == "hit"
    assert said(await client.chat("hi", model="default")) == "hit"
    assert said(await client.chat("hi", messages=[{"content": "hi", "role": "user"}])) == "hit"
    assert said(await client.chat("hi", stream=True, stream_options={"include_usage": True})) == "hit"


async def test_the_order_of_a_schema_is_kept_apart(serve: Serve) -> None:
    """Models write the properties in it."""
    client = await cached(serve)
    seen = []
    for properties in ({"a": {}, "b": {}}, {"b": {}, "a": {}}):
        schema = {"name": "s", "schema": {"type": "object", "properties": properties}}
        reply = await client.chat("hi", response_format={"type": "json_schema", "json_schema": schema})
        seen.append(said(reply))
    assert seen == ["miss", "miss"]


async def test_keys_are_kept_apart(serve: Serve) -> None:
    client = await cached(serve)
    tokens = [(await create_key(client.runtime.database, name))[1] for name in ("one", "other")]
    await client.runtime.keys.refresh()
    one, other = ({"authorization": f"Bearer {token}"} for token in tokens)
    assert [said(await client.chat("hi", headers=who)) for who in (one, one, other, other)] == [
        "miss", "hit", "miss", "hit"
    ]  # fmt: skip


async def test_users_of_a_key_are_kept_apart_where_asked(serve: Serve) -> None:
    client = await cached(serve, options="{per_user: true}")
    users = ("ann", "ann", "bob", None)
    assert [said(await client.chat("hi", user=user)) for user in users] == ["miss", "hit", "miss", "miss"]


@pytest.mark.parametrize(
    ("control", "told"),
    [
        ("no-store", ["bypass", "miss"]),
        ("no-cache", ["bypass", "hit"]),
        ("max-age=0, no-cache", ["bypass", "hit"]),
        ("private", ["miss", "hit"]),
    ],
)
async def test_cache_control_of_a_first_request(serve: Serve, control: str, told: list[str]) -> None:
    client = await cached(serve)
    first = await client.chat("hi", headers={"cache-control": control})
    assert [said(first), said(await client.chat("hi"))] == told


async def test_no_cache_makes_a_newer_answer(serve: Serve) -> None:
    client = await cached(serve, {"text": "old", "times": 1}, {"text": "new"})
    await client.chat("hi")
    assert (await client.chat("hi", headers={"cache-control": "no-store"})).text == "new"
    assert (await client.chat("hi")).text == "old"
    assert (await client.chat("hi", headers={"Cache-Control": "No-Cache"})).text == "new"
    assert (await client.chat("hi")).text == "new"


async def test_max_age_and_ttl(serve: Serve) -> None:
    client = await cached(serve, options="{ttl_s: 100}")
    now = [1000.0]
    client.runtime.answers.clock = lambda: now[0]
    await client.chat("hi")
    now[0] += 50
    aged = await client.chat("hi", headers={"cache-control": "max-age=50"})
    assert (said(aged), aged.headers["age"], aged.gateway["age"]) == ("hit", "50", 50)
    assert said(await client.chat("hi", headers={"cache-control": "max-age=49"})) == "miss"
    now[0] += 100
    assert client.runtime.answers.entries == 1
    assert said(await client.chat("hi")) == "miss"
    assert said(await client.chat("hi", headers={"cache-control": "max-age=soon"})) == "hit"
    now[0] += 1
    assert said(await client.chat("hi", headers={"cache-control": "max-age=soon"})) == "miss"


@pytest.mark.parametrize("stream", [False, True])
async def test_only_if_cached(serve: Serve, stream: bool) -> None:
    client = await cached(serve)
    only = {"cache-control": "only-if-cached"}
    refused = await client.chat("hi", headers=only, stream=stream)
    assert (refused.status, refused.error["code"], said(refused)) == (504, "not_cached", "miss")
    assert refused.headers["x-should-retry"] == "false"
    with_tools = await client.chat("hi", headers=only, tools=[TOOL])
    assert (with_tools.status, said(with_tools), asked(client)) == (504, "bypass", 0)
    await client.chat("hi")
    assert said(await client.chat("hi", headers=only, stream=stream)) == "hit"


async def test_tools_are_left_out_unless_asked_for(serve: Serve) -> None:
    client = await cached(serve, CALL)
    loop = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "4"},
    ]
    for fields in ({"tools": [TOOL]}, {"messages": loop}, {"functions": [TOOL["function"]]}):
        assert [said(await client.chat("hi", **fields)) for _ in range(2)] == ["bypass", "bypass"]
    assert [said(await client.chat("hi")) for _ in range(2)] == ["miss", "miss"], "calls that nobody offered"
    able = await cached(serve, CALL, options="{tools: true}")
    first, second = await able.chat("hi", tools=[TOOL]), await able.chat("hi", tools=[TOOL])
    assert (said(first), said(second)) == ("miss", "hit")
    assert second.json["choices"][0]["message"]["tool_calls"] == first.json["choices"][0]["message"]["tool_calls"]
    streamed = await able.chat("hi", tools=[TOOL], stream=True)
    deltas = [choice for event in streamed.events[:-1] for choice in event["choices"]]
    assert deltas[0]["delta"]["tool_calls"][0]["index"] == 0
    assert [choice["finish_reason"] for choice in deltas] == [None, "tool_calls"]


@pytest.mark.parametrize(
    ("reply", "fields", "second"),
    [
        ({"text": "half", "finish_reason": "length"}, {}, "miss"),
        ({"text": "half", "finish_reason": "length"}, {"max_tokens": 4}, "hit"),
        ({"text": "no", "finish_reason": "content_filter"}, {}, "miss"),
        ({"text": ""}, {}, "miss"),
        ({"error": {"status": 500}}, {}, "miss"),
        ({"text": "a b c d", "cut_after": 2}, {"stream": True}, "miss"),
    ],
)
async def test_what_is_not_whole_is_not_kept(serve: Serve, reply: Any, fields: Any, second: str) -> None:
    client = await cached(serve, reply)
    await client.chat("hi", **fields)
    assert said(await client.chat("hi", **fields)) == second


async def test_an_answer_that_failed_its_checks_is_not_kept(serve: Serve) -> None:
    one = await serve(scripted(HELLO), default=policy("{model: core, checks: [{length: {min_words: 3}}], cache: true}"))
    for _ in range(2):
        reply = await one.chat("hi")
        assert reply.gateway["checks_failed"] and said(reply) == "miss"
    models = scripted(HELLO).replace("models: {", "models: {other: {engine: scripted, replies: [{text: a b c}]}, ")
    both = await serve(models, default=policy(TWO))
    assert [(await both.chat("hi")).headers["x-gateway-path"] for _ in range(2)] == ["core!length,other", "cache:other"]


async def test_an_answer_for_want_of_a_better_one_is_not_kept(serve: Serve) -> None:
    models = scripted({"error": {"status": 503}, "times": 1}, {"text": "a b c"})
    models = models.replace("models: {", "models: {other: {engine: scripted, replies: [{text: made do}]}, ")
    client = await serve(models, default=policy("{cascade: [{model: core}, {model: other}], cache: true}"))
    replies = [await client.chat("hi") for _ in range(3)]
    assert [reply.text for reply in replies] == ["made do", "a b c", "a b c"]
    assert [said(reply) for reply in replies] == ["miss", "miss", "hit"]


async def test_what_little_money_has_bought_is_given_to_nobody_else(serve: Serve) -> None:
    client = await cached(serve)
    limited = {"x-gateway-max-cost-usd": "1"}
    assert [said(await client.chat("hi", headers=limited)) for _ in range(2)] == ["miss", "miss"]
    assert [said(await client.chat("hi")), said(await client.chat("hi", headers=limited))] == ["miss", "hit"]


async def test_a_tier_of_its_own_may_be_cached(serve: Serve) -> None:
    models = scripted(HELLO).replace("models: {", "models: {other: {engine: scripted, replies: [{text: a b c}]}, ")
    tiers = "{cascade: [{model: core, checks: [{length: {min_words: 3}}]}, {model: other, cache: true}]}"
    client = await serve(models, default=policy(tiers))
    paths = [(await client.chat("hi")).headers["x-gateway-path"] for _ in range(2)]
    assert paths == ["core!length,other", "core!length,cache:other"]


async def test_policies_that_learn_and_promise(serve: Serve) -> None:
    models = scripted(HELLO).replace("models: {", "models: {other: {engine: scripted, replies: [{text: a b c}]}, ")
    client = await serve(models, default=policy(TWO, "learn: true\nsticky: true\nquality: {target: 0.9}\n"))
    replies = [await client.chat("hi", user="ann"), await client.chat("hi", user="bob"), await client.chat("ho")]
    assert [said(reply) for reply in replies] == ["miss", "hit", "miss"]
    assert {reply.headers["x-gateway-quality"] for reply in replies} == {"uncertified"}
    rated = await client.call("POST", "/v1/feedback", {"id": replies[1].json["id"], "value": True})
    assert rated.status in (200, 201), rated.body


async def test_the_journal_and_the_metrics_know(serve: Serve) -> None:
    client = await cached(serve)
    replies = [await client.chat("hi"), await client.chat("hi"), await client.chat("hi", tools=[TOOL])]
    journal = client.runtime.journal
    assert journal is not None
    row = await journal.find(replies[1].headers["x-gateway-trace"])
    assert row is not None
    assert (row.path, row.model, row.escalated, row.cost_usd, row.input_tokens) == ("cache:core", "core", False, 0, 0)
    assert '"kind":"cache"' in row.trace and '"cache":"hit"' in row.trace and "one two" not in row.trace
    metrics = (await client.call("GET", "/metrics")).body.decode()
    for what in ("hit", "miss", "bypass"):
        assert f'gateway_cache_requests_total{{cache="{what}",policy="default"}} 1.0' in metrics
    assert "gateway_cache_entries 1.0" in metrics and "gateway_cache_evictions_total 0.0" in metrics
    assert f"gateway_cache_bytes {float(client.runtime.answers.size_bytes)}" in metrics


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("{model: core, cache: {ttl: 3}}", "ttl_s"),
        ("{model: core, cache: {ttl_s: 0}}", "greater than 0"),
        ("{model: core, cache: {semantic: {above: 0.9}}}", "checks"),
        ("{model: core, cache: {semantic: {checks: []}}}", "at least 1"),
        ("{model: core, cache: {semantic: {checks: [jugde]}}}", "judge"),
        ("{model: core, cache: {semantic: {checks: [{logprob: {mean_above: -1}}]}}}", "beforehand"),
        ("{cascade: [{model: core, checks: [not_empty], cache: true}, {model: core}]}", "judged afterwards"),
        ("{cascade: [{model: core, cache: true}], checks: [not_empty]}", "judged afterwards"),
        ("{choose: {among: [{model: core, cache: true}, core]}}", "judged afterwards"),
    ],
)
def test_what_cannot_be_cached_is_said(tmp_path: Any, answer: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, scripted(HELLO), default=policy(answer))
    assert told in str(caught.value) and "default.yaml:2" in str(caught.value)


def test_a_cache_that_is_switched_off_is_none(tmp_path: Any) -> None:
    gateway, _ = build_from(tmp_path, scripted(HELLO), default=caching("false"))
    assert gateway.keeping.is_used is False
    gateway, _ = build_from(tmp_path, scripted(HELLO), default=POLICY)
    assert gateway.keeping.is_used is True
