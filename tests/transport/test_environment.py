"""Where requests go: never through a proxy to this machine."""

import pytest

from gateway.transport.environment import EnvironmentProxies


@pytest.mark.parametrize("host", ["127.0.0.1:5555", "localhost", "[::1]:80", "127.8.8.8"])
def test_loopback_is_never_proxied(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    proxies = EnvironmentProxies()
    assert proxies.find(f"http://{host}/v1") is None
    assert proxies.find("http://models.example/v1") == "http://proxy.example:3128"
