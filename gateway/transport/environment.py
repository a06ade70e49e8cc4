"""Proxies that the environment names: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

from gateway.transport import is_loopback


class EnvironmentProxies:
    """As the environment was when this was made."""

    def __init__(self) -> None:
        self._proxies = urllib.request.getproxies()

    def find(self, url: str) -> str | None:
        """The address of the proxy that is to be asked for `url`; None where there is none, as for this machine."""
        if not self._proxies:
            return None
        parts = urlsplit(url)
        if is_loopback(parts.hostname) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
            return None
        proxy = self._proxies.get(parts.scheme)
        if proxy is None and self._proxies.get("all", "").startswith("http"):  # it may be SOCKS, which is not spoken
            proxy = self._proxies["all"]
        return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
