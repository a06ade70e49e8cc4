"""The table of outcomes: it fades, is kept over restarts, and gives way to what was learned."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.capability.table import ANYWHERE, DAY_S, Cell, Table, cells_as_json, read_cells


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def table_of(clock: Clock) -> Table:
    return Table("c1", clock)


def test_outcomes_are_counted_by_cluster_and_model(clock: Clock) -> None:
    table = table_of(clock)
    table.note(3, "core", 1.0, 0.001, 0.5, 20)
    table.note(3, "core", 0.0, None, 1.5, None)
    table.note(4, "core", 1.0)
    table.note(None, "core", None, 0.003)
    near = table.near([(3, 1.0)], "core")
    assert (near.s, near.n, near.calls, near.latency_s) == (1.0, 2.0, 2.0, 2.0)
    assert (near.priced, near.cost_usd, near.counted, near.output_tokens) == (1.0, 0.001, 1.0, 20.0)
    whole = table.of_model("core")
    assert (whole.s, whole.n, whole.priced, whole.cost_usd) == (2.0, 3.0, 2.0, pytest.approx(0.004))
    assert table.near([(3, 1.0)], "expert").n == table.of_model("expert").n == 0
    assert set(table.cells()) == {(3, "core"), (4, "core"), (ANYWHERE, "core")}


def test_a_request_between_clusters_reads_them_in_part(clock: Clock) -> None:
    table = table_of(clock)
    for _ in range(10):
        table.note(1, "core", 1.0)
        table.note(2, "core", 0.0)
    near = table.near([(1, 0.7), (2, 0.3)], "core")
    assert (near.s, near.n) == (pytest.approx(7), pytest.approx(10))


def test_the_old_fades_by_two_percent_a_day(clock: Clock) -> None:
    table = table_of(clock)
    table.note(1, "core", 1.0)
    clock.now += 10 * DAY_S
    assert table.near([(1, 1.0)], "core").n == pytest.approx(0.98**10)
    assert table.of_model("core").n == pytest.approx(0.98**10)
    table.note(1, "core", 0.0)
    assert table.near([(1, 1.0)], "core").n == pytest.approx(1 + 0.98**10)


def test_latencies_keep_their_spread() -> None:
    cell = Cell()
    for i in range(1, 101):
        cell.note(None, None, i / 10, None)
    for share, true in ((0.5, 5.0), (0.95, 9.5)):
        found = cell.latency_quantile_s(share)
        assert found is not None and abs(found / true - 1) < 0.15
    assert Cell().latency_quantile_s(0.5) is None
    cell.note(None, None, 1e9, None)
    cell.note(None, None, 0.0, None)


def test_it_is_the_same_after_a_restart(clock: Clock) -> None:
    before, after = table_of(clock), table_of(clock)
    before.note(1, "core", 1.0, 0.001, 0.5, 20)
    before.note(None, "expert", 0.5)
    assert before.is_changed
    after.restore(before.as_json())
    assert after.as_json() == before.as_json()
    assert after.of_model("core").n == 1


def test_numbers_of_other_clusters_still_say_what_a_model_can_do(clock: Clock) -> None:
    before, after = table_of(clock), Table("c2", clock)
    before.note(1, "core", 1.0)
    before.note(2, "core", 0.0)
    after.restore(before.as_json())
    assert after.near([(1, 1.0)], "core").n == 0
    assert (after.of_model("core").s, after.of_model("core").n) == (1, 2)


def test_what_was_learned_takes_the_place_of_what_it_was_learned_from(clock: Clock) -> None:
    table = table_of(clock)
    table.note(1, "core", 1.0)
    learned_at = clock.now + 1
    learned = table_of(clock)
    learned.note(1, "core", 1.0)
    learned.note(1, "core", 0.0)  # found out later
    clock.now += 2
    table.note(1, "core", 1.0)
    table.adopt(learned.cells(), learned_at)
    near = table.near([(1, 1.0)], "core")
    assert (near.s, near.n) == (pytest.approx(2, rel=1e-4), pytest.approx(3, rel=1e-4))
    assert table.of_model("core").n == pytest.approx(3, rel=1e-4)
    again = table_of(clock)
    again.restore(table.as_json())
    again.adopt(learned.cells(), learned_at)
    assert again.of_model("core").n == pytest.approx(3, rel=1e-4)
    again.adopt(learned.cells(), learned_at + 5)  # a newer one has all of it
    assert again.of_model("core").n == pytest.approx(2, rel=1e-4)


def test_cells_are_read_as_they_are_written(clock: Clock) -> None:
    table = table_of(clock)
    table.note(1, "core", 1.0, 0.25, 0.5, 20)
    assert read_cells(cells_as_json(table.cells())) == table.cells()


@pytest.mark.parametrize("damage", [{"s": "x"}, {"n": None}, {"latencies": 3}, {"at": float("nan")}, {"calls": True}])
def test_damaged_cells_are_refused(damage: dict[str, Any]) -> None:
    cell = Cell(1.0).as_json() | damage
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        read_cells({"core": {"1": cell}})
