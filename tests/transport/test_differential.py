"""The same upstream, asked by our own client and by aiohttp, says the same to both."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout, HttpClient, ReplyTooLarge
from gateway.transport.aiohttp_client import AiohttpClient
from gateway.transport.client import PooledClient
from tests.transport.fuzz import CORPUS
from tests.transport.raw import OK, WAIT_S, Handler, Peer, answering, upstream, whole

ERRORS = (ConnectTimeout, ConnectFailed, ConnectionCut, ReplyTooLarge, TimeoutError)
Found = tuple[int, str | None, bytes] | str

DIFFERENT = {
    "gzip_bomb.http": "one read may swell to 16 MiB, and this one would to 40 MB",
    "gzip_cut.http": "a coded body that was cut is never whole; aiohttp passes on what there is",
    "gzip_cut_then_more.http": "as above",
    "long_header.http": "heads up to 256 KiB, where aiohttp takes lines of 8 KiB",
    "more_behind.http": "the reply is whole, whatever comes behind it; its connection is not used again",
    "transfer_gzip.http": "a coding of the transfer that neither undoes; aiohttp passes it on as it is",
    "transfer_identity.http": "left to aiohttp, see test_proxies.py",
    "upgrade.http": "nobody asked for another protocol, so this is no reply; aiohttp shows the 101",
}
"""And why."""


async def asked(client: HttpClient, url: str, *, by_some: bool, due_in: float = WAIT_S) -> Found:
    due = time.monotonic() + due_in
    try:
        reply = await client.post(url, {"x-a": "b"}, b"{}", connect_s=1, due=due)
        try:
            body = await (whole(reply, due) if by_some else reply.read(1 << 24, due))
            return reply.status, reply.headers.get("content-type"), body
        finally:
            reply.close()
    except ERRORS as exc:
        return next(error.__name__ for error in ERRORS if isinstance(exc, error))


async def both(handle: Handler, *, by_some: bool = False, due_in: float = WAIT_S, path: str = "/") -> list[Found]:
    ours, theirs = PooledClient(), AiohttpClient()
    try:
        async with upstream(handle) as server:
            return [await asked(c, server.url + path, by_some=by_some, due_in=due_in) for c in (ours, theirs)]
    finally:
        await ours.close()
        await theirs.close()


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*.http")), ids=lambda file: file.name)
async def test_replies_of_the_corpus(file: Path) -> None:
    ours, theirs = await both(answering(file.read_bytes(), then_close=True), by_some=len(file.name) % 2 == 0)
    if file.name in DIFFERENT:
        assert ours != theirs
    else:
        assert ours == theirs


def reply(status: str, *headers: str, body: bytes = b"{}") -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "said",
    [
        reply("200 OK"),
        reply("302 Found", "location: /elsewhere"),
        reply("401 Unauthorized", 'www-authenticate: Basic realm="x"'),
        reply("429 Too Many", "retry-after: 3", "retry-after: 4"),
        reply("200 OK", "set-cookie: a=b; Path=/", "x-empty:", "x-space:   y  "),
        reply("500 Internal Server Error", body=b""),
        reply("599"),
    ],
)
async def test_replies_without_surprises(said: bytes) -> None:
    ours, theirs = await both(answering(said))
    assert ours == theirs and ours[0] == int(said[9:12])


async def hang_up(peer: Peer) -> None:
    await peer.request()


async def reset(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def test_a_reset_is_no_end_of_a_body_which_aiohttp_takes_it_for() -> None:
    assert await both(reset_in_mid_body) == ["ConnectionCut", (200, None, b"some")]


async def reset_in_mid_body(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\n\r\nsome")
    peer.reset()


async def never(peer: Peer) -> None:
    await peer.gone()


async def stall(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nsome")
    await peer.gone()


@pytest.mark.parametrize(
    "handle, wanted",
    [
        (hang_up, "ConnectionCut"),
        (reset, "ConnectionCut"),
        (never, "TimeoutError"),
        (stall, "TimeoutError"),
        (answering(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1 << 25), then_close=True), "ReplyTooLarge"),
    ],
)
async def test_failures_are_called_the_same(handle: Handler, wanted: str) -> None:
    is_late = wanted == "TimeoutError"
    assert await both(handle, due_in=0.1 if is_late else WAIT_S) == [wanted, wanted]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://no-such-host.invalid", "http://", "ftp://x", "http://h:x"]
)
async def test_addresses_that_cannot_be_reached(url: str) -> None:
    for client in (PooledClient(), AiohttpClient()):
        assert await asked(client, url, by_some=False) == "ConnectFailed"
        await client.close()


@pytest.mark.parametrize("header", [{"a": "b\r\nc: d"}, {"a\n": "b"}, {"a": "\0"}])
async def test_headers_that_are_more_than_one_line(header: dict[str, str]) -> None:
    async with upstream(answering(OK)) as server:
        for client in (PooledClient(), AiohttpClient()):
            with pytest.raises(ConnectFailed):
                await client.post(server.url, header, b"", connect_s=1)
            await client.close()
        assert server.heads == []


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1/chat/completions", "/v1?a=b&c=d%20e", "/a%2Fb/%C3%BC", "/ü?q=ü", "/a b", "/a:b@c", "?only=query",
     "/x;y=z,w", "/v1/models/meta~llama!(8b)*", "/v1#part"],
)  # fmt: skip
async def test_requests_are_written_the_same(path: str) -> None:
    async with upstream(answering(OK)) as server:
        for client in (PooledClient(), AiohttpClient()):
            await asked(client, server.url + path, by_some=False)
            await client.close()
    ours, theirs = (_parts(head) for head in server.heads)
    assert ours[0] == theirs[0]
    assert set(ours[1].items()) <= set(theirs[1].items())
    assert set(theirs[1]) - set(ours[1]) == {b"accept-encoding"}  # of which callers say what they want


def _parts(head: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    first, *lines = head.strip().split(b"\r\n")
    return first, {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
