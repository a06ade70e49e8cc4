"""Any cutting of a stream into reads gives the same events."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.transport.sse import SseDecoder

PAYLOADS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40).map(str.encode), max_size=6
)


@given(payloads=PAYLOADS, line_end=st.sampled_from([b"\n", b"\r\n"]), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_events_do_not_depend_on_where_reads_end(payloads: list[bytes], line_end: bytes, cuts: list[int]) -> None:
    stream = b"".join(b"data: " + p + line_end + b": comment" + line_end + line_end for p in payloads)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder = SseDecoder()
    found = [event for a, b in zip(edges, edges[1:], strict=False) for event in decoder.feed(stream[a:b])]
    assert found + decoder.flush() == payloads


@given(payloads=PAYLOADS)
def test_one_byte_at_a_time(payloads: list[bytes]) -> None:
    stream = b"".join(b"data:" + b" " + p + b"\n\n" for p in payloads)
    decoder = SseDecoder()
    found = [event for byte in stream for event in decoder.feed(bytes([byte]))]
    assert found + decoder.flush() == payloads


def test_several_data_lines_are_one_event_and_other_fields_none() -> None:
    assert SseDecoder().feed(b"event: x\nid: 1\ndata: a\ndata:b\n\nretry: 5\n\n: ping\n\n") == [b"a\nb"]


def test_a_last_event_without_its_blank_line_is_not_lost() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: [DONE]") == []
    assert decoder.flush() == [b"[DONE]"]


def test_a_long_event_in_small_pieces_is_not_searched_again_and_again() -> None:
    decoder = SseDecoder()
    decoder.feed(b"data: ")
    for _ in range(100_000):
        decoder.feed(b"x" * 10)
    assert decoder.feed(b"\n\n") == [b"x" * 1_000_000]
