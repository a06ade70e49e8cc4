"""What our own client leaves to aiohttp: proxies of the environment, names in addresses, upstreams that are odd."""

from __future__ import annotations

import base64

import pytest

from gateway.transport import ConnectFailed, ConnectionCut
from gateway.transport.client import PooledClient
from gateway.transport.environment import EnvironmentProxies
from tests.transport.raw import OK, WAIT_S, answering, upstream

ODD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nodd"


async def get(url: str, client: PooledClient | None = None) -> bytes:
    asking = client or PooledClient()
    try:
        reply = await asking.get(url, {}, connect_s=WAIT_S)
        try:
            return await reply.read(1000)
        finally:
            reply.close()
    finally:
        if client is None:
            await asking.close()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_the_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async with upstream(answering(OK)) as proxy:
        monkeypatch.setenv(name, proxy.url)
        assert await get("http://models.example:81/v1") == b"ok"
    assert proxy.heads[0].startswith(b"GET http://models.example:81/v1 HTTP/1.1\r\nHost: models.example:81\r\n")


async def test_a_proxy_may_be_written_without_a_scheme_and_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(answering(OK)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://"))
        assert await get("http://models.example/v1") == b"ok"
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://me:pw@"))
        assert await get("http://models.example/v1") == b"ok"
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:pw") in proxy.heads[1]


async def test_https_goes_through_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(answering(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(ConnectFailed):  # nothing of the request was sent
            await get("https://models.example/v1")
    assert proxy.heads[0].startswith(b"CONNECT models.example:443 HTTP/1.1\r\n")


@pytest.mark.parametrize("host", ["models.internal", "models.internal:81", "a.internal"])
def test_hosts_of_no_proxy_are_asked_without(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "models.internal,.internal,10.0.0.5:8080")
    proxies = EnvironmentProxies()
    assert proxies.find(f"http://{host}/v1") is None
    assert proxies.find("http://10.0.0.5:8080/v1") is None
    assert proxies.find("http://10.0.0.5:8081/v1") == "http://proxy.example:3128"


def test_a_socks_proxy_for_all_is_not_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    assert EnvironmentProxies().find("http://models.example/v1") is None


async def test_loopback_is_asked_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with upstream(answering(OK)) as server:
        assert await get(server.url) == b"ok"


async def test_a_name_and_password_in_an_address_are_sent() -> None:
    async with upstream(answering(OK)) as server:
        assert await get(server.url.replace("http://", "http://me:pw@")) == b"ok"
    assert b"Authorization: Basic " + base64.b64encode(b"me:pw") in server.heads[0]


async def test_an_odd_upstream_is_left_to_aiohttp_for_a_while() -> None:
    asking = PooledClient()
    async with upstream(answering(ODD, then_close=True)) as server:
        with pytest.raises(ConnectionCut):
            await get(server.url, asking)
        assert [await get(server.url, asking) for _ in range(2)] == [b"odd", b"odd"]
        asking._odd = dict.fromkeys(asking._odd, 0.0)  # as if the time were over
        with pytest.raises(ConnectionCut):
            await get(server.url, asking)
    await asking.close()
    assert [b"Host:" in head for head in server.heads] == [False, True, True, False]  # as each writes it


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"]
)
async def test_an_upstream_that_fails_is_not_odd(said: bytes) -> None:
    asking = PooledClient()
    async with upstream(answering(said, then_close=True)) as server:
        for _ in range(2):
            with pytest.raises(ConnectionCut):
                await get(server.url, asking)
    await asking.close()
    assert not any(b"Host:" in head for head in server.heads)
