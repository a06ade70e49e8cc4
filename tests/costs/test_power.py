"""Energy, read from a tree like the kernel's and divided between calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends.openai import OpenAIBackend
from gateway.chat import ChatRequest
from gateway.costs.meter import CORE, Meter, Used
from gateway.costs.power import Counter, Power, RaplCounter, Shares, find_counters
from gateway.trace import Trace
from tests.conftest import build_from

RANGE_UJ = 262_143_328_850


def domain(root: Path, number: str, name: str, uj: int) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return folder


def test_packages_and_memory_count_once(tmp_path: Path) -> None:
    for number, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "package-1"), ("2", "psys")):
        domain(tmp_path, number, name, 1_000_000)
    (tmp_path / "intel-rapl").mkdir()
    counters = find_counters(tmp_path)
    assert len([one for one in counters if isinstance(one, RaplCounter)]) == 3
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("6000000")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("9000000")
    (tmp_path / "intel-rapl:0:1" / "energy_uj").write_text("1500000")
    assert sum(one.joules() for one in counters) == 5.5


def test_a_counter_that_begins_again_goes_on(tmp_path: Path) -> None:
    folder = domain(tmp_path, "0", "package-0", RANGE_UJ - 1_000_000)
    counter = RaplCounter(folder)
    assert counter.joules() == 0
    (folder / "energy_uj").write_text("2000000")
    assert counter.joules() == pytest.approx(3.000001)
    (folder / "energy_uj").write_text("5000000")
    assert counter.joules() == pytest.approx(6.000001)


def test_what_may_not_be_read_is_not_there(tmp_path: Path) -> None:
    folder = domain(tmp_path, "0", "package-0", 1)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # as root, a file of mode 0 can still be read
    assert [one for one in find_counters(tmp_path) if isinstance(one, RaplCounter)] == []
    assert [one for one in find_counters(tmp_path / "nothing") if isinstance(one, RaplCounter)] == []


def test_calls_share_an_interval_by_the_seconds_that_they_ran() -> None:
    shares = Shares()
    long = shares.begin(0.0)
    shares.look(0.0, 1000.0)
    short = shares.begin(3.0)
    shares.look(4.0, 1100.0)  # 100 J for 4 + 1 seconds of calls: 20 W each
    assert (long.joules, short.joules) == (80.0, 20.0)
    shares.look(6.0, 1180.0)  # 80 J for 2 + 2
    assert shares.end(long, 6.0) == 120.0
    assert shares.end(short, 7.0) == 60.0 + 20.0, "its last second at the rate before"


def test_what_is_drawn_while_nobody_runs_is_nobodys() -> None:
    shares = Shares()
    first = shares.begin(0.0)
    shares.look(0.0, 0.0)
    shares.look(1.0, 10.0)
    assert shares.end(first, 1.0) == 10.0
    second = shares.begin(1.5)
    shares.look(2.0, 30.0)  # 20 J in that second, half of which a call ran
    assert second.joules == 10.0
    shares.end(second, 2.0)
    shares.pause()
    third = shares.begin(100.0)
    shares.look(100.0, 5000.0)
    assert third.joules == 0.0


def test_before_the_first_interval_nothing_is_known() -> None:
    shares = Shares()
    drawn = shares.begin(0.0)
    assert shares.end(drawn, 0.2) is None
    late = shares.begin(0.3)
    shares.look(0.4, 5.0)
    assert shares.end(late, 0.5) is None, "one look is no interval"


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "look"]), st.floats(0.01, 5)), max_size=50))
def test_of_constant_power_all_of_it_is_divided_and_no_more(steps: list[tuple[str, float]]) -> None:
    """Two looks at the start tell the power; then at any time one call has all of it, two have half each."""
    shares, at, watts = Shares(), 1.0, 50.0
    given_out, expected = 0.0, 0.0
    first = shares.begin(0.0)
    shares.look(0.0, 0.0)
    shares.look(1.0, watts)
    running = [first]
    expected += watts
    for what, seconds in steps:
        at += seconds
        expected += watts * seconds if running else 0.0
        shares.look(at, watts * at)  # rates change where calls come and go: look there, as short calls cannot
        if what == "begin":
            running.append(shares.begin(at))
        elif what == "end" and running:
            given_out += shares.end(running.pop(), at) or 0.0
    given_out += sum(shares.end(one, at) or 0.0 for one in running)
    assert given_out == pytest.approx(expected)


class Steady:
    """Draws so many watts, by the clock of the test."""

    def __init__(self, watts: float, now: Callable[[], float], fails_after: int = 1000) -> None:
        self.watts, self.now, self.left = watts, now, fails_after

    def joules(self) -> float:
        self.left -= 1
        if self.left < 0:
            raise PermissionError("energy_uj")
        return self.watts * self.now()


def answering(tmp_path: Path, find: Callable[[], Sequence[Counter]]) -> tuple[OpenAIBackend, Power]:
    gateway, _ = build_from(tmp_path, "models: {m: {engine: scripted, replies: [{text: hi, first_token_ms: 80}]}}")
    leaf = gateway.models["m"].responder
    assert isinstance(leaf, OpenAIBackend)
    power = Power(find, every_s=0.01)
    return replace(leaf, used=Used(CORE, Meter(watts=7, power=power))), power


async def ask(leaf: OpenAIBackend) -> Trace:
    trace = Trace("request", "")
    await leaf.respond(ChatRequest({"messages": [{"role": "user", "content": "x"}]}), nobody, trace)
    return trace.children[0]


async def nobody(chunk: object) -> None:
    pass


async def test_a_call_is_measured_while_it_runs_and_nobody_looks_after_it(tmp_path: Path) -> None:
    clock = asyncio.get_running_loop().time
    leaf, power = answering(tmp_path, lambda: [Steady(1000.0, clock)])
    hop = await ask(leaf)
    assert hop.spend is not None and hop.spend.is_measured and hop.spend.joules is not None
    assert hop.spend.joules == pytest.approx(1000 * hop.spend.busy_s, rel=0.25)
    assert leaf.used.watts() == pytest.approx(1000, rel=0.25)
    assert power._looking is not None
    await asyncio.wait_for(power._looking, 5)


async def test_a_machine_that_tells_nothing_is_modelled(tmp_path: Path) -> None:
    leaf, power = answering(tmp_path, lambda: [])
    for _ in range(2):
        hop = await ask(leaf)
        assert hop.spend is not None and not hop.spend.is_measured
        assert hop.spend.joules == pytest.approx(7 * hop.spend.busy_s, rel=1e-3)
    assert not power.can_measure and power.begin() is None
    await power.close()


async def test_counters_that_fail_later_are_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = asyncio.get_running_loop().time
    leaf, power = answering(tmp_path, lambda: [Steady(1000.0, clock, fails_after=3)])
    await ask(leaf)
    hop = await ask(leaf)
    assert hop.spend is not None and not hop.spend.is_measured
    assert "modelled from now on: energy_uj" in caplog.text
    await power.close()
