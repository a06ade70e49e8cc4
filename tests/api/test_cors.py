"""Pages in a browser: who may ask, and what the browser is told, before and after."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.api import cors, reply
from gateway.live import Edge
from tests.api.test_door import with_key
from tests.asgi import Client, Response
from tests.conftest import SHARED, Serve
from tests.upstream import SINGLE

MODELS = """
models:
  m1: {engine: scripted, replies: [{when: {contains: cut}, text: one two three, cut_after: 1}, {text: hi}]}
"""
APP = "https://app.example.org"
LOCAL = "http://localhost:3000"


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(MODELS, default=SINGLE)


async def preflight(client: Client, origin: str, path: str = "/v1/chat/completions", **headers: str) -> Response:
    asked = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.call(
        "OPTIONS", path, None, {"origin": origin, "access-control-request-method": "POST", **asked}
    )


@SHARED
@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "https://localhost",
        "http://127.0.0.1:5173",
        "http://127.8.9.1",
        "http://[::1]:8000",
        "http://chat.localhost:3000",
        "http://tauri.localhost",
        "tauri://localhost",
        "capacitor://localhost",
        "app://obsidian.md",
        "vscode-webview://1f5e0c2b-7f6e-4b8a-9d55-1b4e",
        "vscode-file://vscode-app",
    ],
)
async def test_without_keys_pages_and_programs_of_this_machine_may_ask(shared: Serve, origin: str) -> None:
    client = await shared(MODELS, default=SINGLE)
    answer = await client.chat(headers={"origin": origin})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert answer.headers["vary"] == "Origin"
    assert (await preflight(client, origin)).status == 204


@SHARED
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://evillocalhost",
        "https://app",
        "chrome-extension://aaaabbbbccccddddeeeeffffgggghhhh",
        "http://192.168.1.5:3000",
        "http://[::1",
        "localhost",
        "",
    ],
)
async def test_without_keys_nobody_else_may(shared: Serve, origin: str) -> None:
    client = await shared(MODELS, default=SINGLE)
    for answer in (await client.chat(headers={"origin": origin}), await preflight(client, origin)):
        assert answer.status == 403
        assert not {name for name in answer.headers if name.startswith("access-control")}


async def test_with_keys_any_page_may_ask_for_it_needs_a_key(client: Client) -> None:
    token = await with_key(client)
    for origin in (APP, "null", "http://192.168.1.5:3000"):
        answer = await client.chat(headers={"origin": origin, "authorization": f"Bearer {token}"})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_preflight_is_answered_before_any_key_is_asked_for(client: Client) -> None:
    await with_key(client)
    wanted = "authorization,content-type,x-stainless-os,anthropic-version,x-api-key,openai-organization"
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/nothing", "/v1/models/a"):
        answer = await preflight(client, APP, path, access_control_request_headers=wanted)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-headers"] == wanted
        assert {"GET", "POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
        assert answer.headers["access-control-allow-origin"] == APP
        assert answer.headers["access-control-max-age"] == "7200"
        assert "access-control-allow-private-network" not in answer.headers
        assert answer.headers["x-request-id"]


async def test_a_preflight_that_names_no_headers_is_told_the_usual_ones(client: Client) -> None:
    allowed = (await preflight(client, LOCAL)).headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-type", "x-api-key", "anthropic-version", "x-stainless-lang"} <= set(allowed)


async def test_a_page_of_the_web_may_ask_a_machine_of_the_local_network(client: Client) -> None:
    await with_key(client)
    answer = await preflight(client, APP, access_control_request_private_network="true")
    assert answer.headers["access-control-allow-private-network"] == "true"


async def test_errors_and_streams_carry_it_too(client: Client) -> None:
    token = await with_key(client)
    key = {"authorization": f"Bearer {token}"}
    answers = [
        await client.chat(headers={"origin": APP}),
        await client.chat(headers={"origin": APP, **key}, stream=True),
        await client.chat("cut", headers={"origin": APP, **key}, stream=True),
        await client.chat(headers={"origin": APP, **key}, model="nobody"),
        await client.call("GET", "/v1/nothing", None, {"origin": APP, **key}),
        await client.call("GET", "/v1/chat/completions", None, {"origin": APP, **key}),
        await client.call("POST", "/v1/chat/completions", b"{", {"origin": APP, **key}),
        await client.call("GET", "/healthz", None, {"origin": APP}),
    ]
    assert [answer.status for answer in answers] == [401, 200, 200, 404, 404, 405, 400, 200]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == APP
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_every_header_of_ours_may_be_read_by_a_page() -> None:
    ours = set(re.findall(r'b"(x-gateway-[a-z-]+)"', Path(reply.__file__).read_text()))
    assert "x-gateway-cost-usd" in ours
    exposed = set(cors.EXPOSED.decode().split(", "))
    assert ours | {"x-request-id", "retry-after", "retry-after-ms", "openai-processing-ms"} <= exposed


async def test_origins_may_be_named_in_models_yaml(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    client.live.edge = Edge(cors_origins=("https://*.example.org", "http://localhost:*", "chrome-extension://abc"))
    for origin in ("https://app.example.org", "http://localhost:5173", "chrome-extension://abc"):
        assert (await client.chat(headers={"origin": origin})).headers["access-control-allow-origin"] == origin
    for origin in ("https://example.org", "https://evil.example/.example.org", "http://127.0.0.1:3000", "null"):
        assert (await client.chat(headers={"origin": origin})).status == 403
    key = {"authorization": f"Bearer {await with_key(client)}"}
    answer = await client.chat(headers={"origin": "https://elsewhere.example", **key})
    assert answer.status == 200, "a key is needed anyway; but the browser keeps it from the page"
    assert "access-control-allow-origin" not in answer.headers


async def test_all_or_none_may_be_named(client: Client) -> None:
    client.live.edge = Edge(cors_origins=("*",))
    assert (await client.chat(headers={"origin": APP})).headers["access-control-allow-origin"] == APP
    client.live.edge = Edge(cors_origins=())
    assert (await client.chat(headers={"origin": LOCAL})).status == 403


async def test_a_tricky_origin_or_list_of_headers_is_not_echoed(client: Client) -> None:
    token = await with_key(client)
    answer = await client.chat(headers={"origin": "http://a\tb", "authorization": f"Bearer {token}"})
    assert "access-control-allow-origin" not in answer.headers
    answer = await preflight(client, APP, access_control_request_headers="a\tb")
    assert answer.headers["access-control-allow-headers"].startswith("authorization")
