"""Hours of an engine, shared between its calls."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.costs.meter import CORE, Meter, Used
from gateway.trace import Price, Usage
from tests.conftest import Serve


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_call_pays_for_its_own_time() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    turn = meter.begin()
    clock.now += 10
    assert meter.end(turn).busy_s == 10
    clock.now += 50  # idle: nobody's
    turn = meter.begin()
    clock.now += 1
    assert meter.end(turn).busy_s == 1


def test_four_at_once_share_the_time() -> None:
    clock = Clock()
    meter = Meter(watts=40, now=clock)
    turns = [meter.begin() for _ in range(4)]
    clock.now += 10
    efforts = [meter.end(turn) for turn in turns]
    assert [effort.busy_s for effort in efforts] == [2.5] * 4
    assert [effort.joules for effort in efforts] == [100.0] * 4, "40 W for 10 s, between four"


def test_who_comes_later_pays_from_then_on() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    first = meter.begin()
    clock.now += 4
    second = meter.begin()
    clock.now += 6
    assert meter.end(first).busy_s == 4 + 3
    clock.now += 2
    assert meter.end(second).busy_s == 3 + 2


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), max_size=60))
def test_together_they_pay_for_the_time_in_which_any_ran(steps: list[tuple[float, int]]) -> None:
    """`steps`: seconds that go by, then what happens: 0 to 2 end a call, the others begin one."""
    clock = Clock()
    meter, open_ones, paid, ran = Meter(now=clock), [], 0.0, 0.0
    for seconds, what in steps:
        clock.now += seconds
        ran += seconds if open_ones else 0.0
        if what <= 2 and open_ones:
            effort = meter.end(open_ones.pop(what % len(open_ones)))
            assert effort.busy_s >= 0
            paid += effort.busy_s
        elif what > 2:
            open_ones.append(meter.begin())
    for turn in open_ones:
        paid += meter.end(turn).busy_s
    assert paid == pytest.approx(ran, abs=1e-3)


def test_a_price_by_the_hour_is_of_the_share() -> None:
    clock = Clock()
    used = Used(CORE, Meter(now=clock), joules_per_token=2)
    price = Price(0, 1, usd_per_hour=3.6)
    usage = Usage(10, 5)
    turns = [used.begin(), used.begin()]
    clock.now += 20
    spends = [used.spent("m", usage, turn, 20.0, lambda s: price.cost_usd(usage, s)) for turn in turns]
    for spend in spends:
        assert spend.cost_usd == pytest.approx(5e-6 + 10 * 0.001)
        assert (spend.busy_s, spend.joules, spend.is_measured, spend.layer) == (10, 10, False, CORE)
    assert used.meter is not None and used.meter.seconds_per_token == 2


def test_a_call_that_never_reached_its_model_leaves_its_share_unpaid() -> None:
    clock = Clock()
    used = Used(CORE, Meter(now=clock))
    kept, failed = used.begin(), used.begin()
    clock.now += 2
    used.end_unspent(failed)
    clock.now += 3
    assert used.spent("m", Usage(1, 1), kept, 5.0, lambda s: s).busy_s == 1 + 3


def test_without_a_meter_a_call_has_its_own_time_and_no_energy() -> None:
    spend = Used().spent("m", Usage(1, 1), Used().begin(), 1.5, lambda s: None)
    assert (spend.busy_s, spend.joules, spend.cost_usd, spend.layer) == (1.5, None, None, "remote")


MODELS = """
models:
  core:
    engine: scripted
    replies: [{text: hi, first_token_ms: 40}]
    price: {usd_per_hour: 3600}
    energy: {watts: 10}
  far: {engine: scripted, replies: [{text: hi there}], energy: {joules_per_token: 2.5}}
  unknown: {engine: scripted, replies: [{text: hi}]}
"""


async def test_requests_at_once_pay_for_no_more_than_the_time(serve: Serve) -> None:
    client = await serve(MODELS)
    began = asyncio.get_running_loop().time()
    replies = await asyncio.gather(*(client.chat(model="core") for _ in range(4)))
    wall_s = asyncio.get_running_loop().time() - began
    costs = [reply.gateway["cost_usd"] for reply in replies]  # a dollar a second
    assert all(cost > 0 for cost in costs)
    assert 0.04 <= sum(costs) <= wall_s
    assert sum(reply.gateway["energy_j"] for reply in replies) == pytest.approx(10 * sum(costs), rel=1e-3)


async def test_energy_of_a_reply_is_unknown_where_nobody_knows(serve: Serve) -> None:
    client = await serve(MODELS)
    assert (await client.chat(model="far")).gateway["energy_j"] == 5.0
    assert (await client.chat(model="unknown")).gateway["energy_j"] is None
    streamed = await client.chat(model="far", stream=True)
    assert streamed.gateway["energy_j"] == 5.0
