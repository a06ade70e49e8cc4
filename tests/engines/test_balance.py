"""Which of several addresses a request goes to, and which are set aside."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chunks import Chunk
from gateway.engines.balance import MUCH_BUSIER, Balance, View, choose, is_much_busier
from gateway.engines.health import Health, Rank
from gateway.errors import AddressFault

VIEWS = st.lists(
    st.builds(
        View,
        rank=st.sampled_from(Rank),
        open=st.integers(0, 20),
        served=st.integers(0, 1000),
        weight=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    ),
    max_size=6,
)


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


# --- the choice


@given(VIEWS, st.none() | st.integers(0, 5))
def test_one_of_the_best_rank_is_chosen_or_none_where_all_are_away(views: list[View], last: int | None) -> None:
    last = last if last is not None and last < len(views) else None
    chosen = choose(views, last)
    there = [view for view in views if view.rank is not Rank.AWAY]
    if chosen is None:
        assert not there
    else:
        assert views[chosen].rank is min(view.rank for view in there)


@given(VIEWS)
def test_nobody_of_its_rank_is_less_busy(views: list[View]) -> None:
    chosen = choose(views)
    if chosen is not None:
        load = views[chosen].open / views[chosen].weight
        assert all(load <= view.open / view.weight for view in views if view.rank is views[chosen].rank)


@given(VIEWS, st.integers(0, 5))
def test_a_conversation_stays_unless_its_address_is_worse_or_much_busier(views: list[View], last: int) -> None:
    if last >= len(views):
        return
    chosen, free = choose(views, last), choose(views)
    if chosen is None or free is None:
        assert chosen is free is None
    elif chosen != last:
        assert chosen == free
        assert views[last].rank is not views[free].rank or is_much_busier(views[last], views[free])
    if chosen is not None and views[last].rank is views[chosen].rank and views[last].weight == 1:
        least = min(view.open / view.weight for view in views if view.rank is views[chosen].rank)
        assert views[chosen].open <= least * views[chosen].weight + MUCH_BUSIER


@given(VIEWS, st.integers(0, 5))
def test_the_choice_depends_on_what_addresses_are_and_not_on_their_order(views: list[View], last: int) -> None:
    last_view = views[last] if last < len(views) else None
    there, back = choose(views, None), choose(views[::-1], None)
    if there is None or back is None:
        assert there is back is None
    else:
        one, other = views[there], views[::-1][back]
        assert (one.open / one.weight, one.served / one.weight) == (
            other.open / other.weight,
            other.served / other.weight,
        )
    if last_view is not None:
        assert choose(views, last) is None or choose(views, last) in range(len(views))


@pytest.mark.parametrize(
    ("open_ones", "last", "chosen"),
    [((0, 0), None, 0), ((1, 0), None, 1), ((1, 0), 0, 0), ((2, 0), 0, 1), ((5, 4), 0, 0), ((6, 4), 0, 1)],
)
def test_two_open_requests_more_are_too_many(open_ones: Sequence[int], last: int | None, chosen: int) -> None:
    assert choose([View(Rank.UP, open=count) for count in open_ones], last) == chosen


def run(balance: Balance, requests: int) -> list[int]:
    """One after the other, each a conversation of its own."""
    places = []
    for number in range(requests):
        visit = balance.visit(f"c{number}")
        assert visit is not None
        with visit:
            places.append(visit.place)
    return places


def test_requests_one_after_the_other_are_shared_out_by_weight() -> None:
    places = run(Balance("m", (3.0, None)), 400)
    assert (places.count(0), places.count(1)) == (300, 100)


def test_places_are_weights_where_every_address_tells_them() -> None:
    both = run(Balance("m", (None, None), slots=lambda place: (4, 12)[place]), 400)
    assert (both.count(0), both.count(1)) == (100, 300)
    one = run(Balance("m", (None, None), slots=lambda place: (4, None)[place]), 400)
    assert (one.count(0), one.count(1)) == (200, 200)


def test_open_requests_are_spread() -> None:
    balance = Balance("m", (None,) * 3)
    for number in range(9):
        visit = balance.visit(str(number))
        assert visit is not None
        visit.__enter__()
    assert [view.open for view in balance.views()] == [3, 3, 3]


def test_a_conversation_comes_back_to_where_it_was() -> None:
    balance = Balance("m", (None,) * 3)
    first = run(balance, 30)
    assert run(balance, 30) == first


def test_a_request_that_moved_is_remembered_where_it_went() -> None:
    balance = Balance("m", (None, None))
    first = balance.visit("c")
    assert first is not None and first.place == 0
    second = balance.visit("c", {0})
    assert second is not None and second.place == 1
    third = balance.visit("c")
    assert third is not None and third.place == 1
    assert balance.visit("c", {0, 1}) is None


def test_so_many_conversations_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.engines.balance.REMEMBERED", 10)
    balance = Balance("m", (None, None))
    run(balance, 100)
    assert list(balance._last) == [f"c{number}" for number in range(90, 100)]


def test_an_address_that_nobody_has_heard_of_is_asked_after_those_that_are_up() -> None:
    ranks = [Rank.UNSURE, Rank.UP]
    balance = Balance("m", (None, None), presence=lambda place: ranks[place])
    assert run(balance, 3) == [1, 1, 1] and balance.up == 1
    ranks[1] = Rank.AWAY
    assert run(balance, 1) == [0] and balance.up == 0 and balance.first_up == 0


# --- health


def fail(health: Health, at: float, fault: AddressFault = AddressFault.UNREACHED, retry_s: float | None = None) -> None:
    health.fail(at, at, fault, retry_s)


def test_pauses_double_up_to_half_a_minute_and_end_with_an_answer() -> None:
    health, now, pauses = Health(), 0.0, []
    for _ in range(8):
        fail(health, now)
        pauses.append(health.resumes_at - now)
        assert health.rank(health.resumes_at - 0.001) is Rank.AWAY
        now = health.resumes_at
        assert health.rank(now) is Rank.UP
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    health.recover(now)
    fail(health, now)
    assert health.resumes_at - now == 1


def test_requests_that_fail_at_the_same_time_count_once() -> None:
    health = Health()
    for ended in (5.0, 5.1, 5.2):
        health.fail(4.0, ended, AddressFault.CUT, None)
    assert health.failures == 1 and health.resumes_at == 6.0


def test_the_end_of_an_older_request_is_no_recovery() -> None:
    health = Health()
    fail(health, 5.0)
    health.recover(4.0)
    assert health.failures == 1
    health.recover(6.0)
    assert health.failures == 0


@pytest.mark.parametrize(("said_s", "pause_s"), [(None, 1), (0.0, 1), (7.0, 7), (3600.0, 30)])
def test_an_address_may_ask_for_a_longer_pause(said_s: float | None, pause_s: float) -> None:
    health = Health()
    fail(health, 5.0, AddressFault.UNAVAILABLE, said_s)
    assert health.resumes_at == 5 + pause_s


def test_one_that_stops_is_not_counted_as_failing() -> None:
    health, now = Health(), 0.0
    for _ in range(4):
        fail(health, now, AddressFault.STOPPING)
        assert health.resumes_at - now == 5
        now = health.resumes_at


def test_a_busy_one_is_asked_last() -> None:
    clock = Clock()
    balance = Balance("m", (None, None), now=clock)
    visit = balance.visit("c")
    assert visit is not None
    with visit:
        visit.note_fault(AddressFault.BUSY, "slow down", 3)
    assert run(balance, 3) == [1, 1, 1] and balance.up == 2
    assert balance.visit("d", {1}) is not None, "where there is no other"
    clock.s += 3
    assert balance.rank(0) is Rank.UP


def test_one_request_at_a_time_tries_an_address_that_has_failed() -> None:
    clock = Clock()
    balance = Balance("m", (None, None), now=clock)
    first = balance.visit("a", {1})
    assert first is not None
    with first:
        first.note_fault(AddressFault.UNREACHED, "gone", None)
    assert balance.visit("b", {1}) is None and balance.resumes_in_s() == 1 and balance.why_away(0) == "gone"
    clock.s += 1
    trial = balance.visit("b", {1})
    assert trial is not None
    with trial:
        assert balance.visit("c", {1}) is None, "one at a time"
    again = balance.visit("c", {1})
    assert again is not None, "nothing has come of it, good or bad"
    with again:
        again.note_answer()
        assert balance.visit("d", {1}) is not None, "it answers, though the request goes on"
        clock.s += 1
        other = balance.visit("d", {1})
        assert other is not None
        with other:
            other.note_fault(AddressFault.CUT, "gone", None)
        clock.s += 1
        assert balance.visit("e", {1}) is not None, "the one before is no trial any more"


async def test_the_first_chunk_shows_that_an_address_answers() -> None:
    clock = Clock()
    balance = Balance("m", (None, None), now=clock)
    got = []

    async def emit(chunk: Chunk) -> None:
        got.append(chunk)

    first = balance.visit("a", {1})
    assert first is not None
    first.note_fault(AddressFault.UNREACHED, "gone", None)
    clock.s += 1
    trial = balance.visit("a", {1})
    assert trial is not None
    with trial:
        assert balance.up == 1
        heard = trial.hear_through(emit)
        for _ in range(2):
            await heard(Chunk({}))
        assert balance.up == 2 and trial.has_spoken
    assert len(got) == 2
    await asyncio.sleep(0)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ask", "ok", "fail", "busy", "wait"])), max_size=60))
def test_whatever_happens_counts_stay_true(steps: list[tuple[int, str]]) -> None:
    clock = Clock()
    balance = Balance("m", (None, 2.0, None), now=clock)
    open_ones = []
    for number, step in steps:
        if step == "ask":
            visit = balance.visit(f"c{number}")
            if visit is not None:
                open_ones.append(visit.__enter__())
        elif step == "wait":
            clock.s += number
        elif open_ones:
            visit = open_ones.pop(number % len(open_ones))
            if step == "ok":
                visit.note_answer()
            else:
                visit.note_fault(AddressFault.UNREACHED if step == "fail" else AddressFault.BUSY, "x", None)
            visit.__exit__(None, None, None)
        views = balance.views()
        assert sum(view.open for view in views) == len(open_ones)
        assert 0 <= balance.up <= 3
        for health in balance._health:
            assert health.trial is None or health.trial in open_ones
    clock.s += 60
    for visit in open_ones:
        visit.__exit__(None, None, None)
    assert all(view.rank is Rank.UP for view in balance.views()), "nothing is set aside for ever"


# --- keys, and other ways to balance


def visited(balance: Balance, clock: Clock, took_s: float, *, conversation: str = "c", streams: bool = True) -> int:
    visit = balance.visit(conversation, streams=streams)
    assert visit is not None
    with visit:
        clock.s += took_s
        visit.note_end()
    return visit.place


def test_least_busy_does_not_care_who_had_a_conversation() -> None:
    balance = Balance("m", (None, None), way="least_busy", now=Clock())
    assert [visited(balance, Clock(), 0) for _ in range(4)] == [0, 1, 0, 1]


def test_by_latency_the_quick_get_the_most_and_the_unknown_a_chance() -> None:
    clock = Clock()
    balance = Balance("m", (None,) * 3, way="latency", now=clock)
    took_s = (1.0, 0.1, 2.0)
    assert [visited(balance, clock, took_s[place]) for place in range(3)] == [0, 1, 2], "each is tried once"
    assert [visited(balance, clock, 0.1) for _ in range(20)] == [1] * 20
    places = []
    for number in range(12):
        visit = balance.visit(str(number))
        assert visit is not None
        places.append(visit.__enter__().place)
    assert places.count(1) == 11 and places.count(0) == 1, "until those that wait there make it as slow as others"


def test_what_was_slow_long_ago_is_tried_again() -> None:
    clock = Clock()
    balance = Balance("m", (None, None), way="latency", now=clock)
    visited(balance, clock, 5.0), visited(balance, clock, 0.1)
    assert {visited(balance, clock, 1.0) for _ in range(30)} == {1}
    clock.s += 40
    assert visited(balance, clock, 0.2) == 0 and balance.views()[0].latency_s == pytest.approx(0.2)


def test_whole_answers_and_first_tokens_are_not_compared() -> None:
    clock = Clock()
    balance = Balance("m", (None, None), way="latency", now=clock)
    visited(balance, clock, 0.1, streams=True)
    assert [view.latency_s for view in balance.views(streams=False)] == [0.0, 0.0]


def test_a_first_token_is_timed_by_what_it_says() -> None:
    clock = Clock()
    balance = Balance("m", (None,), way="latency", now=clock)

    async def emit(chunk: Chunk) -> None:
        pass

    async def hear() -> None:
        visit = balance.visit("c")
        assert visit is not None
        with visit:
            heard = visit.hear_through(emit)
            for said in ({"role": "assistant"}, {"content": "a"}, {"content": "b"}):
                await heard(Chunk({"choices": [{"index": 0, "delta": said}]}))
                clock.s += 1
            visit.note_end()

    asyncio.run(hear())
    assert balance.views()[0].latency_s == 1.0


def test_who_answers_others_is_set_aside_once_it_mostly_fails() -> None:
    clock = Clock()
    balance = Balance("m", (None, None), now=clock)
    visited(balance, clock, 0)
    failures = 0
    while balance.up == 2:
        visit = balance.visit("c", {1})
        assert visit is not None
        with visit:
            visit.note_fault(AddressFault.CUT, "gone", None)
        failures += 1
    assert failures == 7
    often = Health()
    often.recover(0, 0)
    for number in range(1000):
        fail(often, number, AddressFault.CUT)
        often.recover(number, number)
        assert not often.failures, "every other one: the request goes elsewhere, the address need not rest"


def test_the_only_address_is_asked_whatever_happens() -> None:
    balance = Balance("m", (None, None), addresses=(0, 0), now=Clock())
    for _ in range(5):
        visit = balance.visit("c")
        assert visit is not None
        with visit:
            visit.note_fault(AddressFault.UNREACHED, "gone", None)
    assert (balance.up, balance.up_keys, balance.resumes_in_s()) == (1, 2, None)


def test_keys_of_one_address_fail_alone_and_with_it() -> None:
    clock = Clock()
    balance = Balance("m", (None,) * 3, addresses=(0, 0, 1), now=clock)

    def fail_at(place: int, fault: AddressFault) -> bool:
        visit = balance.visit("c", {0, 1, 2} - {place})
        assert visit is not None and visit.place == place
        with visit:
            return visit.note_fault(fault, "no", None)

    assert fail_at(0, AddressFault.KEY)
    assert (balance.up, balance.up_keys) == (2, 2)
    assert fail_at(1, AddressFault.UNREACHED)
    assert (balance.up, balance.up_keys) == (1, 1) and not balance.has_no_key
    clock.s += 1
    assert (balance.up, balance.up_keys) == (2, 2)
    assert fail_at(1, AddressFault.KEY) and fail_at(2, AddressFault.KEY)
    assert balance.has_no_key and balance.resumes_in_s() == 599


def test_when_the_first_of_them_is_ready() -> None:
    clock = Clock()
    balance = Balance("m", (None,) * 3, addresses=(0, 0, 1), now=clock)
    faults = ((0, AddressFault.KEY, None), (1, AddressFault.BUSY, 20.0), (2, AddressFault.UNAVAILABLE, 5.0))
    for place, fault, asked_s in faults:
        assert balance.ready_in_s() == 0
        visit = balance.visit("c", {0, 1, 2} - {place})
        assert visit is not None
        with visit:
            visit.note_fault(fault, "no", asked_s)
    assert balance.ready_in_s() == 5, "the one that is back soonest; a key that is refused is none"
    clock.s += 30
    assert balance.ready_in_s() == 0
