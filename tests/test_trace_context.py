"""W3C Trace Context: what is understood, what is ignored, what is sent on."""

from __future__ import annotations

import pytest

from gateway.trace import Trace
from gateway.trace_context import MOST_STATE, TraceContext, new_span_id, read_context

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


def read(parent: str, state: str = "") -> TraceContext | None:
    return read_context({"traceparent": parent, "tracestate": state}, has_spans=True)


def test_a_context_is_read_and_goes_on_with_the_hop_that_asks() -> None:
    context = read(GOOD, "rojo=1, congo=t61 ,")
    assert context is not None and context.is_sampled
    assert (context.trace_id, context.parent_id, context.state) == (TRACE, PARENT, "rojo=1,congo=t61")
    span = new_span_id()
    assert context.headers(span) == {"traceparent": f"00-{TRACE}-{span}-01", "tracestate": "rojo=1,congo=t61"}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        GOOD[:-1],
        GOOD.upper(),
        f" {GOOD}",
        f"{GOOD}-",
        f"{GOOD}-more",
        f"{GOOD}.",
        f"{GOOD}, {GOOD}",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"01-{TRACE}-{PARENT}-01.what-the-future-may-bring",
        "\u0660" * 55,
    ],
)
def test_what_the_standard_says_to_ignore_is_ignored(parent: str) -> None:
    assert read(parent, "a=1") is None


@pytest.mark.parametrize(
    ("flags", "is_sampled", "sent"), [("00", False, "00"), ("01", True, "01"), ("03", True, "03"), ("fe", False, "02")]
)
def test_flags_that_nobody_knows_are_not_sent_on(flags: str, is_sampled: bool, sent: str) -> None:
    context = read(f"00-{TRACE}-{PARENT}-{flags}")
    assert context is not None and context.is_sampled is is_sampled
    assert context.headers(PARENT)["traceparent"].endswith(f"-{sent}")


def test_later_versions_are_read_as_far_as_they_are_known() -> None:
    context = read(f"cc-{TRACE}-{PARENT}-01-what-the-future-may-bring")
    assert context is not None and context.headers(PARENT)["traceparent"] == GOOD


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("foo=1,bar=2", "foo=1,bar=2"),
        ("a/b@c-d_e*=!x", "a/b@c-d_e*=!x"),
        ("1a-2f@foo=bar1", "1a-2f@foo=bar1"),
        ("foo=1,foo=2", ""),
        ("foo", ""),
        ("foo=", ""),
        ("FOO=1", ""),
        ("foo=a=b", ""),
        ("foo =1", ""),
        ("foo=\u00e9", ""),
        (",".join(f"k{i}=1" for i in range(33)), ""),
        (",".join(f"k{i}=1" for i in range(32)), ",".join(f"k{i}=1" for i in range(32))),
    ],
)
def test_a_state_goes_on_as_it_is_or_not_at_all(given: str, kept: str) -> None:
    context = read(GOOD, given)
    assert context is not None and context.state == kept


def test_of_a_long_state_the_oldest_members_go() -> None:
    context = read(GOOD, ",".join(f"k{i}={'v' * 100}" for i in range(8)))
    assert context is not None and len(context.state) <= MOST_STATE
    assert [member[:2] for member in context.state.split(",")] == ["k0", "k1", "k2", "k3"]


def test_where_there_are_no_spans_it_goes_on_as_it_came() -> None:
    context = read_context({"traceparent": GOOD}, has_spans=False)
    assert context is not None and context.headers(new_span_id()) == {"traceparent": GOOD}


def test_hops_share_the_context_and_each_has_an_id_of_its_own() -> None:
    context = TraceContext(TRACE, None, 1)
    root = Trace("request", "", context)
    hops = [root.span("tier", "one"), root.span("tier", "two").span("model", "m")]
    assert all(hop.context is context for hop in hops)
    ids = {hop.span_id for hop in (root, *hops)}
    assert len(ids) == 3 and all(len(one) == 16 and set(one) != {"0"} for one in ids)
    assert hops[0].span_id == hops[0].span_id
