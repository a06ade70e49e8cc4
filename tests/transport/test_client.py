"""What a caller of the client may rely on, with real sockets."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout, ReplyTooLarge
from gateway.transport.client import PooledClient, _host, _parsed
from gateway.transport.connection import MAX_BUFFERED_BYTES
from tests.transport.raw import OK, WAIT_S, Peer, answering, upstream, whole

NEVER = float("inf")


def soon(seconds: float = 0.05) -> float:
    return time.monotonic() + seconds


async def post(client: PooledClient, url: str, body: bytes = b"{}", due: float = NEVER, **headers: str) -> bytes:
    reply = await client.post(url, headers, body, connect_s=WAIT_S, due=due)
    try:
        return await reply.read(1 << 26, due)
    finally:
        reply.close()


async def test_a_connection_is_used_again(client: PooledClient) -> None:
    async with upstream(answering(OK)) as server:
        for _ in range(3):
            assert await post(client, server.url + "/v1/chat?a=b%20c&d=é") == b"ok"
        assert server.connections == 1
    assert server.heads[0].startswith(b"POST /v1/chat?a=b%20c&d=%C3%A9 HTTP/1.1\r\nhost: 127.0.0.1:")


async def test_get_sends_no_body_and_headers_are_found_by_lower_case(client: PooledClient) -> None:
    said = b"HTTP/1.1 200 OK\r\nX-One: \t first \t\r\nx-one: second\r\ncontent-length: 0\r\n\r\n"
    async with upstream(answering(said)) as server:
        reply = await client.get(server.url, {"accept": "text/plain"}, connect_s=WAIT_S)
        assert (reply.status, reply.headers["x-one"], await reply.read(10)) == (200, "first", b"")
        reply.close()
    assert b"content-length" not in server.heads[0].lower() and b"\r\naccept: text/plain\r\n" in server.heads[0]


@pytest.mark.parametrize(
    "last", [b"connection: close\r\ncontent-length: 2\r\n\r\n", b"\r\n", b"connection: Keep-Alive, Close\r\n\r\n"]
)
async def test_a_connection_that_ends_with_its_reply_is_not_used_again(client: PooledClient, last: bytes) -> None:
    async with upstream(answering(b"HTTP/1.1 200 OK\r\n" + last + b"ok", then_close=True)) as server:
        assert await post(client, server.url) == await post(client, server.url) == b"ok"
        assert server.connections == 2


async def test_nor_one_that_the_request_said_to_close(client: PooledClient) -> None:
    async with upstream(answering(OK)) as server:
        for _ in range(2):
            await post(client, server.url, connection="close")
        assert server.connections == 2


@pytest.mark.parametrize("version, connections", [(b"1.1", 1), (b"1.0", 2)])
async def test_http_1_0_is_kept_only_where_it_says_so(client: PooledClient, version: bytes, connections: int) -> None:
    async with upstream(answering(OK.replace(b"1.1", version))) as server:
        await post(client, server.url)
        await post(client, server.url)
        assert server.connections == connections
    kept = OK.replace(b"1.1", b"1.0").replace(b"content", b"connection: keep-alive\r\ncontent")
    async with upstream(answering(kept)) as server:
        await post(client, server.url)
        await post(client, server.url)
        assert server.connections == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_replies_without_a_body_end_with_their_head(client: PooledClient, status: bytes) -> None:
    async with upstream(answering(b"HTTP/1.1 %b\r\n\r\n" % status)) as server:
        assert await post(client, server.url) == await post(client, server.url) == b""
        assert server.connections == 1


async def test_what_is_said_unasked_is_never_the_next_reply(client: PooledClient) -> None:
    async with upstream(answering(OK + OK.replace(b"ok", b"no"))) as server:
        assert await post(client, server.url) == await post(client, server.url) == b"ok"
        assert server.connections == 2

    async def late(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await peer.say(OK.replace(b"ok", b"no"))
        await peer.gone()

    async with upstream(late) as server:
        assert await post(client, server.url) == b"ok"
        await server.until(lambda: server.open_now == 0)
        assert await post(client, server.url) == b"ok"


async def test_a_reply_that_is_whole_but_was_not_read_leaves_nothing_for_the_next(client: PooledClient) -> None:
    large = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_BUFFERED_BYTES * 2) + b"x" * MAX_BUFFERED_BYTES * 2
    async with upstream(answering(large)) as server:
        for _ in range(3):
            reply = await client.post(server.url, {}, b"", connect_s=WAIT_S)
            await asyncio.sleep(0.02)
            reply.close()
            with pytest.raises(ConnectionCut):
                await reply.read_some()
        assert len(await post(client, server.url, due=soon(WAIT_S))) == MAX_BUFFERED_BYTES * 2


async def test_a_reply_may_be_closed_twice_and_read_again_after_its_end(client: PooledClient) -> None:
    async with upstream(answering(OK)) as server:
        reply = await client.post(server.url, {}, b"", connect_s=WAIT_S)
        assert await reply.read(10) == b"ok"
        reply.close()
        reply.close()
        assert (await reply.read(10), await reply.read_some()) == (b"", b"")
        assert await post(client, server.url) == b"ok" and server.connections == 1


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncont", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_reply_cut_off_is_an_error(client: PooledClient, said: bytes, how: str) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.say(said)
        getattr(peer, how)()

    async with upstream(handle) as server:
        with pytest.raises(ConnectionCut):
            await post(client, server.url, due=soon(WAIT_S))


async def test_a_reset_is_no_end_of_a_body_without_a_length(client: PooledClient) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        peer.reset()

    async with upstream(handle) as server:
        with pytest.raises(ConnectionCut):
            await post(client, server.url, due=soon(WAIT_S))


async def test_a_stopped_client_does_not_pass_half_a_body_for_a_whole_one(client: PooledClient) -> None:
    async with upstream(answering(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")) as server:
        reply = await client.post(server.url, {}, b"", connect_s=WAIT_S)
        await client.close()
        await asyncio.sleep(0.01)
        with pytest.raises(ConnectionCut):
            await reply.read(100)


# -- time ------------------------------------------------------------------------------------------------------------


async def silent(peer: Peer) -> None:
    await peer.gone()


async def test_the_head_the_next_bytes_and_the_whole_body_are_due(client: PooledClient) -> None:
    async with upstream(silent) as server:
        with pytest.raises(TimeoutError):
            await post(client, server.url, due=soon())
        await server.until(lambda: server.open_now == 0)
    async with upstream(answering(b"HTTP/1.1 200 OK\r\n\r\nab")) as server:
        reply = await client.post(server.url, {}, b"", connect_s=WAIT_S, due=soon(WAIT_S))
        assert await reply.read_some(soon(WAIT_S)) == b"ab"
        with pytest.raises(TimeoutError):
            await reply.read_some(soon())
        with pytest.raises(TimeoutError):
            await reply.read(10, soon())
        reply.close()
        await server.until(lambda: server.open_now == 0)


async def test_nothing_is_sent_after_it_is_due(client: PooledClient) -> None:
    async with upstream(answering(OK)) as server:
        with pytest.raises(TimeoutError):
            await post(client, server.url, due=time.monotonic() - 1)
        assert server.connections == 0


async def test_a_later_wait_is_not_ended_by_an_earlier_ones_timer(client: PooledClient) -> None:
    async def handle(peer: Peer) -> None:
        while await peer.request() is not None:
            await asyncio.sleep(0.03)
            await peer.say(OK)

    async with upstream(handle) as server:
        assert await post(client, server.url, due=soon(0.04 + WAIT_S)) == b"ok"
        reply = await client.post(server.url, {}, b"", connect_s=WAIT_S, due=soon(0.2))
        assert await reply.read(10, soon(0.1)) == b"ok"
        reply.close()
        for _ in range(4):
            assert await post(client, server.url, due=soon(WAIT_S)) == b"ok"


async def test_connecting_takes_no_longer_than_it_may(client: PooledClient) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # takes the only place in its queue
            with socket.socket() as second:
                second.setblocking(False)
                second.connect_ex(("127.0.0.1", port))
                with pytest.raises(ConnectTimeout):
                    await client.post(f"http://127.0.0.1:{port}", {}, b"", connect_s=0.05, due=soon(WAIT_S))
                with pytest.raises(TimeoutError):
                    await client.post(f"http://127.0.0.1:{port}", {}, b"", connect_s=WAIT_S, due=soon())


async def test_a_refused_connection_and_an_unknown_host_are_not_reached(client: PooledClient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed):
            await post(client, f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(ConnectFailed):
        await post(client, "http://no-such-host.invalid/v1")


async def test_the_second_address_is_tried_where_the_first_is_dead(client: PooledClient) -> None:
    async with upstream(answering(OK)) as server:  # listens on 127.0.0.1 alone, and localhost is ::1 too
        assert await post(client, server.url.replace("127.0.0.1", "localhost")) == b"ok"


async def test_an_ipv6_address(client: PooledClient) -> None:
    try:
        async with upstream(answering(OK), host="::1") as server:
            assert await post(client, server.url) == b"ok"
    except OSError:
        pytest.skip("no IPv6 here")
    assert b"\r\nhost: [::1]:" in server.heads[0]


# -- cancellation ----------------------------------------------------------------------------------------------------


async def test_cancelled_while_it_waits_for_the_head_or_the_body(client: PooledClient) -> None:
    for said in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"):

        async def handle(peer: Peer, said: bytes = said) -> None:
            await peer.request()
            await peer.say(said)
            await peer.gone()

        async with upstream(handle) as server:
            task = asyncio.create_task(post(client, server.url))
            await server.until(lambda: bool(server.heads))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until(lambda: server.open_now == 0)


async def test_cancelled_while_it_sends(client: PooledClient) -> None:
    async def handle(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.03)
        await peer.gone()

    async with upstream(handle) as server:
        task = asyncio.create_task(post(client, server.url, bytes(50_000_000)))
        await server.until(lambda: server.open_now == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.open_now == 0)


# -- large bodies ----------------------------------------------------------------------------------------------------


async def test_a_large_body_goes_out_whole_and_a_large_reply_comes_in(client: PooledClient) -> None:
    sizes = []

    async def handle(peer: Peer) -> None:
        while (body := await peer.request()) is not None:
            sizes.append(len(body))
            peer.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
            peer.writer.write(body)
            await peer.writer.drain()

    body = bytes(range(256)) * 40_000
    async with upstream(handle) as server:
        for _ in range(2):
            assert await post(client, server.url, body) == body
        assert (server.connections, sizes) == (1, [len(body)] * 2)


async def test_an_upstream_is_made_to_wait_while_nobody_reads(client: PooledClient) -> None:
    sent = 0

    async def handle(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 64000000\r\n\r\n")
        for _ in range(1000):
            peer.writer.write(bytes(64_000))
            await peer.writer.drain()
            sent += 64_000

    async with upstream(handle) as server:
        reply = await client.get(server.url, {}, connect_s=WAIT_S)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 20_000_000  # what sockets hold, and a little
        assert reply._connection._size < 2 * MAX_BUFFERED_BYTES  # type: ignore[attr-defined]
        assert len(await whole(reply)) == 64_000_000
        reply.close()


async def test_a_reply_larger_than_wanted_is_refused(client: PooledClient) -> None:
    for framing in (b"content-length: 500000\r\n\r\n", b"\r\n"):
        async with upstream(answering(b"HTTP/1.1 200 OK\r\n" + framing + bytes(500_000), then_close=True)) as server:
            reply = await client.get(server.url, {}, connect_s=WAIT_S)
            with pytest.raises(ReplyTooLarge):
                await reply.read(100_000)
            reply.close()


@pytest.mark.parametrize("rest", [b"connection: close\r\ncontent-length: 3\r\n\r\nbig", b"\r\nbig"])
async def test_an_answer_while_the_body_is_still_sent_is_heard(client: PooledClient, rest: bytes) -> None:
    async def handle(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\n" + rest)
        peer.writer.write_eof()  # and reads no further
        await asyncio.sleep(WAIT_S)

    async with upstream(handle) as server:
        reply = await client.post(server.url, {}, bytes(30_000_000), connect_s=WAIT_S, due=soon(WAIT_S))
        assert (reply.status, await reply.read(100, soon(WAIT_S))) == (413, b"big")
        reply.close()


# -- addresses and headers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, host, target",
    [
        ("http://h", b"h", b"/"),
        ("http://H:80/a?b", b"h", b"/a?b"),
        ("https://h:443/", b"h", b"/"),
        ("https://h:80/", b"h:80", b"/"),
        ("http://[2001:db8::1]:8/x", b"[2001:db8::1]:8", b"/x"),
        ("http://münchen.example/ü?q=ü#part", b"xn--mnchen-3ya.example", b"/%C3%BC?q=%C3%BC"),
        ("http://h?x=1", b"h", b"/?x=1"),
        ("http://h/a b/%2F%zz", b"h", b"/a%20b/%2F%zz"),
        ("http+unix://%2Frun%2Fm.sock/v1", b"localhost", b"/v1"),
    ],
)
def test_addresses(url: str, host: bytes, target: bytes) -> None:
    origin, found = _parsed(url)
    assert (_host(origin), found) == (host, target)
    assert origin.socket_path == ("/run/m.sock" if "unix" in url else None)


@pytest.mark.parametrize(
    "url", ["", "h", "ftp://h", "http://", "http://h:99999", "http://h:x", "http://a..b", "http://[::1"]
)
async def test_what_is_no_address_is_not_reached(client: PooledClient, url: str) -> None:
    with pytest.raises(ConnectFailed):
        await client.get(url, {}, connect_s=WAIT_S)


@pytest.mark.parametrize(
    "headers",
    [{"a": "b\r\nc: d"}, {"a\n": "b"}, {"a": "b\n"}, {"a": "b\rc"}, {"a": "\0"}, {"a": "€"}, {"a\r\nb: c": "d"}],
)
async def test_a_header_is_one_line(client: PooledClient, headers: dict[str, str]) -> None:
    async with upstream(answering(OK)) as server:
        with pytest.raises(ConnectFailed):
            await client.post(server.url, headers, b"", connect_s=WAIT_S)
        assert server.heads == []


async def test_a_host_that_the_caller_names_is_the_only_one(client: PooledClient) -> None:
    async with upstream(answering(OK)) as server:
        await post(client, server.url, Host="models.internal")
    assert server.heads[0].lower().count(b"\r\nhost:") == 1 and b"models.internal" in server.heads[0]
