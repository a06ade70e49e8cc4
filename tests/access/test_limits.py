"""What keys may do, through the whole application."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from gateway.access.account import Window
from gateway.access.keys import Wanted, change_key, create_key, revoke_key, rotate_key
from gateway.access.ledger import Ledger
from gateway.access.limits import Limits, read_limits
from gateway.errors import InvalidRequest
from gateway.responders.slots import Slots
from gateway.store.database import Database
from gateway.trace import RequestTrace, Spend, Usage
from tests.asgi import Client
from tests.conftest import Serve

USAGE = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
MODELS = f"""models:
  free: {{engine: scripted, replies: [{{text: bad, usage: {USAGE}}}]}}
  dear: {{engine: scripted, replies: [{{text: good, usage: {USAGE}}}], price: {{output_usd_per_mtok: 1000}}}}
"""
SLOW = MODELS.replace("text: bad,", "text: bad, first_token_ms: 200,")
POLICY = """policy: default
serves: [auto]
routes: [{name: all, answer: {cascade: [{model: free, checks: [{regex: good}]}, {model: dear}]}}]
"""
OTHER = "policy: other\nroutes: [{name: all, answer: {model: free}}]\n"
PRICED = MODELS.replace("models:\n  free: {", "models:\n  free: {price: {input_usd_per_mtok: 0}, ")


async def with_key(client: Client, name: str = "app", **wanted: Any) -> dict[str, str]:
    """The headers of a new key."""
    runtime = client.runtime
    assert runtime.database is not None and runtime.keys is not None
    _, token = await create_key(runtime.database, name, Wanted(**wanted))
    await runtime.keys.refresh()
    return {"authorization": f"Bearer {token}"}


async def statuses(client: Client, count: int, headers: dict[str, str], **body: Any) -> Counter[int]:
    replies = await asyncio.gather(*(client.chat(headers=headers, **body) for _ in range(count)))
    return Counter(reply.status for reply in replies)


# --- how often, how much at once


async def test_of_fifty_clients_exactly_as_many_are_let_in_as_may_be(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    headers = await with_key(client, limits={"requests_per_minute": 20})
    assert await statuses(client, 50, headers) == {200: 20, 429: 30}
    refused = await client.chat(headers=headers)
    assert (refused.status, refused.error["code"], refused.error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert refused.error["message"] == "this key may ask 20 times a minute"
    assert 50 < int(refused.headers["retry-after"]) <= 60
    assert int(refused.headers["retry-after-ms"]) <= 60_000
    assert (await client.chat(headers=await with_key(client, "another"))).status == 200, "others are not held up"


async def test_what_is_left_is_told(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    headers = await with_key(client, limits={"requests_per_minute": 5, "tokens_per_minute": 1000})
    told = [(await client.chat(headers=headers, max_tokens=20)).headers for _ in range(2)]
    assert [one["x-ratelimit-remaining-requests"] for one in told] == ["4", "3"]
    assert told[0]["x-ratelimit-limit-tokens"] == "1000"
    assert int(told[1]["x-ratelimit-remaining-tokens"]) < int(told[0]["x-ratelimit-remaining-tokens"]) < 1000
    assert told[0]["x-ratelimit-reset-requests"].endswith("s")
    streamed = await client.chat(headers=headers, stream=True)
    assert streamed.headers["x-ratelimit-remaining-requests"] == "2"


@pytest.mark.parametrize("stream", [False, True])
async def test_so_many_are_open_at_once(serve: Serve, stream: bool) -> None:
    slow = "models: {core: {engine: scripted, replies: [{text: 'a b', first_token_ms: 300}]}}"
    client = await serve(slow, default="policy: default\nserves: [auto]\nroutes: [{name: a, answer: {model: core}}]")
    headers = await with_key(client, limits={"concurrent": 3})
    assert await statuses(client, 10, headers, stream=stream) == {200: 3, 429: 7}
    assert (await client.chat(headers=headers, stream=stream)).status == 200, "their places are free again"


async def test_tokens_of_a_minute_are_held_before_and_booked_after(serve: Serve) -> None:
    client = await serve(SLOW, default=OTHER.replace("other", "default"))
    headers = await with_key(client, limits={"tokens_per_minute": 200})
    body = {"model": "default", "max_tokens": 80}
    found = await statuses(client, 10, headers, **body)
    assert found == {200: 2, 429: 8}, "two may come to 80 and some each, before any has answered"
    assert await statuses(client, 1, headers, **body) == {200: 1}, "they used 20 each"
    large = await client.chat(headers=headers, model="default", max_tokens=500)
    assert large.status == 429 and large.error["type"] == "tokens"
    assert "may use 200 tokens a minute, and this request may come to 5" in large.error["message"]


async def test_a_refused_request_counts_for_nothing(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    headers = await with_key(client, limits={"requests_per_minute": 2, "tokens_per_minute": 100})
    assert await statuses(client, 5, headers, max_tokens=5000) == {429: 5}
    assert await statuses(client, 2, headers, max_tokens=20) == {200: 2}


# --- budgets


async def test_a_budget_is_kept_however_many_ask_at_once(serve: Serve) -> None:
    client = await serve(PRICED, default=POLICY)
    headers = await with_key(client, limits={"usd_per_day": 0.105})  # an answer of ten tokens costs a cent
    replies = await asyncio.gather(*(client.chat(headers=headers, max_tokens=10) for _ in range(50)))
    texts = Counter(reply.text for reply in replies)
    assert texts == {"good": 10, "bad": 40}, "the dear one answers ten times; the rest is the best draft there is"
    account = account_of(client)
    assert account.spent(ledger_of(client).today()).usd == pytest.approx(0.1)
    assert account.held_usd == pytest.approx(0)


async def test_a_spent_budget_refuses_until_the_next_day(serve: Serve) -> None:
    client = await serve(PRICED, default=POLICY)
    headers = await with_key(client, limits={"usd_per_day": 0.01})
    assert (await client.chat(headers=headers, max_tokens=10)).text == "good"
    refused = await client.chat(headers=headers, max_tokens=10)
    assert (refused.status, refused.error["code"], refused.error["type"]) == (429,) + ("insufficient_quota",) * 2
    assert 0 < int(refused.headers["retry-after"]) <= 86_400 and refused.headers["x-should-retry"] == "false"
    assert (await client.chat(model="dear", headers=headers)).status == 429


async def test_over_budget_what_is_free_may_still_answer(serve: Serve) -> None:
    client = await serve(PRICED, default=POLICY)
    headers = await with_key(client, limits={"usd_per_day": 0.01, "over_budget": "free"})
    assert (await client.chat(headers=headers, max_tokens=10)).text == "good"
    reply = await client.chat(headers=headers, max_tokens=10)
    assert (reply.status, reply.text, reply.gateway["path"]) == (200, "bad", "free!regex,dear!budget")
    assert (await client.chat(model="dear", headers=headers)).status == 429


async def test_a_rule_may_read_what_is_left(serve: Serve) -> None:
    policy = """policy: default
