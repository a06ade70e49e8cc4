from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import orjson

from gateway.store.rows import MAX_INTEGER, MAX_TEXT, JournalRow, values_of
from gateway.store.tables import JOURNAL
from gateway.trace import RequestTrace, Spend, Usage

MakeTrace = Callable[..., RequestTrace]


def row_of(trace: RequestTrace) -> JournalRow:
    return JournalRow(*values_of(trace))


def test_the_fields_are_the_tables_columns() -> None:
    assert [field.name for field in fields(JournalRow)] == list(JOURNAL.columns.keys())


def test_a_plain_request(make_trace: MakeTrace) -> None:
    trace = make_trace(("core", None, 0.25), ms=12.5)
    assert row_of(trace) == JournalRow(
        id=trace.id,
        created=trace.created,
        key="app",
        policy="default",
        route="rest",
        requested_model="auto",
        model="core",
        path="core",
        stream=True,
        status=200,
        error=None,
        input_tokens=10,
        output_tokens=4,
        cost_usd=0.25,
        escalated=False,
        ms=12.5,
        first_chunk_ms=1.0,
        trace=orjson.dumps(trace.as_json()).decode(),
        tenant=trace.key,
    )


def test_an_escalated_request_sums_the_chain(make_trace: MakeTrace) -> None:
    row = row_of(make_trace(("core", "json_schema", 0.25), ("coder", "timeout", 0.5), ("expert", None, 1.0)))
    assert (row.model, row.path, row.escalated) == ("expert", "core!json_schema,coder!timeout,expert", True)
    assert (row.input_tokens, row.output_tokens, row.cost_usd) == (30, 12, 1.75)


def test_a_second_try_of_the_same_model_is_no_escalation(make_trace: MakeTrace) -> None:
    assert not row_of(make_trace(("core", "timeout", 0.0), ("core", None, 0.0))).escalated


def test_nobody_answered(make_trace: MakeTrace) -> None:
    trace = make_trace(("core", "unavailable", 0.0), ("expert", "timeout", 0.0), status=504, error="upstream_timeout")
    row = row_of(trace)
    assert (row.model, row.escalated, row.status, row.error) == (None, False, 504, "upstream_timeout")


def test_no_model_was_asked() -> None:
    trace = RequestTrace("nonsense")
    trace.status = 404
    row = row_of(trace)
    assert (row.model, row.path, row.cost_usd, row.first_chunk_ms) == (None, "", 0.0, None)
    assert row.ms >= 0


def test_one_unknown_cost_makes_the_sum_unknown(make_trace: MakeTrace) -> None:
    assert row_of(make_trace(("core", "checks", None), ("expert", None, 1.0))).cost_usd is None
    assert row_of(make_trace(("core", "checks", 1.0), ("expert", None, None))).cost_usd is None


def test_the_sums_are_the_traces_own(make_trace: MakeTrace) -> None:
    trace = make_trace(("core", "checks", 0.1), ("expert", None, 0.2))
    row = row_of(trace)
    assert (row.cost_usd, row.path) == (trace.cost_usd, trace.path)


def test_names_that_clients_choose_are_cut() -> None:
    trace = RequestTrace("m" * 100_000)
    trace.error = "e" * 100_000
    row = row_of(trace)
    assert (row.requested_model, row.error) == ("m" * MAX_TEXT, "e" * MAX_TEXT)
    assert orjson.loads(row.trace)["name"] == "m" * MAX_TEXT


def test_facts_that_are_no_json_are_named_by_their_type(make_trace: MakeTrace) -> None:
    trace = make_trace()
    trace.note(odd={1}, path=ValueError("what the user wrote"))
    assert orjson.loads(row_of(trace).trace)["facts"] == {"odd": "<set>", "path": "<ValueError>"}


def test_a_trace_that_is_too_large_or_unwritable_is_cut(make_trace: MakeTrace) -> None:
    for fact, why in (("x" * 100_000, "bytes"), ("\ud800", "surrogates"), (2**70, "64-bit")):
        trace = make_trace()
        trace.note(fact=fact)
        tree = orjson.loads(row_of(trace).trace)
        assert tree.keys() == {"kind", "name", "cut"}
        assert why in tree["cut"]


def test_half_a_surrogate_pair_in_a_name_is_replaced() -> None:
    assert row_of(RequestTrace("a\ud800é")).requested_model == "a?é"


def test_token_counts_beyond_the_database_are_capped(make_trace: MakeTrace) -> None:
    trace = make_trace()
    trace.children[0].spend = Spend("core", Usage(10**30, 10**30), 0.0, 0.0)
    row = row_of(trace)
    assert (row.input_tokens, row.output_tokens) == (MAX_INTEGER, MAX_INTEGER)
