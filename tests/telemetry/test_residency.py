"""Metrics of what is in memory."""

from __future__ import annotations

import asyncio

from gateway.engines import Residency
from gateway.engines.footprint import Footprint
from gateway.engines.resident import Stage
from tests.residency.recorded import MIB, STAGES, Recorded, record


def test_the_stages_are_all_there_are() -> None:
    assert set(STAGES) == set(Stage)


def test_what_is_in_memory_is_read_when_somebody_asks() -> None:
    async def story(recorded: Recorded) -> None:
        core = recorded.model("core", 2, 1, residency=Residency.ALWAYS, slots=2)
        other = recorded.model("other", 4)
        await recorded.start(core, other)
        assert recorded.series("gateway_memory_taken_bytes") == {'kind="ram"': 0, 'kind="gpu"': 0}
        asking = asyncio.create_task(recorded.ask(core))
        await asyncio.sleep(1.5)
        stages = recorded.series("gateway_model_stage")
        assert [labels for labels, value in stages.items() if value] == [
            'model="core",stage="busy"',
            'model="other",stage="dormant"',
        ]
        assert len(stages) == 2 * len(STAGES)
        assert recorded.series("gateway_model_busy") == {'model="core"': 1, 'model="other"': 0}
        assert recorded.series("gateway_model_waiting") == {'model="core"': 0, 'model="other"': 0}
        memory = recorded.series("gateway_model_memory_bytes")
        assert memory['kind="ram",model="core"'] == 2 * MIB and memory['kind="gpu",model="core"'] == MIB
        assert memory['kind="ram",model="other"'] == 0, "what it would take is not taken"
        assert recorded.series("gateway_memory_taken_bytes") == {'kind="ram"': 2 * MIB, 'kind="gpu"': MIB}
        assert recorded.series("gateway_memory_budget_bytes") == {'kind="ram"': 8 * MIB, 'kind="gpu"': MIB}
        await asking

    record(story, 8, 1)


def test_a_budget_without_limit_is_left_out() -> None:
    async def story(recorded: Recorded) -> None:
        recorded.metrics.residency._limits = lambda: (None, None)
        assert recorded.series("gateway_memory_budget_bytes") == {}

    record(story)


def test_loads_are_counted_and_why_models_went() -> None:
    async def story(recorded: Recorded) -> None:
        a = recorded.model("a", load_s=3.0, idle_ttl_s=20)
        b = recorded.model("b", crashes_after_s=2.0)
        broken = recorded.model("broken", fails=1)
        await recorded.start(a, b, broken)
        await recorded.ask(a)
        await asyncio.sleep(10)
        await recorded.ask(b)  # a makes room
        await asyncio.sleep(10)  # b crashes, and nobody waits for it
        await recorded.ask(a)
        await asyncio.sleep(30)  # idle
        await recorded.ask(broken)
        await recorded.pool.close()
        assert recorded.series("gateway_model_loads_total") == {'model="a"': 2, 'model="b"': 1, 'model="broken"': 1}
        assert recorded.series("gateway_model_unloads_total") == {
            'model="a",reason="room"': 1,
            'model="b",reason="crash"': 1,
            'model="a",reason="idle"': 1,
            'model="broken",reason="stop"': 1,
        }
        assert recorded.series("gateway_model_load_seconds_sum") == {
            'model="a"': 6,
            'model="b"': 1,
            'model="broken"': 1,
        }
        buckets = recorded.series("gateway_model_load_seconds_bucket")
        assert (buckets['le="2.5",model="a"'], buckets['le="5.0",model="a"']) == (0, 2)
        assert set(recorded.series("gateway_model_memory_bytes").values()) == {0}

    record(story)


def test_a_model_that_sleeps_takes_what_it_takes_then() -> None:
    async def story(recorded: Recorded) -> None:
        a = recorded.model("a", 1, 4, idle_ttl_s=5, sleeps_in=Footprint(MIB, 0))
        await recorded.start(a)
        await recorded.ask(a)
        await asyncio.sleep(7)
        assert recorded.series("gateway_model_stage")['model="a",stage="sleeping"'] == 1
        taken = {'kind="ram",model="a"': MIB, 'kind="gpu",model="a"': 0}
        assert recorded.series("gateway_model_memory_bytes") == taken
        await recorded.ask(a)
        await recorded.pool.close()
        assert recorded.series("gateway_model_loads_total") == {'model="a"': 2}
        assert set(recorded.series("gateway_model_memory_bytes").values()) == {0}

    record(story, 1, 4)