serves: [auto]
routes:
  - {name: thrifty, when: {budget_left: {below: 0.015}}, answer: {model: free}}
  - {name: rest, answer: {model: dear}}
"""
    client = await serve(PRICED, default=policy)
    headers = await with_key(client, limits={"usd_per_month": 0.02, "over_budget": "free"})
    routes = [(await client.chat(headers=headers, max_tokens=10)).gateway["route"] for _ in range(3)]
    assert routes == ["rest", "thrifty", "thrifty"]


async def test_under_a_budget_a_model_of_unknown_price_is_not_used(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    headers = await with_key(client, limits={"usd_per_day": 1})
    reply = await client.chat(model="free", headers=headers)
    assert (reply.status, reply.error["code"]) == (402, "max_cost_exceeded")
    assert "'free' has no known price" in reply.error["message"]


async def test_tokens_of_a_day(serve: Serve) -> None:
    client = await serve(MODELS, default=OTHER.replace("other", "default"))
    headers = await with_key(client, limits={"tokens_per_day": 100})
    assert (await client.chat(model="default", headers=headers, max_tokens=60)).status == 200
    refused = await client.chat(model="default", headers=headers, max_tokens=75)
    assert refused.error["code"] == "insufficient_quota" and "100 tokens a day" in refused.error["message"]


async def test_what_was_spent_outlives_a_restart_and_other_processes_count(database: Database) -> None:
    key, _ = await create_key(database, "app", Wanted(limits={"usd_per_day": 1}))
    here, there = Ledger(database, flush_s=60), Ledger(database, flush_s=60)
    await here.start()
    await there.start()
    for ledger in (here, there):
        entry = await ledger.enter(key, lambda _: 0)
        entry.end(spent(0.25))
        assert await ledger.flush()
    today = there.today()
    assert there.account(key).spent(today).usd == pytest.approx(0.5)
    await here.close()
    await there.close()
    again = Ledger(database, flush_s=60)
    await again.start()
    assert again.account(key).spent(today).usd == pytest.approx(0.5)
    assert again.account(key).spent(today[:7]).requests == 2
    await again.close()


async def test_days_and_months_end_by_the_clock(database: Database) -> None:
    now = [1_769_903_999.0]  # 2026-01-31 23:59:59
    key, _ = await create_key(database, "app", Wanted(limits={"usd_per_day": 1, "usd_per_month": 1.5}))
    ledger = Ledger(database, flush_s=60, clock=lambda: now[0])
    await ledger.start()
    (await ledger.enter(key, lambda _: 0)).end(spent(1.0))
    assert ledger.account(key).usd_left(key.limits, ledger.today()) == 0
    now[0] += 2
    assert ledger.today() == "2026-02-01"
    assert ledger.account(key).usd_left(key.limits, ledger.today()) == pytest.approx(1.0)
    await ledger.close()


def spent(usd: float) -> RequestTrace:
    trace = RequestTrace("auto")
    with trace.span("model", "dear") as span:
        span.spend = Spend("dear", Usage(1, 1), usd, 0.1)
    return trace


def ledger_of(client: Client) -> Ledger:
    assert client.runtime.ledger is not None
    return client.runtime.ledger


def account_of(client: Client, name: str = "app") -> Any:
    assert client.runtime.keys is not None
    key = next(one for one in client.runtime.keys._snapshot.active.values() if one.name == name)
    return ledger_of(client).account(key)


# --- names


async def test_a_key_sees_and_asks_for_what_it_is_allowed(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY, other=OTHER)
    headers = await with_key(client, limits={"allow": ["auto", "fr*"]})
    for path, names in (("/v1/models", "id"), ("/api/tags", "name"), ("/api/v0/models", "id")):
        listed = (await client.call("GET", path, headers=headers)).json
        found = {one[names].removesuffix(":latest") for one in listed.get("data") or listed["models"]}
        assert found == {"auto", "free"}, path
    assert (await client.chat(headers=headers)).status == 200, "the policy may ask the dear one"
    assert (await client.chat(model="free", headers=headers)).status == 200
    for name in ("dear", "other", "default"):
        refused = await client.chat(model=name, headers=headers)
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        assert "there are: auto, free" in refused.error["message"]
    named = await client.chat(headers={**headers, "x-gateway-policy": "other"})
    assert (named.status, named.error["param"]) == (400, "x-gateway-policy")
    embedded = await client.call("POST", "/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": "a"}, headers)
    assert embedded.status == 404
    explained = await client.call("POST", "/v1/route/explain", {"model": "other", "messages": []}, headers)
    assert explained.status in (400, 404)


async def test_a_policys_name_allows_its_aliases(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY, other=OTHER)
    headers = await with_key(client, limits={"allow": ["default"]})
    assert (await client.chat(headers=headers)).status == 200


# --- the life of a key


async def test_a_key_ends(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    headers = await with_key(client, expires=1.0)
    assert (await client.chat(headers=headers)).error["message"] == "the API key is wrong, revoked or expired"
    headers = await with_key(client, "later", expires=2.0**40)
    assert (await client.chat(headers=headers)).status == 200


async def test_a_rotated_key_keeps_its_limits_and_both_tokens_for_a_while(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    database, keys = client.runtime.database, client.runtime.keys
    assert database is not None and keys is not None
    old = await with_key(client, limits={"requests_per_minute": 3})
    _, token = await rotate_key(database, "app", 60)
    await keys.refresh()
    new = {"authorization": f"Bearer {token}"}
    assert [(await client.chat(headers=one)).status for one in (old, new, old, new)] == [200, 200, 200, 429]
    await rotate_key(database, "app")
    await keys.refresh()
    assert [(await client.chat(headers=one)).status for one in (old, new)] == [401, 401]


async def test_a_changed_limit_counts_at_the_next_request(serve: Serve) -> None:
    client = await serve(PRICED, default=POLICY)
    database, keys = client.runtime.database, client.runtime.keys
    assert database is not None and keys is not None
    headers = await with_key(client, limits={"requests_per_minute": 1, "usd_per_day": 1})
    assert await statuses(client, 2, headers) == {200: 1, 429: 1}
    changed = await change_key(database, "app", Wanted(limits={"requests_per_minute": None}))
    await keys.refresh()
    assert changed.limits == Limits(usd_per_day=1), "what was not named stays"
    assert await statuses(client, 3, headers) == {200: 3}
    await revoke_key(database, "app")
    await keys.refresh()
    assert (await client.chat(headers=headers)).status == 401


@pytest.mark.parametrize(
    "said", [{"rpm": 1}, {"requests_per_minute": 0}, {"usd_per_day": -1}, {"usd_per_day": float("inf")}, {"allow": "a"}]
)
def test_limits_that_are_none_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_limits(said)
    assert caught.value.param == next(iter(said))


# --- tenants


async def test_keys_of_one_tenant_share_its_shards(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    one, two = [await with_key(client, name, tenant="acme") for name in ("one", "two")]
    stranger = await with_key(client, "stranger")
    shard = {"kind": "content", "fact": "The office opens at nine."}
    made = await client.call("POST", "/v1/shards", shard, one)
    assert made.status == 201, made.json
    assert (await client.call("GET", f"/v1/shards/{made.json['id']}", headers=two)).status == 200
    assert (await client.call("GET", f"/v1/shards/{made.json['id']}", headers=stranger)).status == 404


async def test_a_trace_says_whose_it_is(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.chat(headers=await with_key(client, tenant="acme"))
    assert client.runtime.journal is not None
    row = await client.runtime.journal.find(reply.headers["x-gateway-trace"])
    assert row is not None and (row.key, row.tenant) == ("app", "acme")


# --- over HTTP


async def test_an_admin_looks_after_keys(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    admin = await with_key(client, "root", is_admin=True)
    said = {"name": "team", "tenant": "acme", "limits": {"requests_per_minute": 1}}
    made = await client.call("POST", "/v1/admin/keys", said, admin)
    assert made.status == 200 and made.json["limits"] == {"requests_per_minute": 1}
    own = {"authorization": f"Bearer {made.json['key']}"}
    assert await statuses(client, 2, own) == {200: 1, 429: 1}, "it counts at once"
    told = (await client.call("GET", "/v1/key", headers=own)).json
    assert told["used"]["minute"]["requests"] == 1 and told["used"]["day"]["requests"] == 1
    assert (await client.call("GET", "/v1/admin/keys", headers=own)).error["type"] == "permission_error"
    changed = await client.call("PATCH", "/v1/admin/keys/team", {"limits": {"requests_per_minute": None}}, admin)
    assert changed.json["limits"] == {}
    rotated = (await client.call("POST", "/v1/admin/keys/team/rotate", {}, admin)).json["key"]
    assert (await client.chat(headers=own)).status == 401
    assert (await client.chat(headers={"authorization": f"Bearer {rotated}"})).status == 200
    names = [one["name"] for one in (await client.call("GET", "/v1/admin/keys", headers=admin)).json["data"]]
    assert names == ["root", "team"]
    assert (await client.call("DELETE", "/v1/admin/keys/team", headers=admin)).json["revoked"] is not None
    assert (await client.chat(headers={"authorization": f"Bearer {rotated}"})).status == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a", "limit": {}}, "limit"),
        ({"name": "a", "limits": []}, "limits"),
        ({"name": "a", "limits": {"rpm": 3}}, "rpm"),
        ({"name": "a", "tenant": 3}, "tenant"),
        ({"name": "a", "tenant": " x"}, "tenant"),
        ({"name": "a", "admin": "yes"}, "admin"),
        ({"name": "a", "expires": True}, "expires"),
    ],
)
async def test_keys_at_fault_are_refused(serve: Serve, body: dict[str, Any], param: str) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.call("POST", "/v1/admin/keys", body)
    assert (reply.status, reply.error["param"]) == (400, param)


# --- the queue


async def test_who_has_a_higher_priority_waits_less(serve: Serve) -> None:
    slow = "models: {core: {engine: scripted, replies: [{text: a, first_token_ms: 50}]}}"
    client = await serve(slow, default="policy: default\nserves: [auto]\nroutes: [{name: a, answer: {model: core}}]")
    client.runtime.admit(1, 10, 30)
    low, high = [await with_key(client, name, limits={"priority": name}) for name in ("low", "high")]
    order: list[str] = []

    async def ask(name: str, headers: dict[str, str]) -> None:
        assert (await client.chat(headers=headers)).status == 200
        order.append(name)

    waiting = [asyncio.create_task(ask("first", low))]
    await until_open(client, 1)
    for name, headers in (("low", low), ("low", low), ("high", high), ("high", high)):
        waiting.append(asyncio.create_task(ask(name, headers)))
    await asyncio.gather(*waiting)
    assert order == ["first", "high", "high", "low", "low"]


async def test_a_full_queue_sheds_the_lowest_priority(serve: Serve) -> None:
    slow = "models: {core: {engine: scripted, replies: [{text: a, first_token_ms: 100}]}}"
    client = await serve(slow, default="policy: default\nserves: [auto]\nroutes: [{name: a, answer: {model: core}}]")
    client.runtime.admit(1, 1, 30)
    low, high = [await with_key(client, name, limits={"priority": name}) for name in ("low", "high")]
    first = asyncio.create_task(client.chat(headers=low))
    await until_open(client, 1)
    queued = asyncio.create_task(client.chat(headers=low))
    while not client.runtime.gate.waiting:
        await asyncio.sleep(0)
    second = await client.chat(headers=low)
    assert (second.status, second.error["code"]) == (429, "overloaded") and int(second.headers["retry-after"]) >= 1
    favoured = asyncio.create_task(client.chat(headers=high))
    assert (await queued).error[
        "message"
    ] == "'the gateway' is busy, and others that wait for it have a higher priority"
    assert [(await one).status for one in (first, favoured)] == [200, 200]
    assert b"gateway_requests_turned_away 2.0" in (await client.call("GET", "/metrics")).body


async def until_open(client: Client, count: int) -> None:
    while client.runtime.gate.taken_now < count:
        await asyncio.sleep(0)


async def test_a_place_given_to_one_who_just_left_goes_to_the_next() -> None:
    slots, done = Slots(1, 5), list[str]()

    async def use(name: str) -> None:
        async with slots.taken(None, "it"):
            done.append(name)

    async with slots.taken(None, "it"):
        leaving, staying = asyncio.create_task(use("leaving")), asyncio.create_task(use("staying"))
        await asyncio.sleep(0)
    leaving.cancel()  # its place has been given, and it has not woken up yet
    await asyncio.wait([leaving, staying])
    assert done == ["staying"] and slots.taken_now == slots.waiting == 0


def test_no_minute_has_more_than_it_may() -> None:
    window = Window()
    for at in range(10):
        window.add(float(at), 1)
    assert window.at(59.9) == 10 and window.at(60.0) == 9
    assert window.free_in_s(60.0, 8) == pytest.approx(1.0)
    assert window.free_in_s(60.0, 9) == 0.0
    assert window.free_in_s(60.0, 0) == window.empty_in_s(60.0) == pytest.approx(9.0)
    assert window.empty_in_s(100.0) == 0.0
