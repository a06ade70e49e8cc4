"""The real HTTP server on a socket, and clients that say on theirs, byte by byte, what no HTTP library would."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from gateway.api.door import Front
from gateway.http_server import Server, http_server
from tests.asgi import Client, chat_body

PATH = "/v1/chat/completions"


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, timeout_s: float = 10.0) -> Reply:
        """The next reply, whole. Raises: EOFError where the connection ends before it does."""
        return await asyncio.wait_for(self._reply(), timeout_s)

    async def _reply(self) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.lower()
            headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
        status = int(first.split(" ")[1])
        if status < 200 or status == 204:
            return Reply(status, headers, b"")
        if "content-length" in headers:
            return Reply(status, headers, await self.reader.readexactly(int(headers["content-length"])))
        if headers.get("transfer-encoding") != "chunked":
            return Reply(status, headers, await self.reader.read())
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return Reply(status, headers, body)

    async def end(self, timeout_s: float = 10.0) -> bytes:
        """What still comes before the server closes."""
        return await asyncio.wait_for(self.reader.read(), timeout_s)

    def close(self) -> None:
        self.writer.close()


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def text(self) -> str:
        return str(self.json["choices"][0]["message"]["content"])


class Listening:
    def __init__(self, server: Server, client: Client, port: int) -> None:
        self.server, self.client, self.port = server, client, port
        self._open: list[Connection] = []

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self._open.append(connection)
        return connection

    async def ask(self, data: bytes) -> Reply:
        """On a connection of its own."""
        connection = await self.connect()
        connection.send(data)
        return await connection.reply()

    def close(self) -> None:
        for connection in self._open:
            connection.close()

    async def until_idle(self) -> None:
        while self.server.server_state.connections or self.server.server_state.tasks:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(
    client: Client, *, grace_s: float = 5.0, front: Front | None = None, listener: socket.socket | None = None
) -> AsyncIterator[Listening]:
    listener = listener or socket.create_server(("127.0.0.1", 0), backlog=512)
    server = http_server(client.live, client.runtime, grace_s=grace_s, open_to_all=False, front=front)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    here = Listening(server, client, listener.getsockname()[1] if listener.family == socket.AF_INET else 0)
    try:
        yield here
    finally:
        here.close()
        if not server.should_exit:  # what a stop does is not of interest, and takes a while
            for inner in server.servers:
                inner.close()
            await here.until_idle()
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def request(
    method: str = "POST", path: str = PATH, body: bytes | None = None, version: str = "1.1", **headers: str
) -> bytes:
    """One with a Content-Length where it has a body. Names of headers: `_` for `-`."""
    lines = [f"{method} {path} HTTP/{version}", "host: localhost"]
    lines += [f"{re.sub('_', '-', name)}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def chat(text: str = "hello", **fields: Any) -> bytes:
    return orjson.dumps(chat_body(text, **fields))


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))
