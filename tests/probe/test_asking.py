"""Several questions to one server at the same time."""

from __future__ import annotations

import asyncio

import pytest

from gateway.probe import ProbeFailed
from gateway.probe.asking import together


async def test_answers_come_in_the_order_of_the_questions() -> None:
    first_may = asyncio.Event()

    async def first() -> str:
        await first_may.wait()
        return "first"

    async def second() -> str:
        first_may.set()
        return "second"

    assert await together(first(), second()) == ["first", "second"]


async def test_where_one_fails_the_others_are_not_asked_any_more() -> None:
    given_up = asyncio.Event()

    async def stalls() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async def fails() -> None:
        raise ProbeFailed("wants a key")

    with pytest.raises(ProbeFailed, match="wants a key"):
        await together(stalls(), fails())
    assert given_up.is_set()


async def test_a_cancellation_that_comes_as_a_question_fails_is_not_lost() -> None:
    broken = asyncio.Event()

    async def fails() -> object:
        await broken.wait()
        raise ProbeFailed("broken off")

    asking = asyncio.create_task(together(fails(), fails()))
    await asyncio.sleep(0.01)
    broken.set()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
