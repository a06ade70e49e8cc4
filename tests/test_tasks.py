"""Background tasks end, also those that lose a cancellation."""

import asyncio

import pytest

from gateway import tasks


async def test_one_that_swallows_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await tasks.ended([task])
    assert task.cancelled() and swallowed == 2


async def test_one_that_fails_while_it_ends_is_not_in_the_way() -> None:
    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await tasks.ended([task])
    assert isinstance(task.exception(), ValueError)


async def test_results_come_in_the_order_of_the_work() -> None:
    first_may = asyncio.Event()

    async def first() -> str:
        await first_may.wait()
        return "first"

    async def second() -> str:
        first_may.set()
        return "second"

    assert await tasks.together(first(), second()) == ["first", "second"]


async def test_where_one_fails_the_others_do_not_go_on() -> None:
    given_up = asyncio.Event()

    async def stalls() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async def fails() -> None:
        raise ConnectionError("wants a key")

    with pytest.raises(ConnectionError, match="wants a key"):
        await tasks.together(stalls(), fails())
    assert given_up.is_set()


async def test_a_cancellation_that_comes_as_one_fails_is_not_lost() -> None:
    broken = asyncio.Event()

    async def fails() -> object:
        await broken.wait()
        raise ConnectionError("broken off")

    asking = asyncio.create_task(tasks.together(fails(), fails()))
    await asyncio.sleep(0.01)
    broken.set()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
