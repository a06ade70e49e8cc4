"""The seam to upstreams: POST a body, read the reply as it comes. `client.py` is what stands behind it.

Leaves know only these types, so another HTTP client, or a script that plays one, can take its place. `due` is always a
`time.monotonic()`; what is not there by then ends in `TimeoutError`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

NEVER = float("inf")


class ConnectFailed(Exception):
    """No connection: refused, unknown host, TLS. Nothing was sent."""


class ConnectTimeout(ConnectFailed):
    pass


class ConnectionCut(Exception):
    """The connection was lost, or what came over it was not HTTP, before the reply was whole."""


class ReplyTooLarge(Exception):
    """The reply is larger than the caller is ready to hold."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for: a connection, the first token of a stream, each next token, the whole answer."""

    connect_s: float = 10.0
    first_token_s: float = 120.0
    between_tokens_s: float = 60.0
    total_s: float = 600.0


def within(due: float) -> asyncio.Timeout:
    """A block that ends in TimeoutError at `due`."""
    return asyncio.timeout(None if due == NEVER else max(0.0, due - time.monotonic()))


def is_loopback(host: str | None) -> bool:
    """Does this name or address stand for this machine and nobody else?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_network(text: str) -> bool:
    """An address, a network such as 10.0.0.0/8, or `unix` for whoever comes by the Unix socket?"""
    try:
        return text == "unix" or bool(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return False


class Headers(dict[str, str]):
    """Headers that are sent again and again, and that nobody changes: written out once."""

    lines: bytes | None = None


class HttpReply(Protocol):
    """Status and headers (lower-case names) are there; the body comes as it is read."""

    status: int

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self, limit: int, due: float = NEVER) -> bytes:
        """The whole body. Raises: ConnectionCut, ReplyTooLarge above `limit` bytes, TimeoutError."""

    async def read_some(self, due: float = NEVER) -> bytes:
        """What has come since the last call, at least one byte; b"" at the end. Raises: ConnectionCut, TimeoutError."""

    def close(self) -> None:
        """Always to be called: keeps the connection for the next request if the body was read to its end."""


class HttpClient(Protocol):
    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, connect_s: float, due: float = NEVER
    ) -> HttpReply:
        """Send, and wait for status and headers; cancelled, it closes the connection.

        Raises: ConnectFailed, ConnectTimeout, ConnectionCut, TimeoutError.
        """

    async def get(self, url: str, headers: Mapping[str, str], *, connect_s: float, due: float = NEVER) -> HttpReply:
        """As `post`, without a body."""

    async def close(self) -> None: ...
