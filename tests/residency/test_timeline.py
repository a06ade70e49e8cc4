"""Spans, marks and memory, from what a pool told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.engines import Residency
from gateway.engines.footprint import Footprint
from gateway.errors import BackendUnavailable
from gateway.residency.timeline import Kind, Life, Timeline, timeline
from gateway.store.residency import LIMITS, ResidencyRow
from tests.residency.recorded import EPOCH, MIB, Recorded, record


def drawn(rows: list[ResidencyRow], since: float = 0.0, until: float = 100.0) -> Timeline:
    found = timeline(rows, EPOCH + since, EPOCH + until)
    assert found is not None
    return found


def spans(life: Life) -> list[tuple[float, float, Kind]]:
    """Those that took time."""
    timed = ((round(s.begin - EPOCH, 3), round(s.end - EPOCH, 3), s.kind) for s in life.spans)
    return [span for span in timed if span[1] > span[0]]


def swapped() -> list[ResidencyRow]:
    """Two models, and room for one."""

    async def story(recorded: Recorded) -> None:
        a, b = recorded.model("a", 2, idle_ttl_s=1000), recorded.model("b", 3, idle_ttl_s=10)
        await recorded.start(a, b)
        await asyncio.sleep(5)
        await recorded.ask(a)
        await asyncio.sleep(13)
        await recorded.ask(b)
        await asyncio.sleep(50)

    return record(story, 4)


def test_nothing_recorded_is_no_timeline() -> None:
    assert timeline([], 0, 1) is None


def test_each_model_has_its_spans_and_evictions_are_marked() -> None:
    found = drawn(swapped(), until=60)
    a, b = found.lives
    assert spans(a) == [(5, 6, Kind.LOADING), (6, 20, Kind.LOADED), (20, 20.1, Kind.UNLOADING)]
    assert spans(b) == [
        (20, 20.1, Kind.WAITING),
        (20.1, 21.1, Kind.LOADING),
        (21.1, 32.1, Kind.LOADED),
        (32.1, 32.2, Kind.UNLOADING),
    ]
    assert [(mark.at - EPOCH, mark.what, mark.why) for mark in a.marks] == [(20, "evicted", "makes room for 'b'")]
    assert (a.load_s, b.load_s) == ([1.0], [1.0])
    assert (a.count("evicted"), b.count("evicted")) == (1, 0)
    assert found.loaded_share(a) == 14 / 60


def test_memory_is_what_all_take_and_never_more_than_the_budget() -> None:
    found = drawn(swapped(), until=60)
    assert [(round(at - EPOCH, 3), ram / MIB) for at, (ram, _) in found.memory] == [
        (0, 0),
        (5, 2),
        (20.1, 3),
        (32.2, 0),
    ]
    assert found.budget == (4 * MIB, 0)


def test_a_window_begins_with_how_things_stood() -> None:
    rows = swapped()
    before = [row for row in rows if row.at < EPOCH + 10]
    later = [*{row.model: row for row in before}.values(), *(row for row in rows if row.at >= EPOCH + 10)]
    found = drawn(later, since=10, until=15)
    assert spans(found.lives[0]) == [(10, 15, Kind.LOADED)]
    assert found.lives[0].load_s == [] and found.loaded_share(found.lives[0]) == 1
    assert found.memory == ((EPOCH + 10, (2 * MIB, 0)),)


def test_the_window_begins_no_earlier_than_the_record() -> None:
    assert drawn(swapped(), since=-1000).since == EPOCH


def test_a_start_ends_what_was_there_when_the_gateway_was_killed() -> None:
    rows = [row for row in swapped() if row.at < EPOCH + 10]
    rows.append(replace(rows[0], at=EPOCH + 30))
    found = drawn(rows, until=60)
    assert spans(found.lives[0])[-1] == (6, 30, Kind.LOADED)
    assert found.memory[-1] == (EPOCH + 30, (0, 0))


def test_another_budget_ends_nothing() -> None:
    rows = swapped()
    before = sum(row.at < EPOCH + 10 for row in rows)
    rows.insert(before, ResidencyRow.of_gateway(EPOCH + 10, LIMITS, (9 * MIB, None)))
    found = drawn(rows, until=60)
    assert spans(found.lives[0])[1] == (6, 20, Kind.LOADED) and found.budget == (9 * MIB, None)


def test_crashes_and_failed_starts_are_told() -> None:
    async def story(recorded: Recorded) -> None:
        always = recorded.model("always", residency=Residency.ALWAYS, crashes_after_s=10.0)
        broken = recorded.model("broken", fails=9)
        await recorded.start(always, broken)
        await asyncio.sleep(20)
        try:
            await recorded.ask(broken)
        except BackendUnavailable as error:
            assert "it broke" in error.message
        await asyncio.sleep(20)

    found = drawn(record(story, 2), until=40)
    always, broken = found.lives
    assert spans(always)[:3] == [(0, 1, Kind.LOADING), (1, 11, Kind.LOADED), (11, 12.5, Kind.LOADING)]
    assert always.count("crashed") == 1 and len(always.load_s) == 2
    assert spans(broken)[0][2] is Kind.LOADING and spans(broken)[-1][2] is Kind.FAILED
    assert broken.load_s == [] and "it broke" in broken.spans[-1].why


def test_a_crash_that_nobody_waits_for_is_one_crash() -> None:
    async def story(recorded: Recorded) -> None:
        a = recorded.model("a", crashes_after_s=5.0)
        await recorded.start(a)
        await recorded.ask(a)
        await asyncio.sleep(20)

    (life,) = drawn(record(story)).lives
    assert life.count("crashed") == 1 and spans(life)[-1][2] is not Kind.LOADED


def test_a_model_that_can_never_fit_is_marked_and_takes_nothing() -> None:
    async def story(recorded: Recorded) -> None:
        a = recorded.model("a", 9)
        await recorded.start(a)
        try:
            await recorded.ask(a)
        except BackendUnavailable as error:
            assert "cannot be loaded" in error.message

    found = drawn(record(story))
    assert found.lives[0].count("refused") == 1
    assert {ram for _, (ram, _) in found.memory} == {0}


def test_sleep_is_no_loading_and_keeps_some_memory() -> None:
    async def story(recorded: Recorded) -> None:
        a = recorded.model("a", 4, idle_ttl_s=10, sleeps_in=Footprint(MIB, 0))
        await recorded.start(a)
        await recorded.ask(a)
        await asyncio.sleep(13)
        await recorded.ask(a)

    found = drawn(record(story, 4), until=14)
    (life,) = found.lives
    assert [kind for _, _, kind in spans(life)][:2] == [Kind.LOADING, Kind.LOADED]
    assert Kind.SLEEPING in [kind for _, _, kind in spans(life)]
    assert max(ram for _, (ram, _) in found.memory) == 4 * MIB
    assert MIB in [ram for _, (ram, _) in found.memory]
    assert found.memory[-1][1] != (0, 0)


def test_a_changed_entry_beside_the_one_before_is_loaded_all_the_time() -> None:
    async def story(recorded: Recorded) -> None:
        old = recorded.model("a", 2, residency=Residency.ALWAYS)
        await recorded.start(old)
        await asyncio.sleep(10)
        new = recorded.model("a", 3, residency=Residency.ALWAYS)
        new.world = type(recorded.world)(recorded.world.budget)
        recorded.pool.keep([new])
        await asyncio.sleep(5)
        recorded.pool.current = [new]
        recorded.pool.drop([old])
        await asyncio.sleep(5)

    found = drawn(record(story, 9), until=19)
    assert spans(found.lives[0]) == [(0, 1, Kind.LOADING), (1, 19, Kind.LOADED)]
    assert [ram / MIB for _, (ram, _) in found.memory] == [2, 5, 3]


def test_a_clock_that_is_set_back_makes_no_span_run_backwards() -> None:
    rows = swapped()
    rows[-1] = replace(rows[-1], at=EPOCH)
    for life in drawn(rows).lives:
        assert all(span.begin <= span.end for span in life.spans)


def test_it_is_data_too() -> None:
    told = drawn(swapped(), until=60).as_json()
    a = told["models"][0]
    assert (a["model"], a["loads"], a["mean_load_s"], a["evictions"]) == ("a", 1, 1.0, 1)
    assert a["spans"][1]["kind"] == "loaded" and told["budget"] == {"ram_bytes": 4 * MIB, "gpu_bytes": 0}
    assert told["memory"][1] == {"at": EPOCH + 5, "ram_bytes": 2 * MIB, "gpu_bytes": 0}
