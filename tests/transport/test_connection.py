"""One connection, fed by hand: limits, what it gives away and what it keeps."""

from __future__ import annotations

import asyncio
import gc
import gzip
import time
import weakref

import pytest

from gateway.transport import ConnectionCut
from gateway.transport.connection import MAX_BUFFERED_BYTES, MAX_INFLATED_BYTES, MAX_SILENT_BYTES, Connection
from tests.transport.raw import Outcome, Wire, outcome

OK = b"HTTP/1.1 200 OK\r\n"
NEVER = float("inf")


async def said(*pieces: bytes, limit: int | None = None) -> Outcome:
    return await outcome(pieces, ends=True, limit=limit)


@pytest.mark.parametrize(
    "start, more",
    [
        (b"", b"x" * 4096),
        (OK, b"x: " + b"y" * 4096),
        (OK, b"x: y\r\n" * 700),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (OK + b"transfer-encoding: chunked\r\n\r\n2;", b"x" * 4096),
        (OK + b"transfer-encoding: chunked\r\n\r\n", b"0" * 4096),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", b"y" * 4096),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n" * 700),
        (OK + b"content-encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\0", b"n" * 4096),
    ],
)
async def test_what_never_comes_to_anything_is_broken_off(start: bytes, more: bytes) -> None:
    found = await outcome([start, *[more] * (2 * MAX_SILENT_BYTES // len(more))], ends=False)
    assert found.error == "Malformed" and not found.is_kept


async def test_a_large_head_is_read() -> None:
    found = await said(OK + b"x: y\r\n" * 20_000, b"content-length: 2\r\n\r\nok")
    assert (found.body, len(found.headers), found.error) == (b"ok", 20_001, None)


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip"])
async def test_a_coding_that_it_does_not_know_is_not_passed_on_as_if_it_were_none(coding: bytes) -> None:
    assert (await said(OK + b"content-encoding: " + coding + b"\r\ncontent-length: 1\r\n\r\nx")).error == "Odd"


async def test_a_bomb_is_not_let_off() -> None:
    bomb = gzip.compress(bytes(2 * MAX_INFLATED_BYTES))
    head = OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    assert (await said(head + bomb)).error == "ReplyTooLarge"
    assert (await said(head + bomb, limit=1_000_000)).error == "ReplyTooLarge"


async def test_a_part_that_swells_to_just_what_fits_is_not_held_back() -> None:
    for size in (MAX_BUFFERED_BYTES - 1, MAX_BUFFERED_BYTES, MAX_BUFFERED_BYTES + 1, 4 * MAX_BUFFERED_BYTES):
        packed = gzip.compress(b"a" * size)
        connection = Connection(lambda _: None)
        wire = Wire(connection)
        asking = asyncio.ensure_future(connection.ask(b"", b"", NEVER))
        await asyncio.sleep(0)
        connection.data_received(OK + b"content-encoding: gzip\r\n\r\n" + packed[:-8])
        await asking
        got = await connection.read_some(NEVER)
        assert len(got) == size
        wire.abort()
        await asyncio.sleep(0)


async def test_a_coded_reply_that_ends_early_is_cut() -> None:
    packed = gzip.compress(b"words")
    head = OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
    assert (await said(head % (len(packed) - 1) + packed[:-1])).error == "ConnectionCut"
    assert (await said(head % 0)).error is None


async def test_a_101_and_a_reply_of_two_framings_are_refused() -> None:
    assert (await said(b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")).error == "Odd"
    both = OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n"
    assert (await said(both + b"2\r\nok\r\n0\r\n\r\n")).error == "Malformed"


async def test_trailers_are_no_headers() -> None:
    found = await said(OK + b"transfer-encoding: chunked\r\n\r\n0\r\nx: y\r\nconnection: close\r\n\r\n")
    assert found.headers == ((b"transfer-encoding", b"chunked"),) and found.is_kept


async def test_a_word_ahead_leaves_no_trace() -> None:
    ahead = b"HTTP/1.1 103 Hints\r\ncontent-length: 5\r\ncontent-encoding: gzip\r\nlink: x\r\n\r\n"
    found = await said(ahead + OK + b"\r\nto the end")
    assert (found.body, found.headers, found.error) == (b"to the end", (), None)


async def test_what_comes_before_anything_was_asked_ends_it() -> None:
    lost: list[Connection] = []
    connection = Connection(lost.append)
    Wire(connection)
    connection.data_received(b"SSH-2.0-OpenSSH\r\n")
    assert not connection.is_usable()
    await asyncio.sleep(0)
    assert lost == [connection]
    with pytest.raises(ConnectionCut):
        await connection.ask(b"", b"", NEVER)


async def test_a_wait_cancelled_as_its_time_runs_out_leaves_no_complaint() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    connection = Connection(lambda _: None)
    wire = Wire(connection)
    asking = asyncio.ensure_future(connection.ask(b"", b"", time.monotonic() + 0.01))
    await asyncio.sleep(0)
    while connection._timer is not None:
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    wire.abort()
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


async def test_an_idle_connection_keeps_nothing_of_its_last_reply() -> None:
    connection = Connection(lambda _: None)
    wire = Wire(connection)
    asking = asyncio.ensure_future(connection.ask(b"", b"", NEVER))
    await asyncio.sleep(0)
    connection.data_received(OK + b"content-length: 1000000\r\n\r\n" + bytes(1_000_000))
    await asking
    assert wire.is_paused and connection.end()
    assert not connection._parts and not wire.is_paused
    wire.abort()
    await asyncio.sleep(0)


async def test_the_state_of_a_lost_connection_is_freed_without_the_collector() -> None:
    class Noted(Connection):
        __slots__ = ("__weakref__",)

    gc.collect()
    gc.disable()
    try:
        connection = Noted(lambda _: None)
        wire = Wire(connection)
        connection.connection_lost(None)
        gone = weakref.ref(connection)
        del connection, wire.connection, wire
        assert gone() is None
    finally:
        gc.enable()
