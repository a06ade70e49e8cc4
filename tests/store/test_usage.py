"""What was spent, summed beside the journal."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, select

from gateway.costs.ledger import Ledger, UsageSums
from gateway.costs.period import Period
from gateway.store import sqlite, usage
from gateway.store.database import Database, open_database
from gateway.store.feedback import Feedback
from gateway.store.journal import Journal
from gateway.store.residency import ResidencyRow
from gateway.store.spent import groups_of, idle, savings_by_policy, spent
from gateway.store.tables import DRAFTS, JOURNAL, RESIDENCY, USAGE
from gateway.trace import CHECK, RequestTrace, Rival, Spend, Usage
from gateway.trace import Price as PriceOf

MakeTrace = Callable[..., RequestTrace]
DAY_S, HOUR_S = 86_400, 3600
NOON = 1_796_126_400.0  # 2026-12-01T12:00Z

calls = st.tuples(
    st.sampled_from(["core", "expert", "other"]),
    st.sampled_from([None, "json", "timeout"]),
    st.one_of(st.none(), st.floats(0, 10)),
    st.integers(0, 10**6),
    st.one_of(st.none(), st.tuples(st.floats(0, 1e4), st.booleans())),
    st.booleans(),  # asked by a check
)
requests = st.tuples(
    st.sampled_from(["app", "batch", None]),
    st.sampled_from(["default", None]),
    st.lists(calls, max_size=4),
    st.integers(0, 3 * DAY_S),
    st.sampled_from([200, 500]),
)


def trace_of(request: Any) -> RequestTrace:
    key, policy, hops, later_s, status = request
    trace = RequestTrace("auto", key=key)
    trace.policy, trace.route, trace.status, trace.created = policy, "r", status, NOON + later_s
    trace.rivals = (Rival("expert", lambda: PriceOf(1, 2), lambda: None, frozenset({"text"}), None, True),)
    for model, left, cost_usd, tokens, energy, in_check in hops:
        at = trace.span(CHECK, "judge") if in_check else trace
        with at.span("model", model) as hop:
            joules, measured = energy or (None, False)
            hop.spend = Spend(model, Usage(tokens, tokens // 2, tokens // 3), cost_usd, 0.25, "core", joules, measured)
            hop.left = left
            trace.answered_by = model if left is None and not in_check else trace.answered_by
    trace.ended = trace.started
    return trace


def spends_in(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if "spend" in tree:
        yield tree["name"], tree["spend"]
    for child in tree.get("children", ()):
        yield from spends_in(child)


async def from_the_journal(database: Database) -> dict[tuple[str, ...], UsageSums]:
    """By key, policy and model, from the traces as they are stored."""
    found: dict[tuple[str, ...], UsageSums] = defaultdict(UsageSums)
    async with database.read() as connection:
        rows = (await connection.execute(select(JOURNAL))).mappings().all()
    for row in rows:
        where = (row["key"] or "", row["policy"] or "")
        found[(*where, row["model"] or "")].requests += 1
        found[(*where, row["model"] or "")].errors += row["status"] >= 400
        for model, said in spends_in(orjson.loads(row["trace"])):
            tokens = Usage(said["input_tokens"], said["output_tokens"], said["cached_tokens"], said["estimated"])
            told = (said["busy_s"], said["layer"], said.get("joules"), said.get("measured", False))
            found[(*where, model)].add(Spend(model, tokens, said["cost_usd"], *told))
    return found


def alike(one: UsageSums, other: UsageSums) -> bool:
    return all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in zip(astuple(one), astuple(other), strict=True)
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(requests, max_size=12))
async def test_sums_are_those_of_the_journal(database: Database, work: list[Any]) -> None:
    async with database.write() as connection:
        for table in (JOURNAL, USAGE):
            await connection.execute(delete(table))
    journal = Journal(database)
    for request in work:
        journal.record(trace_of(request))
    assert await journal.flush()
    expected = await from_the_journal(database)
    found = {one.group: one.sums for one in await spent(database, ("key", "policy", "model"))}
    assert found.keys() == expected.keys()
    assert all(alike(found[group], expected[group]) for group in expected)
    async with database.write() as connection:  # once they are old they are days, and say the same
        await usage.fold(connection, NOON + 10 * DAY_S)
    again = {one.group: one.sums for one in await spent(database, ("key", "policy", "model"))}
    assert all(alike(again[group], expected[group]) for group in expected)
    async with database.read() as connection:
        assert all(hour % DAY_S == 0 for hour in (await connection.execute(select(USAGE.c.hour))).scalars())


async def test_a_bill_outlives_the_journal_and_a_restart(home: Path, make_trace: MakeTrace) -> None:
    database = await open_database(home)
    journal = Journal(database, max_age_days=1, clock=lambda: time.time() + 3 * DAY_S)
    for _ in range(3):
        journal.record(make_trace(("core", "json", 0.25), ("expert", None, None)))
    assert await journal.flush()
    assert await journal.prune() == 3
    await database.close()
    again = await open_database(home)
    second = Journal(again)
    second.record(make_trace(("core", None, 0.5)))
    await second.close()
    found = {one.group: one for one in await spent(again, ("model", "purpose"))}
    assert found["core", "draft"].sums.cost_usd == 0.75 and found["core", "answer"].sums.cost_usd == 0.5
    unknown = found["expert", "answer"]
    assert (unknown.cost_usd, unknown.sums.unknown_cost, unknown.sums.requests) == (None, 3, 3)
    assert unknown.as_json(("model", "purpose"))["cost_usd"] is None
    await again.close()


async def test_two_writers_add_to_the_same_sums(home: Path, make_trace: MakeTrace) -> None:
    databases = [await open_database(home) for _ in range(2)]
    journals = [Journal(database) for database in databases]
    for _ in range(20):
        for journal in journals:
            for _ in range(3):
                journal.record(make_trace(("core", None, 0.5)))
        assert all(await asyncio.gather(*(journal.flush() for journal in journals)))
    (whole,) = await spent(databases[0])
    assert (whole.sums.requests, whole.sums.cost_usd) == (120, 60.0)
    for database in databases:
        await database.close()


async def test_a_batch_that_fails_after_its_rows_counts_nothing_twice(
    database: Database, make_trace: MakeTrace, caplog: pytest.LogCaptureFixture
) -> None:
    """The write of the sums fails: the rows are rolled back with them."""
    fails = True

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def refuse(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if fails and statement.startswith("INSERT INTO usage"):
            raise sqlite_error()

    journal = Journal(database)
    for _ in range(5):
        journal.record(make_trace(("core", None, 0.5)))
    assert not await journal.flush()
    assert (await spent(database))[0].sums.requests == 0
    async with database.read() as connection:
        assert (await connection.execute(select(JOURNAL))).first() is None
    fails = False
    assert await journal.flush()
    assert (await spent(database))[0].sums.cost_usd == 2.5


def sqlite_error() -> Exception:
    from sqlalchemy.exc import OperationalError

    return OperationalError("INSERT", {}, Exception("database or disk is full"))


async def test_rows_that_were_written_before_a_cut_are_not_counted_again(
    database: Database, make_trace: MakeTrace
) -> None:
    journal = Journal(database)
    traces = [make_trace(("core", None, 0.5)) for _ in range(4)]
    await journal._write(traces)
    await journal._write(traces)  # as after a cancellation that came with the commit
    assert (await spent(database))[0].sums.requests == 4


async def test_what_the_journal_has_no_room_for_is_counted(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database, max_rows_queued=2)
    for _ in range(7):
        journal.record(make_trace(("core", None, 0.5)))
    assert journal.dropped == 5
    assert await journal.flush()
    assert (await spent(database))[0].sums.cost_usd == 3.5
    await journal.close()
    journal.record(make_trace(("core", None, 0.5)))  # its end comes after the journal's
    assert await journal.flush()
    assert (await spent(database))[0].sums.cost_usd == 4.0


async def test_a_row_that_cannot_be_stored_is_spent_once(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    traces = [make_trace(("core", None, 0.5)) for _ in range(3)]
    traces[1].policy = object()  # type: ignore[assignment]  # a bug somewhere else
    traces[2].key = "\ud800"
    for trace in traces:
        journal.record(trace)
    assert await journal.flush()
    found = {one.group: one.sums.cost_usd for one in await spent(database, ("policy", "key"))}
    assert found == {("default", "app"): 0.5, ("<object>", "app"): 0.5, ("default", "?"): 0.5}


async def test_absurd_numbers_keep_nothing_out(database: Database, make_trace: MakeTrace) -> None:
    journal = Journal(database)
    for cost_usd in (math.nan, math.inf, 1.0):
        trace = make_trace(("core", None, cost_usd))
        trace.children[0].spend = Spend("core", Usage(2**70, 2**65), cost_usd, 0.1)
        journal.record(trace)
    assert await journal.flush()
    (whole,) = await spent(database)
    assert (whole.sums.requests, whole.sums.unknown_cost, whole.sums.cost_usd) == (3, 2, 1.0)
    assert whole.sums.input_tokens == 3 * 2**40


async def test_days_are_those_of_utc(database: Database, make_trace: MakeTrace, monkeypatch: Any) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    journal, midnight = Journal(database), NOON + DAY_S / 2
    for at in (midnight - 1, midnight, midnight + HOUR_S + 1):
        trace = make_trace(("core", None, 1.0))
        trace.created = at
        journal.record(trace)
    assert await journal.flush()
    days = [(one.group, one.sums.requests) for one in await spent(database, ("day",))]
    assert days == [(("2026-12-01",), 1), (("2026-12-02",), 2)]
    hours = [one.group[0] for one in await spent(database, ("hour", "model"))]
    assert hours == ["2026-12-01T23:00Z", "2026-12-02T00:00Z", "2026-12-02T01:00Z"]
    assert [one.group for one in await spent(database, ("month",))] == [("2026-12",)]
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("since", "until", "count"),
    [(None, None, 4), (0, None, 4), (1800, None, 4), (3600, None, 3), (None, 3600, 1), (3600, 3 * 3600, 2)],
)
async def test_periods_are_of_whole_hours(
    database: Database, make_trace: MakeTrace, since: float | None, until: float | None, count: int
) -> None:
    journal, now = Journal(database), time.time() // HOUR_S * HOUR_S - 5 * HOUR_S
    for hour in range(4):
        trace = make_trace()
        trace.created = now + hour * HOUR_S + 1200
        journal.record(trace)
    assert await journal.flush()
    period = Period(None if since is None else now + since, None if until is None else now + until)
    assert (await spent(database, (), period))[0].sums.requests == count


async def test_a_key_has_its_own_spending_and_savings(database: Database) -> None:
    journal = Journal(database)
    for key in ("app", "app", "batch"):
        hop = ("expert", None, 2.0, 1_000_000, None, False)
        journal.record(trace_of((key, "default", [hop], 0, 200)))
    assert await journal.flush()
    assert (await spent(database, (), key="batch"))[0].sums.requests == 1
    assert (await spent(database, (), key="nobody"))[0].sums.requests == 0
    (own,) = await savings_by_policy(database, key="app")
    assert own.requests == 2 and own.largest is not None and own.largest.saved_usd == 0
    assert await savings_by_policy(database, key="nobody") == []


async def test_audits_say_how_good_a_model_is(database: Database) -> None:
    """25 drafts of small were audited: 20 say the same; of the 5 others 3 were not accepted."""
    row = {"trace": "0" * 32, "created": NOON, "fingerprint": "", "score": 0.5, "configured": True, "features": "{}"}
    arm = {"arm": "team/default/r/small/er", "model": "small/er", "audited": True}
    drafts = [{**row, **arm, "same": True, "accepted": True}] * 20
    drafts += [{**row, **arm, "same": False, "accepted": number < 2} for number in range(5)]
    drafts += [{**row, **arm, "audited": False, "same": False, "accepted": True}] * 9  # not by chance
    drafts += [{**row, **arm, "same": None, "accepted": True}] * 9
    async with database.write() as connection:
        await connection.execute(DRAFTS.insert(), drafts)
    journal = Journal(database)
    journal.record(trace_of(("app", "team/default", [("expert", None, 1.0, 10, None, False)], 0, 200)))
    assert await journal.flush()
    (found,) = await savings_by_policy(database)
    assert (found.evidence, found.pass_rate) == ("audits", 23 / 25)


async def test_ratings_say_how_good_a_model_is(database: Database) -> None:
    journal, feedback = Journal(database), Feedback(database)
    for number in range(40):
        model = "expert" if number % 2 else "core"
        trace = trace_of(("app", "default", [(model, None, 1.0, 10, None, False)], 0, 200))
        journal.record(trace)
        await feedback.add(trace.id, "rating", number % 4 != 0 if number % 3 else 0.9, None, "app")
        await feedback.add(trace.id, "rating", "so so", None, "app")
    assert await journal.flush()
    (found,) = await savings_by_policy(database)
    assert found.evidence == "ratings"
    bad = len([number for number in range(40) if number % 4 == 0 and number % 3])
    assert found.pass_rate == (40 - bad) / 40


async def test_what_a_model_idled_is_what_it_was_loaded_and_not_busy(database: Database) -> None:
    def step(at: float, model: str, stage: str, reason: str) -> dict[str, Any]:
        row = ResidencyRow(NOON + at, model, stage, reason, "")
        return {name: getattr(row, name) for name in ("at", "model", "stage", "reason", "why")}

    steps = [
        step(0, "", "started", "started"),
        step(10, "core", "loading", "load"),
        step(20, "core", "warm", "loaded"),
        step(30, "other", "warm", "loaded"),
        step(1020, "core", "unloading", "stop"),
        step(2000, "", "started", "started"),  # whatever ended `other`, it is gone
        step(2100, "core", "warm", "loaded"),
    ]
    async with database.write() as connection:
        await connection.execute(RESIDENCY.insert(), steps)
    ledger = Ledger()
    ledger.usage[int(NOON), "app", "p", "r", "core", "core", "answer"] = UsageSums(busy_s=100.0)
    ledger.usage[int(NOON) - HOUR_S, "app", "p", "r", "core", "core", "answer"] = UsageSums(busy_s=900.0)  # before
    ledger.usage[int(NOON), "app", "p", "r", "core:dates", "core", "answer"] = UsageSums(busy_s=50.0)
    async with database.write() as connection:
        await usage.add(connection, ledger)
    core, other = await idle(database, {"core": 3.6}, Period(NOON), now=NOON + 2600)
    assert [core, other] == await idle(database, {"core": 3.6}, now=NOON + 2600), "as far back as that is known"
    assert (core.model, core.loaded_s, core.busy_s, core.idle_s) == ("core", 1500.0, 150.0, 1350.0)
    assert core.idle_usd == pytest.approx(1.35)
    assert (other.loaded_s, other.idle_usd) == (1970.0, None)


def test_groups_are_named_once_and_known() -> None:
    assert groups_of(["key, model", "day", "key"]) == ("key", "model", "day")
    with pytest.raises(ValueError, match="'user' is no group: there are key, policy"):
        groups_of(["user"])


async def test_a_locked_database_loses_no_rowless_spending(
    home: Path, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3
    from contextlib import closing

    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.0)
    database = await open_database(home)
    journal = Journal(database)
    journal.record_spend(make_trace(("core", None, 0.5)))
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not await journal.flush()
        journal.record_spend(make_trace(("core", None, 0.25)))
        other.execute("ROLLBACK")
    assert await journal.flush()
    assert (await spent(database))[0].sums.cost_usd == 0.75
    await database.close()


async def test_random_ends_of_a_process_lose_no_cent(home: Path, make_trace: MakeTrace) -> None:
    """Writes are cut off anywhere; rows and sums stay one."""
    rng = random.Random(7)
    database = await open_database(home)
    journal = Journal(database)
    for _ in range(20):
        for _ in range(10):
            journal.record(make_trace(("core", None, 0.5)))
        writing = asyncio.create_task(journal.flush())
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert await journal.flush()
    assert (await spent(database))[0].sums.requests == 200
    async with database.read() as connection:
        assert len((await connection.execute(select(JOURNAL.c.id))).all()) == 200
    await database.close()
