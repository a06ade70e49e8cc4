"""The HTTP client: our own connections for what a gateway does all day, aiohttp for the rest.

aiohttp asks where a proxy of the environment is in between, and where an upstream speaks HTTP of a kind that our own
connection does not understand. No cookies, no redirects, no second try once a byte of a request has been sent: the
upstream may have worked on it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from gateway.transport import NEVER, ConnectFailed, ConnectionCut, Headers, HttpReply
from gateway.transport.connection import Connection, Odd
from gateway.transport.environment import EnvironmentProxies
from gateway.transport.pool import Origin, Pool

if TYPE_CHECKING:
    from gateway.transport.aiohttp_client import AiohttpClient

CONNECTIONS_PER_UPSTREAM = 8192
ADDRESSES_REMEMBERED = 1024
ODD_FOR_S = 600.0
PORTS = {"http": 80, "https": 443}
NOT_QUOTED = "/%:=&?~+!$,;'@()*[]"
UNIX = "http+unix"
"""`http+unix://%2Frun%2Fmodel.sock/v1`: by a Unix socket, whose path is written like a host."""


@dataclass(frozen=True, slots=True)
class _Route:
    """What an address comes to; `pool` is None where aiohttp asks."""

    pool: Pool | None
    start: bytes
    """Of a request, behind its method: target, version and host."""
    is_odd: bool = False  # for a while: to be looked up again


class PooledClient:
    """Belongs to the event loop that first uses it: another loop, or a forked process, makes a client of its own."""

    def __init__(self, limit: int = CONNECTIONS_PER_UPSTREAM) -> None:
        self._limit = limit
        self._pools: dict[Origin, Pool] = {}
        self._routes: dict[str, _Route] = {}
        self._odd: dict[Origin, float] = {}  # until when
        self._proxies = EnvironmentProxies()
        self._aiohttp: AiohttpClient | None = None

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, connect_s: float, due: float = NEVER
    ) -> Coroutine[Any, Any, HttpReply]:
        route = self._routes.get(url)
        if route is None or route.is_odd:
            route = self._find(url)
        if route.pool is None:
            return self._fallback().post(url, headers, body, connect_s=connect_s, due=due)
        head = _head(b"POST " + route.start, headers, b"content-length: %d\r\n\r\n" % len(body))
        return self._ask(route.pool, head, body, "connection" in headers, connect_s, due)

    async def get(self, url: str, headers: Mapping[str, str], *, connect_s: float, due: float = NEVER) -> HttpReply:
        route = self._routes.get(url)
        if route is None or route.is_odd:
            route = self._find(url)
        if route.pool is None:
            return await self._fallback().get(url, headers, connect_s=connect_s, due=due)
        head = _head(b"GET " + route.start, headers, b"\r\n")
        return await self._ask(route.pool, head, b"", "connection" in headers, connect_s, due)

    async def close(self) -> None:
        for pool in self._pools.values():
            pool.abort()
        self._pools.clear()
        self._routes.clear()
        await asyncio.sleep(0)  # in which the connections go
        if self._aiohttp is not None:
            await self._aiohttp.close()

    def _fallback(self) -> AiohttpClient:
        if self._aiohttp is None:
            from gateway.transport.aiohttp_client import AiohttpClient  # 0.15 s, which most never need

            self._aiohttp = AiohttpClient(self._proxies)
        return self._aiohttp

    async def _ask(
        self, pool: Pool, head: bytes, body: bytes, is_last: bool, connect_s: float, due: float
    ) -> HttpReply:
        connection = pool.take_kept(due) or await pool.take(connect_s, due)
        try:
            await connection.ask(head, body, due)
            if is_last:
                connection.is_last = True
        except BaseException as exc:
            connection.abort()
            if isinstance(exc, Odd):
                self._note_odd(pool.origin)
            raise
        return _Reply(connection, pool)

    def _find(self, url: str) -> _Route:
        """Raises: ConnectFailed for what is no address."""
        try:
            origin, target = _parsed(url)
        except (ValueError, UnicodeError) as exc:
            raise ConnectFailed(type(exc).__name__) from exc
        has_name = "@" in urlsplit(url).netloc and origin.socket_path is None
        is_proxied = origin.socket_path is None and self._proxies.find(url) is not None
        is_odd = self._odd.get(origin, 0.0) > time.monotonic()
        pool = None if is_proxied or has_name or is_odd else self._pool(origin)
        if len(self._routes) >= ADDRESSES_REMEMBERED:
            self._routes.clear()
        start = b"%b HTTP/1.1\r\nhost: %b\r\n" % (target, _host(origin))
        route = self._routes[url] = _Route(pool, start, is_odd)
        return route

    def _pool(self, origin: Origin) -> Pool:
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(origin, self._limit, self._tls if origin.tls else None)
        return pool

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _note_odd(self, origin: Origin) -> None:
        """For a while, aiohttp asks there."""
        if origin.socket_path is None:
            self._odd[origin] = time.monotonic() + ODD_FOR_S
            self._routes.clear()


class _Reply:
    """What a connection reads."""

    __slots__ = ("_connection", "_headers", "_is_cut", "_pool", "_raw_headers", "status")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self.status = connection.status
        self._raw_headers = connection.headers
        self._connection: Connection | None = connection
        self._pool = pool
        self._headers: dict[str, str] | None = None
        self._is_cut = False  # closed before its end was read

    @property
    def headers(self) -> Mapping[str, str]:
        """The first of each name."""
        if self._headers is None:
            pairs = reversed(self._raw_headers)
            self._headers = {name.decode("latin-1"): value.strip().decode("latin-1") for name, value in pairs}
        return self._headers

    async def read(self, limit: int, due: float = NEVER) -> bytes:
        connection = self._connection
        if connection is None:
            return await self._end()
        body = await connection.read(limit, due)
        self._connection = None
        if connection.end():
            self._pool.give_back(connection)
        return body

    def read_some(self, due: float = NEVER) -> Coroutine[Any, Any, bytes]:
        connection = self._connection
        return self._end() if connection is None else connection.read_some(due)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._is_cut = not connection.is_read
            if connection.end():
                self._pool.give_back(connection)

    async def _end(self) -> bytes:
        if self._is_cut:
            raise ConnectionCut("closed")
        return b""


def _head(start: bytes, headers: Mapping[str, str], end: bytes) -> bytes:
    """Raises: ConnectFailed for headers that cannot be written, or would be more than one."""
    if not isinstance(headers, Headers):
        lines = _lines(headers)
    else:
        if headers.lines is None:
            headers.lines = _lines(headers)
        lines = headers.lines
    if "host" in headers or "Host" in headers:
        start = start[: start.index(b"\n") + 1]
    return start + lines + end


def _lines(headers: Mapping[str, str]) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ConnectFailed("header")
    try:
        return lines.encode("latin-1")
    except UnicodeEncodeError as exc:
        raise ConnectFailed("header") from exc


def _parsed(url: str) -> tuple[Origin, bytes]:
    """Raises: ValueError, UnicodeError."""
    parts = urlsplit(url)
    target = quote(f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", safe=NOT_QUOTED).encode()
    if parts.scheme == UNIX:
        return Origin("localhost", socket_path=unquote(parts.netloc)), target
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("address")
    host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
    return Origin(host, parts.port or PORTS[parts.scheme], parts.scheme == "https"), target


def _host(origin: Origin) -> bytes:
    """For the header."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    is_usual = origin.port == PORTS["https" if origin.tls else "http"]
    return (host if is_usual else f"{host}:{origin.port}").encode()
