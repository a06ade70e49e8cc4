"""What a proxy says of a request is believed where the proxy is trusted, and where it is shown under a path."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.api.door import Front
from gateway.api.paths import canonical, is_root_path
from gateway.api.proxies import Proxies
from gateway.live import Edge
from tests.api.test_door import with_key
from tests.asgi import Client
from tests.conftest import Serve
from tests.upstream import SINGLE

MODELS = "models: {m1: {engine: scripted, replies: [{text: hi}]}}"
PROXIES = Proxies(("10.0.0.0/8", "127.0.0.1", "fd00::/8"))


@pytest.mark.parametrize(
    ("headers", "client", "scheme", "host"),
    [
        ({"x-forwarded-for": "203.0.113.9"}, "203.0.113.9", "http", "inside"),
        ({"x-forwarded-for": "1.1.1.1, 203.0.113.9, 10.1.2.3"}, "203.0.113.9", "http", "inside"),
        ({"x-forwarded-for": "203.0.113.9:4711"}, "203.0.113.9", "http", "inside"),
        ({"x-forwarded-for": "[2001:db8::1]:99"}, "2001:db8::1", "http", "inside"),
        ({"x-forwarded-for": "::ffff:203.0.113.9"}, "203.0.113.9", "http", "inside"),
        ({"x-forwarded-for": "10.9.9.9"}, "10.9.9.9", "http", "inside"),
        ({"x-forwarded-for": "1.1.1.1, unknown"}, None, "http", "inside"),
        ({"x-real-ip": "203.0.113.9"}, "203.0.113.9", "http", "inside"),
        (
            {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "x-forwarded-host": "ai.example"},
            "203.0.113.9",
            "https",
            "ai.example",
        ),
        ({"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "gopher"}, "203.0.113.9", "http", "inside"),
        (
            {"forwarded": 'for="[2001:db8::1]:99";proto=https;host=ai.example, for=10.0.0.7'},
            "2001:db8::1",
            "https",
            "ai.example",
        ),
        ({"via": "1.1 proxy", "x-forwarded-host": "ai.example"}, None, "http", "ai.example"),
        ({"forwarded": "for=6.6.6.6", "x-forwarded-for": "203.0.113.9"}, "203.0.113.9", "http", "inside"),
    ],
)
def test_the_nearest_stranger_is_the_client(
    headers: Mapping[str, str], client: str | None, scheme: str, host: str
) -> None:
    scope = {"client": ("10.0.0.1", 1), "scheme": "http"}
    said = {"host": "inside", **headers}
    PROXIES.note(scope, said)
    assert scope["client"] == (client and (client, 0))
    assert (scope["scheme"], said["host"]) == (scheme, host)


def test_who_is_trusted() -> None:
    assert [peer for peer in ("10.1.1.1", "127.0.0.1", "fd12::1", "::ffff:10.0.0.1") if PROXIES.trust(peer)] == [
        "10.1.1.1",
        "127.0.0.1",
        "fd12::1",
        "::ffff:10.0.0.1",
    ]
    assert not any(map(PROXIES.trust, ("11.0.0.1", "127.0.0.2", "::1", None, "testclient")))
    assert Proxies(("unix",)).trust(None)


async def test_a_proxy_that_is_not_trusted_lets_nobody_in_without_keys(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    for name in ("x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded"):
        reply = await client.chat(headers={name: "127.0.0.1"})
        assert (reply.status, reply.error["type"]) == (403, "permission_error")


async def test_a_trusted_proxy_without_keys_lets_in_who_is_on_this_machine(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    client.live.edge = Edge(trusted_proxies=("127.0.0.1",))
    assert (await client.chat(headers={"x-forwarded-for": "127.0.0.1"})).status == 200
    assert (await client.chat(headers={"x-forwarded-for": "203.0.113.9"})).status == 403
    assert (await client.chat(headers={"x-forwarded-for": "unknown"})).status == 403
    assert (await client.chat(headers={"x-forwarded-host": "localhost"})).status == 403
    assert (await client.chat(headers={"x-forwarded-for": "127.0.0.1", "x-forwarded-host": "ai.example"})).status == 403


async def test_with_keys_a_stranger_may_say_what_it_likes(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    token = await with_key(client)
    reply = await client.chat(headers={"x-forwarded-for": "garbage", "authorization": f"Bearer {token}"})
    assert reply.status == 200


@pytest.mark.parametrize("prefix", ["/llm", "llm/", "/tools/llm"])
async def test_a_prefix_may_have_been_taken_off_or_not(serve: Serve, prefix: str) -> None:
    inner = await serve(MODELS, default=SINGLE)
    client = Client(inner.live, inner.runtime, front=Front(root_path=prefix))
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    for before in ("", f"/{prefix.strip('/')}", f"//{prefix.strip('/')}/"):
        for path in ("/v1/chat/completions", "/chat/completions", "/v1/chat/completions/"):
            assert (await client.call("POST", before + path, body)).status == 200
        assert (await client.call("GET", f"{before}/healthz")).status == 200
        assert (await client.call("GET", f"{before}/v1/models/m1")).json["id"] == "m1"
        missing = await client.call("GET", f"{before}/v1/nothing")
        assert (missing.status, missing.error["message"]) == (404, "there is no GET /v1/nothing")
        assert (await client.call("PUT", f"{before}/v1/models")).status == 405
        refused = await client.call("POST", f"{before}/v1/messages", b"{")
        assert set(refused.json) != {"type"} and refused.status in (400, 404)
    assert (await client.call("GET", "/llms/v1/models")).status == 404


async def test_the_key_is_asked_for_below_a_prefix_too(serve: Serve) -> None:
    inner = await serve(MODELS, default=SINGLE)
    await with_key(inner)
    client = Client(inner.live, inner.runtime, front=Front(root_path="/llm"))
    for path in ("/llm/v1/models", "/llm/llm/v1/models", "/llm/docs"):
        assert (await client.call("GET", path)).status == 401
    assert (await client.call("GET", "/llm/healthz")).status == 200


def test_a_prefix_stands_only_at_the_front() -> None:
    assert canonical("/llm/v1/models", "llm") == ("/v1/models", None)
    assert canonical("/v1/models/llm", "llm") == ("/v1/models/llm", None)
    assert canonical("/llm", "llm") == ("/", None)
    assert canonical("/llm/openai/deployments/m1/chat/completions", "llm") == ("/v1/chat/completions", "m1")


@pytest.mark.parametrize("path", ["", "/", "/llm", "llm", "/llm/", "/a/b"])
def test_paths_it_can_be_shown_under(path: str) -> None:
    assert is_root_path(path)


@pytest.mark.parametrize("path", ["/v1", "/api", "/chat", "/healthz/x", "/a//b", "/a?b", "/a b"])
def test_paths_that_would_be_taken_for_its_own(path: str) -> None:
    assert not is_root_path(path)


async def test_every_429_and_503_of_ours_says_when_to_come_back(serve: Serve) -> None:
    client = await serve(
        """
        models:
          m1: {engine: openai, base_url: "http://127.0.0.1:9/v1", model: up, api_key: k}
        """,
        default=SINGLE,
    )
    reply = await client.chat()
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    client.live.is_draining = True
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/readyz")):
        reply = await client.call(method, path, {})
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) >= 1
    assert (await client.call("GET", "/healthz")).status == 200
