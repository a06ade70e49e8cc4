"""Messages between two ends of a pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.errors import BackendUnavailable, GatewayError, Overloaded
from gateway.workers.channel import INTERNAL, Channel, Lost


class Ends:
    """`worker` asks, `supervisor` answers."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.waiting, self.left = asyncio.Event(), asyncio.Event()
        self.is_lost = asyncio.Event()
        handlers = {"add": lambda one, other: one + other, "tell": self.told.append}
        handlers |= {"wait": self._wait, "refuse": self._refuse, "break": lambda: 1 // 0}
        handlers |= {"unsayable": lambda: lambda: None, "refuse oddly": self._refuse_oddly}
        self.supervisor = Channel(handlers, self.is_lost.set)
        self.worker = Channel({}, lambda: None)

    async def _wait(self) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def _refuse_oddly(self) -> None:
        error = Overloaded("too many", retry_after_s=3.0)
        error.headers = {"x": lambda: None}  # type: ignore[dict-item]
        raise error

    async def _refuse(self) -> None:
        raise Overloaded("too many", retry_after_s=3.0)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    found = Ends()
    ours, theirs = socket.socketpair()
    await found.supervisor.open(ours)
    await found.worker.open(theirs)
    yield found
    found.supervisor.close()
    found.worker.close()
    await found.is_lost.wait()


async def test_many_ask_at_once_and_each_gets_its_own_answer(ends: Ends) -> None:
    large = "x" * 300_000  # more than a socket takes at once
    answers = await asyncio.gather(*(ends.worker.ask("add", large, str(number)) for number in range(50)))
    assert answers == [large + str(number) for number in range(50)]


async def test_what_is_told_comes_before_what_is_asked_after_it(ends: Ends) -> None:
    for number in range(10):
        ends.worker.tell("tell", number)
    assert await ends.worker.ask("add", 1, 2) == 3
    assert ends.told == list(range(10))


async def test_errors_come_as_they_were_raised_and_bugs_tell_nothing(ends: Ends) -> None:
    with pytest.raises(Overloaded) as refused:
        await ends.worker.ask("refuse")
    assert refused.value.message == "too many" and refused.value.headers["retry-after"] == "3"
    assert refused.value.status == 429
    with pytest.raises(GatewayError, match=INTERNAL):
        await ends.worker.ask("break")
    assert await ends.worker.ask("add", 1, 2) == 3


async def test_who_asks_for_what_cannot_be_sent_is_told_so(ends: Ends) -> None:
    with pytest.raises(GatewayError, match=INTERNAL):
        await ends.worker.ask("unsayable")
    with pytest.raises(GatewayError, match="too many"):
        await ends.worker.ask("refuse oddly")


async def test_who_leaves_ends_the_work_on_its_question(ends: Ends) -> None:
    asking = asyncio.create_task(ends.worker.ask("wait"))
    await ends.waiting.wait()
    asking.cancel()
    await asyncio.wait_for(ends.left.wait(), 5)
    assert await ends.worker.ask("add", 1, 2) == 3


async def test_where_an_end_is_gone_those_who_wait_are_told_and_its_questions_end(ends: Ends) -> None:
    asking = asyncio.create_task(ends.worker.ask("wait"))
    await ends.waiting.wait()
    ends.worker.close()
    await asyncio.wait_for(ends.left.wait(), 5)
    with pytest.raises(Lost):
        await asking
    with pytest.raises(Lost):
        await ends.worker.ask("add", 1, 2)


def test_every_error_of_a_lease_can_be_sent() -> None:
    from gateway.workers.channel import _unpacked

    for error in (BackendUnavailable("gone", headers={"retry-after": "1"}), Overloaded("full", retry_after_s=1.0)):
        same = _unpacked(type(error), error.args, vars(error))
        assert (type(same), same.args, vars(same), str(same)) == (type(error), error.args, vars(error), str(error))
