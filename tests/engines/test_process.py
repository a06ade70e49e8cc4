"""A child process is started, watched, started again, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from gateway.engines import Launch
from gateway.engines.capped_log import CappedLog
from gateway.engines.environment import without_secrets
from gateway.engines.process import ChildProcess, Patience, State
from gateway.errors import EngineError
from tests.engines.conftest import QUICK, Watch, Watched
from tests.engines.fakes import KEY, Fake, is_known


def is_ready(child: Watched) -> bool:
    return child.state is State.READY


def has_failed(child: Watched) -> bool:
    return child.state is State.FAILED


async def test_it_starts_and_stops(watch: Watch) -> None:
    child = watch(Fake())
    assert (child.state, child.lease, child.pid) == (State.STOPPED, None, None)
    child.start()
    await child.until(is_ready)
    pid = child.pid
    assert pid is not None and child.lease is not None and child.loaded_s is not None
    assert (child.lease.url, child.lease.key, child.lease.id) == (f"http://127.0.0.1:9/{pid}", KEY, "fake")
    assert KEY not in repr(child.lease) + repr(Fake().launch())
    await child.stop()
    assert not is_known(pid)  # not even a zombie
    assert child.states == ["starting", "ready", "stopped"]
    assert child.lease is None and child.restarts == 0


async def test_it_has_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(watch: Watch) -> None:
    child = watch(Fake())
    child.start()
    await child.until(is_ready)
    assert child.pid is not None and os.getsid(child.pid) == child.pid


async def test_killed_it_is_started_again(watch: Watch) -> None:
    child = watch(Fake())
    child.start()
    await child.until(is_ready)
    pid = child.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await child.until(lambda child: child.restarts == 1 and child.state is State.READY)
    assert child.last_error == "it crashed (SIGKILL)"
    assert child.pid not in (None, pid) and not is_known(pid)
    assert "failed" not in child.states  # those who wait go on waiting


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        ("crash at start", "it ended while starting (SIGSEGV)"),
        ("quit at start", "it ended while starting (exit status 3)"),
        ("fail", "its model file is missing"),
        ("garbage", "its first words were not that it is ready"),
        ("endless garbage", "its first words were not that it is ready"),
    ],
)
async def test_a_failed_start_has_a_reason_and_is_tried_again(watch: Watch, play: str, reason: str) -> None:
    child = watch(Fake(play))
    child.start()
    await child.until(has_failed)
    assert (child.last_error, child.pid) == (reason, None)
    await child.until(lambda child: child.restarts == 2)
    assert "ready" not in child.states
    if play == "crash at start":
        assert child.last_lines[0] == "the reason is here"


async def test_a_command_that_does_not_exist_is_a_failed_start(watch: Watch) -> None:
    class Missing(Fake):
        def launch(self) -> Launch:
            return replace(super().launch(), argv=("/nonexistent/llama-server",))

    child = watch(Missing())
    child.start()
    await child.until(has_failed)
    assert child.last_error == "it cannot be started: No such file or directory"


async def test_an_engine_that_breaks_is_a_failed_start(watch: Watch) -> None:
    class Broken(Fake):
        def launch(self) -> Launch:
            raise LookupError("a bug")

    child = watch(Broken())
    child.start()
    await child.until(has_failed)
    assert child.last_error == "it cannot be started"


async def test_a_start_that_takes_too_long_is_killed(watch: Watch) -> None:
    child = watch(Fake("never ready"), patience=replace(QUICK, start_s=0.2))
    child.start()
    while child.pid is None:
        await asyncio.sleep(0)
    pid = child.pid
    await child.until(has_failed)
    assert child.last_error == "it was not ready within 0.2 s"
    assert not is_known(pid)


async def test_a_crash_right_after_the_ready_line_is_a_crash(watch: Watch) -> None:
    child = watch(Fake("crash once ready"))
    child.start()
    await child.until(lambda child: child.restarts == 2)
    assert child.last_error == "it crashed (exit status 7)"
    assert child.states[:3] == ["starting", "ready", "starting"]


@pytest.mark.parametrize("play", ["deaf to stdin", "deaf"])
async def test_one_that_does_not_go_is_killed(watch: Watch, play: str) -> None:
    child = watch(Fake(play), patience=replace(QUICK, exit_s=0.1, terminate_s=0.1))
    child.start()
    await child.until(is_ready)
    pid = child.pid
    assert pid is not None
    await child.stop()
    assert not is_known(pid)


async def test_stopping_while_it_starts_does_not_wait(watch: Watch) -> None:
    child = watch(Fake("never ready"), patience=replace(QUICK, exit_s=60))
    child.start()
    while child.pid is None:
        await asyncio.sleep(0)
    pid = child.pid
    async with asyncio.timeout(5):
        await child.stop()
    assert not is_known(pid)


async def test_stopping_before_it_was_spawned_and_twice(watch: Watch) -> None:
    child = watch(Fake())
    child.start()
    await child.stop()
    await child.stop()
    assert child.states[-1] == "stopped" and child.pid is None
    child.start()
    await child.until(is_ready)


async def test_a_stop_that_is_cancelled_still_ends_the_child(watch: Watch) -> None:
    child = watch(Fake("deaf to stdin"), patience=replace(QUICK, exit_s=0.2, terminate_s=5))
    child.start()
    await child.until(is_ready)
    pid = child.pid
    assert pid is not None
    (supervision,) = asyncio.all_tasks() - {asyncio.current_task()}
    stopping = asyncio.create_task(child.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait({stopping, supervision}, timeout=10)
    assert not is_known(pid)


async def test_supervision_cancelled_twice_kills_at_once(watch: Watch) -> None:
    child = watch(Fake("deaf"), patience=replace(QUICK, exit_s=60, terminate_s=60))
    child.start()
    await child.until(is_ready)
    pid = child.pid
    assert pid is not None
    (supervision,) = asyncio.all_tasks() - {asyncio.current_task()}
    for _ in range(2):
        supervision.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({supervision}, timeout=10)
    assert not is_known(pid)


class Clock:
    """Goes only when somebody sleeps, or is told to."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class Unstartable(Fake):
    def launch(self) -> Launch:
        raise EngineError("no such engine")


