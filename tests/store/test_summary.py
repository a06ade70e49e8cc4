from __future__ import annotations

from collections.abc import Callable

from gateway.store.database import Database
from gateway.store.journal import Journal
from gateway.store.summary import MOST_PATHS, Summary, Tally
from gateway.trace import RequestTrace

MakeTrace = Callable[..., RequestTrace]
NOTHING = Tally(0, 0, 0, 0, 0.0, 0)


async def test_an_empty_journal(database: Database) -> None:
    summary = await Journal(database).summary()
    assert summary == Summary(None, NOTHING, (), (), (), 0, 0, None, None)
    assert summary.escalation_rate is None
    assert summary.total.cost_usd == 0.0


async def test_requests_are_counted_by_who_answered_how_and_why(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    refused = RequestTrace("nonsense")
    refused.status = 404
    cut = make_trace(("expert", None, None), status=200, error="bad_upstream_reply")
    escalated = [make_trace(("core", "json", 0.0), ("expert", None, 0.5)) for _ in range(2)]
    for trace in [make_trace(("core", None, 0.25)) for _ in range(5)] + escalated + [cut, refused]:
        journal.record(trace)
    summary = await journal.summary()  # flushes what waits
    assert summary.total == Tally(9, 2, 100, 40, 2.25, 1)
    assert summary.total.cost_usd is None
    assert summary.by_model == (
        ("core", Tally(5, 0, 50, 20, 1.25, 0)),
        ("expert", Tally(3, 1, 50, 20, 1.0, 1)),
        (None, Tally(1, 1, 0, 0, 0.0, 0)),
    )
    assert [path for path, _ in summary.by_path] == ["core", "core!json,expert", "", "expert"]
    assert [(route, tally.requests) for route, tally in summary.by_route] == [("default/rest", 8), ("-/-", 1)]
    assert (summary.answered, summary.escalated, summary.escalation_rate) == (8, 2, 0.25)


async def test_only_requests_since_then_count(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    for created in (100.0, 200.0, 300.0):
        trace = make_trace()
        trace.created = created
        journal.record(trace)
    assert (await journal.summary(since=200.0)).total.requests == 2
    assert (await journal.summary(since=301.0)).total == NOTHING


async def test_quantiles_are_of_answered_requests(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    for ms in range(100, 0, -1):
        journal.record(make_trace(ms=ms))
    for _ in range(50):
        journal.record(make_trace(("core", "unavailable", 0.0), ms=100_000, status=503))
    summary = await journal.summary()
    assert (summary.p50_ms, summary.p95_ms) == (50.0, 95.0)


async def test_the_most_frequent_paths_are_named(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    for number in range(MOST_PATHS + 5):
        for _ in range(number // 10 + 1):
            journal.record(make_trace((f"m{number}", None, 0.0)))
    summary = await journal.summary()
    assert len(summary.by_path) == MOST_PATHS
    assert {path for path, _ in summary.by_path[:5]} == {f"m{number}" for number in range(20, 25)}
