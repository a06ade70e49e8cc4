"""Reverse proxies in front: who may say for whom a request comes, and by which host and scheme."""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping, Sequence

from gateway.api.asgi import Scope

FORWARDED = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"})
"""Their presence means that a proxy is in front."""
UNIX = "unix"  # the peer of a Unix socket has no address
MOST_REMEMBERED = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """Args: `trusted` are addresses, networks (`10.0.0.0/8`), or `unix` for whoever comes by the Unix socket."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in trusted if text != UNIX)
        self._trusts_unix = UNIX in trusted
        self._seen: dict[str, bool] = {}

    def trust(self, peer: str | None) -> bool:
        """Args: `peer` is an address; None by a Unix socket."""
        if peer is None:
            return self._trusts_unix
        if not self._networks:
            return False
        known = self._seen.get(peer)
        if known is None:
            if len(self._seen) >= MOST_REMEMBERED:
                self._seen.clear()
            known = self._seen[peer] = self._is_within(peer)
        return known

    def _is_within(self, peer: str) -> bool:
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def note(self, scope: Scope, headers: MutableMapping[str, str]) -> None:
        """Put what a trusted proxy says into the scope (`client`, `scheme`) and the headers (`host`).

        X-Forwarded-* come before Forwarded, for most proxies set those and let a client's own Forwarded pass. Where
        the proxy does not say who asks, nobody knows.
        """
        chain, scheme, host = _said(headers)
        scope["client"] = _client(chain, self)
        if scheme in ("http", "https"):
            scope["scheme"] = scheme
        if host:
            headers["host"] = host


def _said(headers: MutableMapping[str, str]) -> tuple[list[str], str, str]:
    """Addresses, the nearest last; scheme and host as the first proxy saw them."""
    chain = _listed(headers.get("x-forwarded-for", "")) or _listed(headers.get("x-real-ip", ""))
    scheme = _first(headers.get("x-forwarded-proto", ""))
    host = _first(headers.get("x-forwarded-host", ""))
    hops = [_pairs(hop) for hop in _listed(headers.get("forwarded", ""))]
    if hops and not (chain or scheme or host):
        chain = [hop["for"] for hop in hops if "for" in hop]
        scheme, host = hops[0].get("proto", ""), hops[0].get("host", "")
    return chain, scheme.lower(), host


def _client(chain: list[str], proxies: Proxies) -> tuple[str, int] | None:
    """The nearest that is no proxy of ours: what is said of those beyond it is said by a stranger. None: unknown."""
    client = None
    for text in reversed(chain):
        client = _address(text)
        if client is None or not proxies.trust(str(client)):
            break
    return None if client is None else (str(client), 0)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """`1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]`, `[::1]:5`; None for words such as `unknown`."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _first(text: str) -> str:
    return text.partition(",")[0].strip()


def _pairs(hop: str) -> dict[str, str]:
    found = (pair.partition("=") for pair in hop.split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in found}
