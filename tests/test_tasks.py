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
