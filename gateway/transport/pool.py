"""Connections to one upstream: taken for a request, kept for the next, closed when idle for long."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import aiohappyeyeballs

from gateway.transport import ConnectFailed, ConnectTimeout, within
from gateway.transport.connection import Connection

IDLE_S = 30.0
SPARE_S = 1.0  # closed so much before the upstream would do it, so that no request meets its closing
LOOK_AFTER_S = 1.0  # idle for so long, a connection is looked at before it is used again
REAP_EVERY_S = 5.0
NEXT_ADDRESS_AFTER_S = 0.25  # RFC 8305, "Happy Eyeballs"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream is: a host and port, or a Unix socket."""

    host: str
    port: int = 80
    tls: bool = False
    socket_path: str | None = None


class Pool:
    """Connections to `origin`, at most `limit` at once: whoever comes then waits for one, in order."""

    def __init__(self, origin: Origin, limit: int, tls: ssl.SSLContext | None) -> None:
        self.origin, self._limit, self._tls = origin, limit, tls
        self._idle: deque[Connection] = deque()  # the one used last is used first, so that the others can go
        self._open: set[Connection] = set()
        self._opening = 0  # places taken for connections that are not there yet
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._reaper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def take_kept(self, due: float) -> Connection | None:
        """A connection that is there, and that nobody else waits for."""
        now = time.monotonic()
        return None if self._waiting or self._is_closed or due <= now else self._kept(now)

    async def take(self, connect_s: float, due: float) -> Connection:
        """Raises: ConnectFailed, ConnectTimeout, TimeoutError."""
        now = time.monotonic()
        if due <= now:
            raise TimeoutError
        if self._is_closed:
            raise ConnectFailed("closed")
        if not self._waiting:
            connection = self._kept(now)
            if connection is not None:
                return connection
            if self._has_room:
                self._opening += 1
                return await self._connect(connect_s, due)
        while True:
            connection = await self._turn(due)
            if connection is None:
                return await self._connect(connect_s, due)
            if connection.is_usable():  # and was not lost since it was handed over
                return connection

    def give_back(self, connection: Connection) -> None:
        """One whose reply is whole."""
        if self._is_closed or (connection.keep_for_s is not None and _longest(connection) <= 0.0):
            connection.abort()
            return
        self._idle.append(connection)
        if self._waiting:
            self._let_next()
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(REAP_EVERY_S, self._reap)

    def abort(self) -> None:
        """Of no more use: all connections are closed, and nobody waits for one any longer."""
        self._is_closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(ConnectFailed("closed"))
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()

    @property
    def _has_room(self) -> bool:
        return len(self._open) + self._opening < self._limit

    def _kept(self, now: float) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_usable():
                continue
            idle_s = now - connection.idle_since
            if idle_s < LOOK_AFTER_S or (idle_s < _longest(connection) and not connection.has_ended()):
                return connection
            connection.abort()
        return None

    async def _turn(self, due: float) -> Connection | None:
        """None: there is a place for a new connection, which `_opening` counts already."""
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with within(due):
                return await turn
        except BaseException:
            if turn.cancelled() or not turn.done():
                with suppress(ValueError):
                    self._waiting.remove(turn)
            elif turn.exception() is None:  # it was this one's turn, which it can no longer take
                connection = turn.result()
                if connection is None:
                    self._opening -= 1
                elif connection.is_usable():
                    self.give_back(connection)
            self._let_next()
            raise

    def _let_next(self) -> None:
        """Hand over what there is to those who wait."""
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            connection = self._kept(time.monotonic())
            if connection is None:
                if not self._has_room:
                    return
                self._opening += 1
            self._waiting.popleft().set_result(connection)

    async def _connect(self, connect_s: float, due: float) -> Connection:
        """In a place that `_opening` counts."""
        until = time.monotonic() + connect_s
        try:
            async with within(min(due, until)):
                connection = await self._opened()
            if self._is_closed or not connection.is_usable():
                connection.abort()
                raise ConnectFailed("closed")
            self._open.add(connection)
            return connection
        except TimeoutError:
            if due <= until:
                raise
            raise ConnectTimeout from None
        except (OSError, UnicodeError, ValueError) as exc:  # unknown host, refused, TLS; a name that cannot be one
            raise ConnectFailed(type(exc).__name__) from exc
        finally:
            self._opening -= 1
            self._let_next()

    async def _opened(self) -> Connection:
        loop, origin = asyncio.get_running_loop(), self.origin
        if origin.socket_path is not None:
            return (await loop.create_unix_connection(self._make, origin.socket_path))[1]
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        if not found:
            raise OSError("no address")
        opened = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, interleave=1, loop=loop
        )
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a model may think for minutes
            name = origin.host if self._tls else None
            return (await loop.create_connection(self._make, sock=opened, ssl=self._tls, server_hostname=name))[1]
        except BaseException:
            opened.close()
            raise

    def _make(self) -> Connection:
        return Connection(self._on_lost)

    def _on_lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not connection.is_busy:
            with suppress(ValueError):  # it is not kept yet, or no longer
                self._idle.remove(connection)
        if not self._is_closed:
            self._let_next()

    def _reap(self) -> None:
        now = time.monotonic()
        kept = deque(c for c in self._idle if now - c.idle_since < _longest(c))
        idle, self._idle = self._idle, kept
        for connection in set(idle) - set(kept):
            connection.abort()
        again = bool(kept) and not self._is_closed
        self._reaper = asyncio.get_running_loop().call_later(REAP_EVERY_S, self._reap) if again else None


def _longest(connection: Connection) -> float:
    """Seconds that it may be idle."""
    said = connection.keep_for_s
    return IDLE_S if said is None else min(IDLE_S, max(0.0, said - SPARE_S))
