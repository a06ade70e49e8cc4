"""Who gets which slot of a server."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines import Lease, slots
from gateway.engines.slots import WORTH_STORING_TOKENS, Slot, SlotTable
from gateway.engines.wishes import Wish
from tests.engines import test_pool_schedules
from tests.engines.virtual import Played, VirtualLoop, run


def seat(table: SlotTable, conversation: str, tokens: int = 0) -> Slot:
    """A whole request."""
    slot = table.take(conversation)
    assert slot is not None
    table.begin(slot, conversation)
    table.give_back(slot, tokens)
    return slot


def test_a_conversation_returns_to_its_slot() -> None:
    table = SlotTable(3)
    first = [seat(table, name).id for name in "abc"]
    assert sorted(first) == [0, 1, 2]
    assert [seat(table, name).id for name in "cabbac"] == [first[2], first[0], first[1], first[1], first[0], first[2]]


def test_a_new_one_gets_an_empty_slot_then_the_least_recently_used() -> None:
    table = SlotTable(2)
    a, b = seat(table, "a"), seat(table, "b")
    assert a.id != b.id
    seat(table, "a")
    assert seat(table, "c") is b
    assert seat(table, "a") is a


def test_a_slot_of_which_nothing_is_known_counts_as_empty() -> None:
    table = SlotTable(2)
    a, b = seat(table, "a"), seat(table, "b")
    table.empty(b)
    assert seat(table, "c") is b
    assert seat(table, "a") is a


def test_a_second_request_of_a_conversation_gets_another_slot_and_the_last_one_is_remembered() -> None:
    table = SlotTable(3)
    first = table.take("a")
    second = table.take("a")
    assert first is not None and second is not None and first is not second
    for slot in (first, second):
        table.begin(slot, "a")
    table.give_back(second, 600)
    table.give_back(first, 700)
    assert table.take("a") is first
    assert table.take("a") is second


def test_nobody_is_given_a_slot_where_none_is_free() -> None:
    table = SlotTable(1)
    assert table.take("a") is not None and table.take("a") is None and table.take(None) is None


def test_a_slot_holds_the_old_conversation_until_the_new_one_begins() -> None:
    table = SlotTable(1)
    seat(table, "a", 600)
    slot = table.take("b")
    assert slot is not None and slot.conversation == "a" and table.is_worth_storing(slot)
    table.begin(slot, "b")
    assert slot.conversation == "b" and not table.is_worth_storing(slot)


def test_what_is_worth_storing() -> None:
    table = SlotTable(5)
    long = WORTH_STORING_TOKENS
    seat(table, "short", long - 1)
    seat(table, "unknown")
    a, b = seat(table, "a", long), seat(table, "b", 9 * long)
    busy = table.take("c")
    assert busy is not None
    table.begin(busy, "c", 9 * long)
    assert table.worth_storing() == [b, a]
    table.note_stored("b")
    assert table.worth_storing() == [a]
    seat(table, "b")  # which has gone on, and nobody knows how far
    assert table.worth_storing() == [b, a]


def test_after_the_server_has_chosen_by_itself_nothing_is_stored_but_conversations_keep_their_slots() -> None:
    table = SlotTable(2)
    a = seat(table, "a", 900)
    unknown = table.take(None)
    assert unknown is not None
    table.empty(unknown)
    table.give_back(unknown)
    table.doubt()
    assert table.worth_storing() == []
    assert seat(table, "a", 950) is a
    assert table.worth_storing() == [a]


def test_only_so_many_conversations_are_remembered() -> None:
    table = SlotTable(1)
    for number in range(slots.REMEMBERED + 10):
        seat(table, str(number))
    assert not table.is_ahead("9") and table.is_ahead("10")


def test_the_folder_is_that_of_its_server() -> None:
    assert SlotTable(1).folder is None and SlotTable(1, Path("x")).folder == Path("x")


STEPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 7), st.integers(0, 2000)), max_size=80)


@given(st.integers(1, 4), STEPS)
def test_no_slot_is_given_twice_and_free_ones_are_returned_to(count: int, steps: list[tuple[str, int, int]]) -> None:
    """Each step takes a slot for a conversation if one is free, else gives one back."""
    table, open_ones = SlotTable(count), list[Slot]()
    for conversation, place, tokens in steps:
        if place % 3 and len(open_ones) < count:
            holders = {slot.id for slot in table.slots if slot.is_free and slot.conversation == conversation}
            empty = {slot.id for slot in table.slots if slot.is_free and slot.conversation is None}
            slot = table.take(conversation)
            assert slot is not None and slot not in open_ones
            assert not holders or slot.id in holders
            assert holders or not empty or slot.id in empty
            table.begin(slot, conversation)
            open_ones.append(slot)
        elif open_ones:
            table.give_back(open_ones.pop(place % len(open_ones)), tokens)
        assert {slot.id for slot in table.slots if not slot.is_free} == {slot.id for slot in open_ones}
        stored = table.worth_storing()
        assert all(slot.is_free and slot.tokens >= WORTH_STORING_TOKENS for slot in stored)
        assert len({slot.conversation for slot in stored}) == len(stored)


@dataclass(eq=False)
class Seats(Played):
    """A played engine whose server has slots to choose from."""

    def slot_folder(self) -> Path | None:
        return None


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_in_random_schedules_no_slot_is_leased_twice(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_pool_schedules, "Played", Seats)
    for seed in range(start, start + 100):
        faults: list[str] = []

        async def main(loop: VirtualLoop, seed: int = seed, faults: list[str] = faults) -> None:
            schedule = test_pool_schedules.Schedule(seed, loop)
            lease, draw, world = schedule.pool.lease, random.Random(seed), schedule.world
            taken: set[tuple[object, ...]] = set()

            @asynccontextmanager
            async def watched(engine: Seats, deadline: float | None, wish: Wish) -> AsyncIterator[Lease]:
                wish.conversation = draw.choice(["a", "b", "c", None])
                async with lease(engine, deadline, wish) as given:
                    seat = (engine.name, world.run.get(engine.name, 0), given.slot)
                    if given.slot is None:
                        assert wish.conversation is None
                        yield given
                        return
                    if seat in taken or not 0 <= given.slot < engine.slots:
                        faults.append(f"{seat} is leased twice, or not there")
                    taken.add(seat)
                    try:
                        yield given
                    finally:
                        taken.discard(seat)

            monkeypatch.setattr(schedule.pool, "lease", watched)
            await schedule.play()
            faults += world.faults

        run(main)
        assert faults == [], f"schedule {seed}"
