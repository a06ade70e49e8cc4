"""Places go first come, first served, and none is ever lost or given twice."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engines import Lease
from gateway.engines.places import WAITERS_PER_SLOT, Places
from gateway.errors import BackendTimeout, BackendUnavailable, Overloaded

LEASE = Lease("http://127.0.0.1:9/v1", "key", "core")


def opened(slots: int) -> Places:
    places = Places("core", slots)
    places.open(LEASE)
    return places


async def queued(places: Places, deadline: float | None = None) -> asyncio.Task[Lease]:
    """Somebody who waits for a place."""
    waiting = places.waiting
    task = asyncio.create_task(places.take(deadline))
    while places.waiting == waiting and not task.done():
        await asyncio.sleep(0)
    return task


async def soon(waiter: asyncio.Task[Lease]) -> Lease:
    async with asyncio.timeout(5):
        return await waiter


async def test_first_come_first_served() -> None:
    places = opened(2)
    assert await places.take(None) == await places.take(None) == LEASE
    order: list[int] = []

    async def come(number: int) -> None:
        await places.take(None)
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(come(number))
        await asyncio.sleep(0)
        assert (places.busy, places.waiting) == (2, 6)
        for _ in range(6):
            places.give_back(1.0)
    assert order == list(range(6))
    assert (places.busy, places.waiting) == (2, 0)


async def test_nobody_overtakes_those_who_wait() -> None:
    places = opened(1)
    await places.take(None)
    first = await queued(places)
    places.give_back(1.0)  # granted to `first`, who has not run yet
    second = await queued(places)
    assert await soon(first) == LEASE and not second.done()
    places.give_back(1.0)
    assert await soon(second) == LEASE


async def test_more_than_a_few_waiters_are_refused_with_the_time_to_come_back() -> None:
    places = opened(2)
    for _ in range(2):
        await places.take(None)
    for held_s in (10.0, 20.0):
        places.give_back(held_s)
        await places.take(None)
    waiters = [await queued(places) for _ in range(WAITERS_PER_SLOT * 2)]
    with pytest.raises(Overloaded, match="model 'core' is busy") as caught:
        await places.take(None)
    assert caught.value.retry_after_s == 15.0 * 9 / 2  # mean lease, nine to go, two at a time
    waiters[3].cancel()
    await asyncio.wait({waiters[3]})
    waiters.append(await queued(places))  # its place in the queue is free again
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert (places.busy, places.waiting) == (2, 0)


async def test_the_deadline_ends_the_wait() -> None:
    places = opened(1)
    await places.take(None)
    with pytest.raises(BackendTimeout):
        await places.take(time.monotonic() + 0.02)
    with pytest.raises(BackendTimeout):
        await places.take(time.monotonic() - 1)
    assert (places.busy, places.waiting) == (1, 0)


async def test_who_waits_for_a_server_gets_it_or_the_reason() -> None:
    places = Places("core", 1)
    first, second = await queued(places), await queued(places)
    places.open(LEASE)
    assert await soon(first) == LEASE
    places.refuse(lambda: BackendUnavailable("it broke"))
    with pytest.raises(BackendUnavailable, match="it broke"):
        await soon(second)
    with pytest.raises(BackendUnavailable, match="it broke"):
        await places.take(None)
    places.hold()
    third = await queued(places)
    places.open(LEASE)
    assert not third.done()  # the first still has the only place
    places.give_back(1.0)
    assert await soon(third) == LEASE


async def test_cancelled_in_the_moment_of_the_grant() -> None:
    places = opened(1)
    await places.take(None)
    first, second = await queued(places), await queued(places)
    places.give_back(1.0)
    first.cancel()
    assert await soon(second) == LEASE
    assert first.cancelled() and places.busy == 1


async def test_cancelled_in_the_moment_of_the_refusal() -> None:
    places = Places("core", 1)
    waiter = await queued(places)
    places.refuse(lambda: BackendUnavailable("it broke"))
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(waiter)
    assert (places.busy, places.waiting) == (0, 0)


class Play:
    """Random callers at `places`: each waits, then holds until it is told to let go."""

    def __init__(self, slots: int) -> None:
        self.places = Places("core", slots)
        self.callers: list[asyncio.Task[None]] = []
        self.holders: list[asyncio.Event] = []

    async def call(self, deadline: float | None) -> None:
        await self.places.take(deadline)
        let_go = asyncio.Event()
        self.holders.append(let_go)
        try:
            await let_go.wait()
        finally:
            self.holders.remove(let_go)
            self.places.give_back(1.0)

    async def do(self, action: str, pick: int, rounds: int) -> None:
        match action:
            case "come":
                self.callers.append(asyncio.create_task(self.call(None)))
            case "come in a hurry":
                self.callers.append(asyncio.create_task(self.call(time.monotonic() + pick * 1e-4)))
            case "leave" if self.callers:
                self.callers[pick % len(self.callers)].cancel()
            case "let go" if self.holders:
                self.holders[pick % len(self.holders)].set()
            case "open":
                self.places.open(LEASE)
            case "hold":
                self.places.hold()
            case "refuse":
                self.places.refuse(lambda: BackendUnavailable("it broke"))
        for _ in range(rounds):
            await asyncio.sleep(0)
        assert len(self.holders) <= self.places.busy <= self.places.slots
        assert self.places.waiting <= WAITERS_PER_SLOT * self.places.slots

    async def end(self) -> None:
        """With a server there, nobody waits beside a free place; when everybody has gone, every place is free."""
        self.places.open(LEASE)
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.places.waiting == 0 or self.places.busy == self.places.slots
        for caller in self.callers:
            caller.cancel()
        ends = await asyncio.gather(*self.callers, return_exceptions=True)
        expected = (BackendUnavailable, BackendTimeout, Overloaded, asyncio.CancelledError)
        assert all(end is None or isinstance(end, expected) for end in ends)
        assert (self.places.busy, self.places.waiting) == (0, 0)
        self.places.open(LEASE)
        for _ in range(self.places.slots):
            await self.places.take(time.monotonic() + 5)


ACTIONS = ["come", "come", "come", "come in a hurry", "leave", "let go", "let go", "open", "open", "hold", "refuse"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30), st.integers(0, 3)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(slots=st.integers(1, 3), steps=STEPS)
def test_whatever_happens_no_place_is_lost(slots: int, steps: list[tuple[str, int, int]]) -> None:
    async def run() -> None:
        play = Play(slots)
        for step in steps:
            await play.do(*step)
        await play.end()

    asyncio.run(run())
