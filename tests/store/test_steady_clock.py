from __future__ import annotations

import pytest

from gateway.store.database import Database
from gateway.store.journal import Journal
from gateway.store.steady_clock import DOUBT_S, SteadyClock
from gateway.trace import RequestTrace

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S


class Clocks:
    """The wall clock and the monotonic one: both go on, only the first is set."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_800_000_000.0, 500.0
        self.steady = SteadyClock(lambda: self.wall, lambda: self.monotonic)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_it_is_the_clock_while_nobody_sets_that() -> None:
    clocks = Clocks()
    for _ in range(3):
        assert clocks.steady() == clocks.wall
        clocks.pass_by(10 * DAY_S)
    clocks.wall += 3600  # the end of winter, or a correction
    assert clocks.steady() == clocks.wall


def test_a_clock_set_forward_is_believed_after_a_day(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    right = clocks.steady()
    clocks.wall += 14 * YEAR_S
    assert clocks.steady() == right
    clocks.pass_by(DOUBT_S / 2)
    assert clocks.steady() == right + DOUBT_S / 2
    assert caplog.text.count("set forward by 5110.0 days") == 1
    clocks.pass_by(DOUBT_S)
    assert clocks.steady() == clocks.wall


def test_a_mistake_that_is_undone_leaves_no_trace_and_the_next_is_doubted_again() -> None:
    clocks = Clocks()
    for _ in range(2):
        clocks.steady()
        clocks.wall += YEAR_S
        clocks.steady()
        clocks.wall -= YEAR_S
        clocks.pass_by(DOUBT_S * 0.7)
        assert clocks.steady() == clocks.wall


def test_a_clock_set_back_is_followed_at_once() -> None:
    clocks = Clocks()
    clocks.wall -= YEAR_S
    assert clocks.steady() == clocks.wall


async def test_the_journal_outlives_a_clock_that_is_wrong_for_an_hour(database: Database) -> None:
    clocks = Clocks()
    journal = Journal(database, max_age_days=30, clock=clocks.steady)
    for _ in range(3):
        trace = RequestTrace("auto")
        trace.created = clocks.wall
        journal.record(trace)
    assert await journal.flush()
    clocks.wall += 14 * YEAR_S
    clocks.pass_by(3600)
    assert await journal.prune() == 0
    clocks.wall -= 14 * YEAR_S
    clocks.pass_by(31 * DAY_S)
    assert await journal.prune() == 3
