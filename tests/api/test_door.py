"""Who may come in: keys, loopback only without them, CORS; a request id on everything."""

from __future__ import annotations

import pytest

from gateway.access.keys import Wanted, create_key, revoke_key
from gateway.live import Edge
from tests.asgi import Client
from tests.conftest import SHARED, Serve

MODELS = "models: {m1: {engine: scripted, replies: [{text: hi}]}}"
POLICY = """
policy: default
routes:
  - {name: team, when: {key: team-a}, answer: {model: m1}}
  - {name: rest, answer: {model: m1}}
"""


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(MODELS, default=POLICY)


async def with_key(client: Client, name: str = "team-a") -> str:
    assert client.runtime.database is not None and client.runtime.keys is not None
    _, token = await create_key(client.runtime.database, name)
    await client.runtime.keys.refresh()
    return token


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer {}"}, {"Authorization": "bearer {}"}, {"x-api-key": "{}"}, {"api-key": "{}"}]
)
async def test_a_key_is_taken_in_any_of_the_usual_headers(client: Client, headers: dict[str, str]) -> None:
    token = await with_key(client)
    reply = await client.chat(headers={name: value.format(token) for name, value in headers.items()})
    assert reply.status == 200
    assert reply.headers["x-gateway-route"] == "team", "rules see the key's name"


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer ogw_wrong"}, {"authorization": "Basic abc"}, {"x-api-key": ""}]
)
async def test_without_a_right_key_it_is_401_and_the_key_is_not_echoed(client: Client, headers: dict[str, str]) -> None:
    await with_key(client)
    for path in ("/v1/chat/completions", "/v1/models", "/v1/nothing", "/v1/feedback"):
        reply = await client.call("POST", path, {}, headers)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert b"ogw_wrong" not in reply.body
        assert reply.headers["x-request-id"]


async def test_operations_need_no_key(client: Client) -> None:
    await with_key(client)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await client.call("GET", path)).status == 200


async def test_a_revoked_key_is_refused_and_the_server_stays_closed(client: Client) -> None:
    token = await with_key(client)
    assert client.runtime.database is not None and client.runtime.keys is not None
    await revoke_key(client.runtime.database, "team-a")
    await client.runtime.keys.refresh()
    assert (await client.chat(headers={"authorization": f"Bearer {token}"})).status == 401
    assert (await client.chat()).status == 401


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
async def test_loopback_hosts_are_served_without_keys(client: Client, host: str) -> None:
    assert (await client.chat(headers={"host": host})).status == 200


@SHARED
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8080"},
        {"host": "192.168.1.5"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"x-forwarded-for": "203.0.113.9"},
        {"x-forwarded-proto": "https"},
        {"via": "1.1 proxy"},
        {"host": "evil.example@localhost"},
        {"host": "localhost/evil.example"},
        {"origin": "https://evil.example", "content-type": "text/plain"},  # asked without a preflight
        {"host": "127.0.0.1.evil.example"},
    ],
)
async def test_without_keys_other_hosts_and_origins_are_403(shared: Serve, headers: dict[str, str]) -> None:
    client = await shared(MODELS, default=POLICY)
    reply = await client.chat(headers=headers)
    assert reply.status == 403
    assert "keys create" in reply.error["message"]


async def test_with_a_key_any_host_and_origin_may_ask(client: Client) -> None:
    token = await with_key(client)
    reply = await client.chat(
        headers={"host": "ai.example.org", "origin": "https://app.example.org", "authorization": f"Bearer {token}"}
    )
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "x-request-id" in reply.headers["access-control-expose-headers"]


async def test_insecure_serves_everybody(client: Client) -> None:
    open_client = Client(client.live, client.runtime, open_to_all=True)
    assert (await open_client.chat(headers={"host": "192.168.1.5", "origin": "http://192.168.1.5"})).status == 200


async def test_a_preflight_is_answered_before_the_key_is_asked_for(client: Client) -> None:
    await with_key(client)
    headers = {
        "origin": "http://app.example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, x-stainless-os",
    }
    reply = await client.call("OPTIONS", "/v1/chat/completions", None, headers)
    assert reply.status == 204
    assert reply.headers["access-control-allow-headers"] == "authorization, x-stainless-os"


async def test_errors_and_streams_carry_cors_and_request_ids_too(client: Client) -> None:
    origin = {"origin": "http://localhost:3000"}
    for reply in (
        await client.chat(headers=origin, stream=True),
        await client.chat(headers=origin, model="nobody"),
        await client.call("GET", "/v1/nothing", None, origin),
    ):
        assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert reply.headers["x-request-id"]


async def test_rules_never_see_credentials(serve: Serve) -> None:
    policy = "policy: default\nroutes: [{name: a, when: {header: {authorization: 'Bearer x'}}, answer: {model: m1}}]\n"
    client = await serve(MODELS, default=policy)
    reply = await client.chat(headers={"authorization": "Bearer x"})
    assert reply.status == 400, "no route fits: the header is not there for rules"


@pytest.mark.parametrize(
    "path",
    [
        "/chat/completions",
        "/v1/chat/completions/",
        "//v1//chat/completions",
        "/v1/models",
        "//v1/models",
        "/v1/models/",
        "/V1/models",
        "/docs",
        "/openapi.json",
        "/v1/../healthz",
    ],
)
async def test_no_spelling_of_a_path_gets_past_the_key(client: Client, path: str) -> None:
    await with_key(client)
    for method in ("GET", "POST"):
        assert (await client.call(method, path, {"model": "auto"})).status == 401


async def test_a_slash_too_many_does_no_harm(client: Client) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    for path in ("/chat/completions", "/v1/chat/completions/", "//v1/chat/completions"):
        assert (await client.call("POST", path, body)).status == 200
    assert (await client.call("GET", "/v1/models/")).status == 200
    assert (await client.call("GET", "/healthz/")).status == 200


async def test_metrics_may_ask_for_a_key_of_their_own(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    runtime = client.runtime
    client.live.edge = Edge(metrics_key="for-prometheus-only")

    async def status(key: str | None) -> int:
        return (await client.call("GET", "/metrics", headers={"authorization": f"Bearer {key}"} if key else {})).status

    assert [await status(None), await status("wrong"), await status("for-prometheus-only")] == [401, 401, 200]
    assert runtime.database is not None and runtime.keys is not None
    _, team = await create_key(runtime.database, "team")
    _, boss = await create_key(runtime.database, "boss", Wanted(is_admin=True))
    await runtime.keys.refresh()
    assert [await status(None), await status(team), await status(boss)] == [401, 401, 200]
    assert await status("for-prometheus-only") == 200
    reply = await client.call("GET", "/v1/models", headers={"x-api-key": "for-prometheus-only"})
    assert reply.status == 401, "it opens nothing else"