async def test_pauses_double_up_to_the_longest(watch: Watch) -> None:
    clock = Clock()
    child = watch(Unstartable(), patience=Patience(), now=clock.now, sleep=clock.sleep)
    child.start()
    await child.until(lambda child: child.restarts >= 9)
    assert clock.slept[:9] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert child.last_error == "no such engine"


async def test_pauses_are_short_again_after_good_health(watch: Watch) -> None:
    clock = Clock()
    child = watch(Fake(), patience=Patience(), now=clock.now, sleep=clock.sleep)
    child.start()
    for healthy_s, pause_s in [(0, 0.5), (59, 1), (0, 2), (60, 0.5), (1, 1)]:
        await child.until(is_ready)
        clock.time += healthy_s
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await child.until(lambda child: not is_ready(child))
        await child.until(is_ready)
        assert clock.slept[-1] == pause_s


async def test_what_it_prints_is_logged_without_its_key(watch: Watch, tmp_path: Path) -> None:
    child = watch(Fake("talk"))
    child.start()
    await child.until(is_ready)
    await child.stop()
    assert len(child.last_lines) == 50 and child.last_lines[-2] == "line 99"
    assert child.last_lines[-1] == "last words without an end of line"
    path = tmp_path / "logs" / "fake.log"
    text = path.read_text()
    assert "my key is ***" in text and KEY not in text
    assert "not \ufffd utf-8\n" in text and "line 0\n" in text
    assert path.stat().st_mode & 0o077 == 0


def test_a_full_log_is_moved_aside(tmp_path: Path) -> None:
    lines = CappedLog(tmp_path / "logs" / "core.log", cap_bytes=1000)
    for i in range(100):
        lines.write(f"{i} " + "x" * 100)
    lines.close()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "logs").iterdir()}
    assert set(sizes) == {"core.log", "core.log.1"} and max(sizes.values()) < 1200
    assert f"{99} x" in (tmp_path / "logs" / "core.log").read_text()


def test_a_log_that_cannot_be_written_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    lines = CappedLog(tmp_path / "logs" / "core.log")
    lines.write("lost")
    lines.close()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops(loop_factory: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path) -> None:
    async def live() -> None:
        child = Watched(Fake(), tmp_path / "fake.log")
        child.start()
        await child.until(is_ready)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await child.until(lambda child: child.restarts == 1 and is_ready(child))
        pid = child.pid
        await child.stop()
        assert not is_known(pid)
        failing = Watched(Fake("crash at start"), tmp_path / "failing.log")
        failing.start()
        await failing.until(lambda child: child.restarts == 1)
        assert failing.last_error == "it ended while starting (SIGSEGV)"
        assert failing.last_lines[0] == "the reason is here"
        await failing.stop()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())


def test_a_gateway_that_just_ends_its_loop_leaves_nothing(tmp_path: Path) -> None:
    async def live() -> int:
        child = Watched(Fake(), tmp_path / "fake.log")
        child.start()
        await child.until(is_ready)
        assert child.pid is not None
        return child.pid

    assert not is_known(asyncio.run(live()))  # which cancels what still runs


def test_the_default_is_to_tell_nobody(tmp_path: Path) -> None:
    async def live() -> State:
        child = ChildProcess("fake", Fake().launch, CappedLog(tmp_path / "fake.log"))
        child.start()
        await child.stop()
        return child.state

    assert asyncio.run(live()) is State.STOPPED


async def test_the_end_of_the_pause_is_known_as_soon_as_the_crash_is(watch: Watch) -> None:
    child = watch(Fake(), patience=replace(QUICK, first_retry_s=60, longest_retry_s=60))
    seen: list[tuple[str, bool]] = []
    inner = child._on_change

    def note() -> None:
        seen.append((str(child.state), child.resumes_at is not None))
        inner()

    child._on_change = note
    child.start()
    await child.until(lambda c: c.state == "ready")
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    await child.until(lambda c: c.state == "starting")
    assert seen == [("starting", False), ("ready", False), ("starting", True)]


def test_a_child_is_handed_no_keys() -> None:
    given = {"PATH": "/bin", "HOME": "/root", "OPENAI_API_KEY": "a", "AWS_SECRET_ACCESS_KEY": "b", "DB_PASSWORD": "c"}
    given |= {"GITHUB_TOKEN": "d", "HF_TOKEN": "e", "TOKENIZERS_PARALLELISM": "0", "KEYBOARD": "us", "API_KEY": "f"}
    assert set(without_secrets(given)) == {"PATH", "HOME", "HF_TOKEN", "TOKENIZERS_PARALLELISM", "KEYBOARD"}
