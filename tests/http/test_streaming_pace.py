"""Words go out as they come in: never held back for the next, and together where they came together."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from tests.conftest import Serve
from tests.http.sockets import Connection, chat, listening, request

WORDS = 100
MAX_DELAY_S = 0.001


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


class Dictation:
    """An upstream that says what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        self.writer = writer
        self.asked.set()

    def say(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))


@asynccontextmanager
async def dictated(serve: Serve) -> AsyncIterator[tuple[Dictation, Connection]]:
    """The upstream, and a client that has asked for a stream."""
    upstream = Dictation()
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = await serve(f"models: {{m: {{engine: openai, base_url: 'http://127.0.0.1:{port}/v1', model: m}}}}")
    async with listening(client) as here:
        connection = await here.connect()
        connection.send(request(body=chat(model="m", stream=True)))
        await upstream.asked.wait()
        yield upstream, connection
        upstream.say(event({}, "stop") + b"data: [DONE]\n\n")
        await connection.reader.readuntil(b"data: [DONE]\n\n")
        upstream.writer.close()
    server.close()


async def write(connection: Connection) -> bytes:
    """The next that the server has written at once: a chunk of the body."""
    size = int(await asyncio.wait_for(connection.reader.readuntil(b"\r\n"), 10), 16)
    return (await connection.reader.readexactly(size + 2))[:-2]


async def test_one_chunk_in_is_one_chunk_out_before_the_next_is_there(serve: Serve) -> None:
    async with dictated(serve) as (upstream, connection):
        delays = []
        upstream.say(event({"role": "assistant", "content": "first"}))
        await connection.reader.readuntil(b"\r\n\r\n")
        assert b'"first"' in await write(connection)
        for number in range(WORDS):
            said_at = time.perf_counter()
            upstream.say(event({"content": f" {number}"}))
            heard = await write(connection)
            delays.append(time.perf_counter() - said_at)
            assert heard.count(b"data: ") == 1 and f'" {number}"'.encode() in heard
    assert min(delays) < MAX_DELAY_S, "no timer stands between them"
    assert statistics.median(delays) < 20 * MAX_DELAY_S


async def test_chunks_that_come_together_go_out_together(serve: Serve) -> None:
    async with dictated(serve) as (upstream, connection):
        upstream.say(event({"role": "assistant", "content": "first"}))
        await connection.reader.readuntil(b"\r\n\r\n")
        await write(connection)
        upstream.say(b"".join(event({"content": f" {number}"}) for number in range(5)))
        heard = await write(connection)
        assert heard.count(b"data: ") == 5 and heard.endswith(b"\n\n")


async def test_half_an_event_waits_for_its_other_half(serve: Serve) -> None:
    async with dictated(serve) as (upstream, connection):
        upstream.say(event({"role": "assistant", "content": "first"}))
        await connection.reader.readuntil(b"\r\n\r\n")
        await write(connection)
        whole = event({"content": " one"}) + event({"content": " two"})
        upstream.say(whole[:-20])
        assert b'" one"' in (heard := await write(connection)) and b"two" not in heard
        upstream.say(whole[-20:])
        assert b'" two"' in await write(connection)
