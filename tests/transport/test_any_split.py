"""However a stream is cut into reads, it says the same."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.transport.sse import SseDecoder
from tests.transport.raw import Outcome, outcome

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-XYZ0123456789", min_size=1, max_size=12).map(lambda t: b"x-" + t.encode())
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20).map(str.encode)
HEADERS = st.lists(st.tuples(TOKEN, VALUE), max_size=5)
LINE_END = st.sampled_from([b"\r\n", b"\n"])


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, Outcome]:
    """A valid reply, and what is in it."""
    end = draw(LINE_END)
    status = draw(st.sampled_from([200, 201, 400, 404, 429, 500, 503, 599, 204, 304]))
    headers = draw(HEADERS)
    body = b"" if status in (204, 304) else draw(st.binary(max_size=300) | st.binary(max_size=40).map(lambda b: b * 60))
    coded, headers = _coded(draw, body, headers)
    framing = draw(st.sampled_from(["length", "chunked", "end"])) if status not in (204, 304) else "none"
    is_last = framing == "end" or draw(st.booleans())
    if framing == "length":
        headers = [*headers, (b"content-length", str(len(coded)).encode())]
    elif framing == "chunked":
        headers = [*headers, (b"transfer-encoding", b"chunked")]
        coded = _chunked(draw, coded)
    if is_last and framing != "end":
        headers = [*headers, (b"connection", draw(st.sampled_from([b"close", b"Close"])))]
    ahead = b"".join(draw(st.lists(_ahead(end), max_size=2)))
    version = b"1.1" if framing != "end" else draw(st.sampled_from([b"1.0", b"1.1"]))
    lines = [b"HTTP/%b %d Fine" % (version, status), *(b"%b: %b" % pair for pair in headers)]
    said = ahead + end.join(lines) + end + end + coded
    lower = tuple((name.lower(), value) for name, value in headers)
    return said, Outcome(status, lower, body, None, not is_last)


def _coded(draw: st.DrawFn, body: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    coding = draw(st.sampled_from([None, None, b"identity", b"gzip", b"members", b"deflate", b"raw"])) if body else None
    if coding is None:
        return body, headers
    name = {b"members": b"gzip", b"raw": b"deflate"}.get(coding, coding)
    headers = [*headers, (b"content-encoding", name)]
    if coding == b"gzip":
        return gzip.compress(body, mtime=0), headers
    if coding == b"members":
        return gzip.compress(body[:5], mtime=0) + gzip.compress(body[5:], mtime=0), headers
    if coding == b"deflate":
        return zlib.compress(body), headers
    if coding == b"raw":
        raw = zlib.compressobj(wbits=-15)
        return raw.compress(body) + raw.flush(), headers
    return body, headers


def _chunked(draw: st.DrawFn, body: bytes) -> bytes:
    said, rest = b"", body
    while rest:
        size = draw(st.integers(1, len(rest)))
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"', b" "]))
        said += b"%x%b\r\n%b\r\n" % (size, extension, rest[:size])
        rest = rest[size:]
        if len(said) > 4 * len(body) + 100:
            said, rest = said + b"%X\r\n%b\r\n" % (len(rest), rest) if rest else said, b""
    trailers = draw(HEADERS)
    return said + b"0\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in trailers) + b"\r\n"


def _ahead(end: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([100, 102, 103]).map(lambda n: b"HTTP/1.1 %d Wait" % n + end + b"link: </a>" + end + end)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(c % (len(stream) + 1) for c in cuts)})
    return [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]


CUTS = st.lists(st.integers(0, 5000), max_size=12)


@settings(max_examples=40)
@given(reply=replies(), cuts=CUTS, by_some=st.booleans())
def test_a_reply_does_not_depend_on_where_reads_end(
    runner: asyncio.Runner, reply: tuple[bytes, Outcome], cuts: list[int], by_some: bool
) -> None:
    said, wanted = reply
    limit = None if by_some else 100_000
    assert runner.run(outcome(cut(said, cuts), ends=True, limit=limit)) == wanted


@settings(max_examples=15)
@given(reply=replies())
def test_nor_where_each_byte_is_a_read(runner: asyncio.Runner, reply: tuple[bytes, Outcome]) -> None:
    said, wanted = reply
    assert runner.run(outcome([said[i : i + 1] for i in range(len(said))], ends=True)) == wanted


@settings(max_examples=40)
@given(reply=replies(), at=st.integers(0, 5000), cuts=CUTS)
def test_a_reply_that_is_cut_off_is_never_taken_for_a_whole_one(
    runner: asyncio.Runner, reply: tuple[bytes, Outcome], at: int, cuts: list[int]
) -> None:
    said, wanted = reply
    is_framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in wanted.headers)
    cut_off = said[: at % len(said)]
    found = runner.run(outcome(cut(cut_off, cuts), ends=True))
    assert not found.is_kept or found.body == wanted.body
    assert wanted.body.startswith(found.body)
    if is_framed:
        assert found.error is not None


@settings(max_examples=40)
@given(reply=replies(), more=st.binary(min_size=1, max_size=30) | st.just(b"HTTP/1.1 200 OK\r\n"), cuts=CUTS)
def test_what_comes_behind_a_reply_is_no_part_of_it_nor_of_the_next(
    runner: asyncio.Runner, reply: tuple[bytes, Outcome], more: bytes, cuts: list[int]
) -> None:
    said, wanted = reply
    if b"\r\n" == more[:2] or more[:1] in b"\r\n" or not wanted.is_kept:
        return
    found = runner.run(outcome([said + more], ends=True))
    assert (found.status, found.body, found.error, found.is_kept) == (wanted.status, wanted.body, None, False)
    found = runner.run(outcome(cut(said + more, cuts), ends=True))
    assert (found.status, found.body, found.error) == (wanted.status, wanted.body, None)


# -- events ----------------------------------------------------------------------------------------------------------

LINE = st.one_of(
    st.just(b""),
    st.just(b"data"),
    st.just(b"data:"),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20).map(lambda t: b"data: " + t.encode()),
    st.text("abc: ", max_size=8).map(lambda t: b"data:" + t.encode()),
    st.sampled_from([b": comment", b"event: x", b"id: 1", b"retry: 5", b"datax: 1", b" data: 1", b"\xef\xbb\xbf"]),
)
STREAM = st.tuples(st.booleans(), st.lists(st.tuples(LINE, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=14))


def plain_parser(stream: bytes) -> list[bytes]:
    """As the HTML standard has it, on the whole stream at once; what the end cuts off counts as an event."""
    stream = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[bytes] = []
    data: list[bytes] = []
    for line in [*stream.split(b"\n"), b""]:
        name, _, value = line.partition(b":")
        if line and name == b"data":
            data.append(value.removeprefix(b" "))
        if not line and data:
            events.append(b"\n".join(data))
            data = []
    return events


@settings(max_examples=100)
@given(made=STREAM, cuts=CUTS)
def test_events_are_those_of_a_plain_parser(made: tuple[bool, list[tuple[bytes, bytes]]], cuts: list[int]) -> None:
    stream = (b"\xef\xbb\xbf" if made[0] else b"") + b"".join(line + end for line, end in made[1])
    wanted = plain_parser(stream)
    for pieces in ([stream], cut(stream, cuts), [stream[i : i + 1] for i in range(len(stream))], [b"", stream, b""]):
        decoder = SseDecoder()
        assert [event for piece in pieces for event in decoder.feed(piece)] + decoder.flush() == wanted
