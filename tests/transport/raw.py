"""Upstreams that say exactly the bytes that a test wants, on real sockets; and a Connection fed by hand."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.transport import HttpReply
from gateway.transport.connection import Connection

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
WAIT_S = 5.0
ROOT = Path(__file__).parents[2]


@dataclass
class Peer:
    """One connection, as the upstream has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: Upstream

    async def request(self) -> bytes | None:
        """The body of the next request; None where there is none."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            self.server.heads.append(head)
            self.server.changed.set()
            length = re.search(rb"content-length: (\d+)", head, re.I)
            return await self.reader.readexactly(int(length[1])) if length else b""
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.001)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Until the gateway closes the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Handler = Callable[[Peer], Awaitable[None]]


@dataclass
class Upstream:
    url: str
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    open_now: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def upstream(
    handle: Handler, *, tls: ssl.SSLContext | None = None, path: Path | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Upstream]:
    tasks: set[asyncio.Task[None]] = set()
    seen = Upstream("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.connections += 1
        seen.open_now += 1
        seen.changed.set()
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await handle(Peer(reader, writer, seen))
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()
            seen.open_now -= 1
            seen.changed.set()
            tasks.discard(task)

    if path is not None:
        server: Any = await asyncio.start_unix_server(serve, path)
        seen.url = f"http+unix://{quote(str(path), safe='')}"
    else:
        server = await asyncio.start_server(serve, host, 0, ssl=tls)
        name = "localhost" if tls else f"[{host}]" if ":" in host else host
        seen.url = f"{'https' if tls else 'http'}://{name}:{server.sockets[0].getsockname()[1]}"
    try:
        yield seen
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0.01 if tls else 0)  # in which sockets go


def answering(*pieces: bytes, then_close: bool = False) -> Handler:
    """Says the same to each request."""

    async def handle(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.say(*pieces)
            if then_close:
                return

    return handle


async def whole(reply: HttpReply, due: float = float("inf")) -> bytes:
    """By `read_some`."""
    pieces = []
    while piece := await reply.read_some(due):
        pieces.append(piece)
    return b"".join(pieces)


class Wire(asyncio.Transport):
    """What a Connection writes to, and is fed by hand from."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.written: list[bytes] = []
        self.is_paused = self.is_ended = False
        connection.connection_made(self)

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_ended

    def pause_reading(self) -> None:
        assert not self.is_ended
        self.is_paused = True

    def resume_reading(self) -> None:
        assert not self.is_ended
        self.is_paused = False

    def abort(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def end(self) -> None:
        """The upstream says no more."""
        if not self.is_ended:
            self.connection.eof_received()
            self.abort()


@dataclass(frozen=True)
class Outcome:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    error: str | None
    is_kept: bool
    reason: str = field(default="", compare=False)


async def outcome(
    pieces: Sequence[bytes],
    *,
    ends: bool,
    limit: int | None = None,
    most: int | None = None,
    due: float = float("inf"),
    make: Callable[[Callable[[Connection], None]], Connection] = Connection,
) -> Outcome:
    """What a Connection makes of these reads, then the end of the stream; with `limit`, read whole.

    Args: most: bytes that may ever be buffered.
    """
    kept: list[bool] = []
    connection = make(lambda _: None)
    wire = Wire(connection)
    body: list[bytes] = []

    async def ask() -> Exception | None:
        try:
            await connection.ask(b"GET / HTTP/1.1\r\n\r\n", b"", due)
            if limit is not None:
                body.append(await connection.read(limit, due))
            else:
                while piece := await connection.read_some(due):
                    body.append(piece)
        except Exception as exc:
            return exc
        finally:
            kept.append(connection.end())
        return None

    task = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    for piece in pieces:
        for _ in range(100):
            if not wire.is_paused:
                break
            await asyncio.sleep(0)
        if wire.is_ended:
            break
        connection.data_received(piece)
        assert most is None or connection._size <= most
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    if ends and not task.done():
        wire.end()
    try:
        async with asyncio.timeout(WAIT_S):
            error = await task
    finally:
        wire.abort()
        await asyncio.sleep(0)
    name = None if error is None else type(error).__name__
    return Outcome(connection.status, tuple(connection.headers), b"".join(body), name, kept[0], repr(error))
