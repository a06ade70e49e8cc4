"""Hours on the replay's clock take no time, and threads are waited for."""

import asyncio
import time

from gateway.learning.virtual_clock import VirtualClock


def run(main: object) -> object:
    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        return runner.run(main)  # type: ignore[arg-type]


def test_an_hour_passes_at_once_and_to_the_second() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(10))
        return loop.time()

    started = time.monotonic()
    assert run(main()) == 3600.0
    assert time.monotonic() - started < 5


def test_of_two_waits_the_shorter_ends_first() -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def note(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(name)

        await asyncio.gather(note("late", 200), note("early", 100))
        return order

    assert run(main()) == ["early", "late"]


def test_a_thread_is_waited_for_before_a_timer_is_skipped_to() -> None:
    async def main() -> str:
        async with asyncio.timeout(30):
            await asyncio.to_thread(time.sleep, 0.05)
            return "came"

    assert run(main()) == "came"


def test_a_timeout_ends_what_takes_longer() -> None:
    async def main() -> float:
        try:
            async with asyncio.timeout(30):
                await asyncio.sleep(31)
        except TimeoutError:
            return asyncio.get_running_loop().time()
        return -1

    assert run(main()) == 30.0
