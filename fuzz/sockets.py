"""Our HTTP server and client without sockets: bytes go in as reads, what they made of them comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from gateway.http_protocol import HttpProtocol
from gateway.transport import ReplyTooLarge
from gateway.transport.connection import Connection


async def nobody(scope: Any, receive: Any, send: Any) -> None:
    pass


CONFIG = Config(nobody, http=HttpProtocol, ws="none", lifespan="off", log_config=None)
CONFIG.load()


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


Heard = tuple[str, bytes, tuple[tuple[bytes, bytes], ...], bytes]


def requests_in(loop: asyncio.AbstractEventLoop, data: bytes, size: int) -> tuple[list[Heard], bytes]:
    """The requests that the application gets of a connection on which this comes, in reads of `size` bytes, and how
    the last word of the connection begins."""
    heard: list[Heard] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                heard.append((scope["method"], scope["raw_path"], tuple(scope["headers"]), body))
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return

    async def run() -> bytes:
        CONFIG.loaded_app = app
        protocol = HttpProtocol(config=CONFIG, server_state=ServerState(), app_state={}, _loop=loop)
        transport = Transport()
        protocol.connection_made(transport)
        for piece in pieces(data, size):
            if transport.closed:
                break
            protocol.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(8):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        for _ in range(4):
            await asyncio.sleep(0)
        return bytes(transport.written)

    written = loop.run_until_complete(run())
    return heard, written


def reply_in(loop: asyncio.AbstractEventLoop, data: bytes, size: int) -> tuple[int, tuple[Any, ...], bytes, bool]:
    """Status, headers and body of a reply that comes so, and whether it was whole."""

    async def run() -> tuple[int, tuple[Any, ...], bytes, bool]:
        connection = Connection(lambda lost: None)
        transport = Transport()
        connection.connection_made(transport)
        connection.is_busy = True
        body = bytearray()
        for piece in pieces(data, size):
            if transport.closed or connection.is_whole:
                break
            connection.data_received(piece)
            body += connection._take() if connection._parts else b""
        if not transport.closed:
            connection.eof_received()
        body += connection._take() if connection._parts else b""
        whole, status, headers = connection.is_whole, connection.status, tuple(connection.headers)
        too_large = isinstance(connection._error, ReplyTooLarge)
        connection.connection_lost(None)
        assert len(body) <= 64 << 20 or too_large
        return status, headers, bytes(body), whole

    return loop.run_until_complete(run())
