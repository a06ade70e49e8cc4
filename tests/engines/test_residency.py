"""When models are loaded and dropped, told step by step in a world with a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.engines import Residency, Site
from gateway.engines.footprint import Footprint
from gateway.engines.pool import Pool
from gateway.engines.resident import Stage
from gateway.engines.wishes import Event, Wish
from gateway.errors import BackendTimeout, BackendUnavailable, ModelLoading
from gateway.transport.client import PooledClient
from tests.engines.test_pool_schedules import at_once
from tests.engines.virtual import Played, VirtualLoop, World, run


class Machine:
    """A pool in a world of `ram` bytes; `said` is what it decided, `asked` who was answered and when."""

    def __init__(self, loop: VirtualLoop, ram: int) -> None:
        self.loop, self.world = loop, World(Footprint(ram, 0))
        self.events: list[Event] = []
        self.warmed: list[Path] = []
        site = Site(Path("/nowhere"), PooledClient(), warm=self.warmed.extend)
        self.pool = Pool(site, now=loop.time, in_thread=at_once, on_event=self.events.append)
        self.pool.budget = self.world.budget
        self.engines: dict[str, Played] = {}
        self.answered: list[tuple[str, float]] = []

    async def start(self, *engines: Played) -> None:
        self.engines = {engine.name: engine for engine in engines}
        self.pool.current = engines
        self.pool.keep(engines)
        await self.pool.start()

    def model(self, name: str, size: int = 1, **settings: object) -> Played:
        return Played(name, self.world, Footprint(size, 0), **settings)  # type: ignore[arg-type]

    async def ask(
        self, name: str, takes_s: float = 1.0, deadline: float | None = None, wish: Wish | None = None
    ) -> None:
        async with self.pool.lease(self.engines[name], deadline, wish):
            await asyncio.sleep(takes_s)
        self.answered.append((name, self.loop.time()))

    def stage(self, name: str) -> Stage:
        return self.pool.state_of(self.engines[name]).stage

    def whys(self, name: str) -> list[str]:
        return [event.why for event in self.events if event.model == name]


Story = Callable[[Machine], Awaitable[None]]


def tell(ram: int, story: Story) -> Machine:
    machines: list[Machine] = []

    async def main(loop: VirtualLoop) -> None:
        machines.append(Machine(loop, ram))
        await story(machines[0])
        await machines[0].pool.close()

    run(main)
    assert machines[0].world.faults == []
    assert machines[0].world.taken == {}
    return machines[0]


def test_a_model_sleeps_until_it_is_asked_for_and_goes_when_it_is_idle() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a", idle_ttl_s=60))
        await asyncio.sleep(5)
        assert machine.stage("a") is Stage.DORMANT and machine.pool.is_ready
        await machine.ask("a")
        assert machine.answered == [("a", 7.0)]
        assert machine.stage("a") is Stage.WARM
        await asyncio.sleep(59.5)
        assert machine.stage("a") is Stage.WARM
        await asyncio.sleep(1)
        assert machine.stage("a") is Stage.DORMANT

    machine = tell(1, story)
    assert machine.whys("a") == ["asked for", "loading", "loaded", "idle for 60 s", "unloaded"]


def test_those_who_wait_share_one_load_and_one_who_leaves_cancels_nothing() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a", load_s=10, slots=4))
        first = asyncio.create_task(machine.ask("a"))
        others = [asyncio.create_task(machine.ask("a")) for _ in range(3)]
        await asyncio.sleep(5)
        first.cancel()
        await asyncio.gather(*others)
        assert machine.answered == [("a", 11.0)] * 3

    assert tell(1, story).engines["a"].loads == 1


def test_a_deadline_ends_the_wait_and_the_load_goes_on_for_the_next() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a", load_s=10))
        with pytest.raises(BackendTimeout):
            await machine.ask("a", deadline=4)
        await asyncio.sleep(2)
        await machine.ask("a")
        assert machine.answered == [("a", 11.0)]

    assert tell(1, story).engines["a"].loads == 1


def test_the_least_worth_goes_and_no_more_than_it_takes() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(*(machine.model(name) for name in "abcd"))
        for name in ["a", "a", "a", "b", "c", "c"]:
            await machine.ask(name)
        await asyncio.sleep(10)
        await machine.ask("d")
        assert [machine.stage(name) for name in "abcd"] == [Stage.WARM, Stage.DORMANT, Stage.WARM, Stage.WARM]

    assert "makes room for 'd'" in tell(3, story).whys("b")


def test_a_model_that_is_dear_to_load_stays_before_one_that_is_cheap() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("dear", load_s=30), machine.model("cheap"), machine.model("c"))
        await machine.ask("dear")
        await machine.ask("cheap")
        await asyncio.sleep(60)
        await machine.ask("c")
        assert machine.stage("dear") is Stage.WARM and machine.stage("cheap") is Stage.DORMANT

    tell(2, story)


def test_what_is_always_on_is_loaded_first_and_never_goes() -> None:
    async def story(machine: Machine) -> None:
        core = machine.model("core", residency=Residency.ALWAYS, load_s=3)
        await machine.start(machine.model("a"), core, machine.model("big", size=3))
        assert not machine.pool.is_ready
        await asyncio.sleep(4)
        assert machine.pool.is_ready
        await machine.ask("a")
        with pytest.raises(BackendUnavailable) as refused:
            await machine.ask("big")
        assert "'core'" in refused.value.message and "memory_budget" in refused.value.message
        assert machine.stage("core") is Stage.WARM and machine.stage("a") is Stage.WARM

    tell(3, story)


def test_one_that_can_never_fit_is_refused_at_once_and_nobody_goes_for_it() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a"), machine.model("huge", size=9))
        await machine.ask("a")
        with pytest.raises(BackendUnavailable, match="model 'huge' cannot be loaded: it needs"):
            await machine.ask("huge")
        assert machine.stage("a") is Stage.WARM
        assert machine.loop.time() < 3

    tell(2, story)


def test_a_busy_model_is_waited_for_and_gets_nothing_new_meanwhile() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a", slots=2), machine.model("b"))
        long = asyncio.create_task(machine.ask("a", takes_s=20))
        await asyncio.sleep(5)
        other = asyncio.create_task(machine.ask("b"))
        await asyncio.sleep(1)
        late = asyncio.create_task(machine.ask("a"))  # comes after `b`: there is a free slot, and it waits
        await asyncio.gather(long, other, late)
        assert [name for name, _ in machine.answered] == ["a", "b", "a"]
        assert machine.answered[0][1] == 21.0
        assert machine.engines["a"].loads == 2

    assert "has to make room: no new requests" in tell(1, story).whys("a")


def test_requests_for_one_model_are_answered_together_before_a_swap() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a"), machine.model("b"))
        asked = [asyncio.create_task(machine.ask(name, takes_s=0.3)) for name in "abababab"]
        await asyncio.gather(*asked)
        assert machine.engines["a"].loads == machine.engines["b"].loads == 1

    tell(1, story)


def test_an_agent_finds_its_model_still_there_after_its_tools_have_run() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a"), machine.model("b"))
        await machine.ask("a", wish=Wish(offers_tools=True))
        other = asyncio.create_task(machine.ask("b"))
        await asyncio.sleep(8)
        assert machine.stage("a") is Stage.WARM  # its ten seconds are not over
        await machine.ask("a")
        await other
        assert machine.engines["a"].loads == 1
        assert [name for name, _ in machine.answered] == ["a", "a", "b"]

    tell(1, story)


def test_nobody_waits_for_ever_behind_an_agent() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a"), machine.model("b"))

        async def agent() -> None:
            while True:
                await machine.ask("a", wish=Wish(offers_tools=True))
                await asyncio.sleep(5)

        looping = asyncio.create_task(agent())
        await asyncio.sleep(3)
        await machine.ask("b")
        assert 60 < machine.loop.time() < 75
        looping.cancel()

    tell(1, story)


def test_who_can_be_answered_elsewhere_throws_nobody_out() -> None:
    async def story(machine: Machine) -> None:
        file = Path("b.gguf")
        await machine.start(machine.model("a"), machine.model("b", files=(file,)))
        await machine.ask("a")
        for _ in range(3):
            with pytest.raises(ModelLoading, match="others are asked for more often"):
                await machine.ask("b", wish=Wish(can_move_on=True))
        await asyncio.sleep(20)
        assert machine.warmed == [file]
        assert machine.stage("a") is Stage.WARM and machine.stage("b") is Stage.DORMANT

    tell(1, story)


def test_one_that_is_asked_for_again_and_again_is_loaded_meanwhile() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a"), machine.model("b", load_s=5))
        await machine.ask("a")
        await asyncio.sleep(20)
        for _ in range(12):
            with pytest.raises(ModelLoading):
                await machine.ask("b", wish=Wish(can_move_on=True))
            await asyncio.sleep(0.01)
        await asyncio.sleep(10)
        await machine.ask("b", wish=Wish(can_move_on=True))
        assert machine.stage("b") is Stage.WARM and machine.stage("a") is Stage.DORMANT

    assert "asked for often" in tell(1, story).whys("b")


def test_where_there_is_room_it_is_loaded_at_once_and_waited_for_if_that_is_quick() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("quick", load_s=0.4), machine.model("slow", load_s=30))
        await machine.ask("quick", wish=Wish(can_move_on=True))
        machine.pool._residents[machine.engines["slow"]].demand.note_load(30)  # as an earlier load took
        with pytest.raises(ModelLoading, match="is being loaded"):
            await machine.ask("slow", wish=Wish(can_move_on=True))
        await asyncio.sleep(31)
        assert machine.stage("slow") is Stage.WARM

    tell(2, story)


def test_it_is_loaded_ahead_where_the_chance_is_worth_it_and_there_is_room() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a"), machine.model("b"), machine.model("c"))
        machine.pool.prefetch(machine.engines["a"], 0.01)
        await asyncio.sleep(5)
        assert machine.stage("a") is Stage.DORMANT
        machine.pool.prefetch(machine.engines["a"], 0.5)
        await asyncio.sleep(5)
        assert machine.stage("a") is Stage.WARM
        for _ in range(5):
            await machine.ask("a")
        machine.pool.prefetch(machine.engines["b"], 0.9)
        await asyncio.sleep(5)
        assert machine.stage("b") is Stage.DORMANT and machine.stage("a") is Stage.WARM

    assert "there is no room for it" in tell(1, story).whys("b")


def test_a_failed_start_is_tried_once_more_then_there_is_a_pause_then_again() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a", fails=1), machine.model("b", fails=2))
        await machine.ask("a")
        assert machine.engines["a"].loads == 2
        with pytest.raises(BackendUnavailable, match="it broke"):
            await machine.ask("b")
        assert machine.engines["b"].loads == 2 and machine.stage("b") is Stage.FAILED
        with pytest.raises(BackendUnavailable) as refused:
            await machine.ask("b")
        assert int(refused.value.headers["retry-after"]) >= 1 and machine.engines["b"].loads == 2
        await asyncio.sleep(10)
        await machine.ask("b")
        assert machine.stage("b") is Stage.WARM

    tell(2, story)


def test_one_that_crashes_is_started_again_for_those_who_wait_and_else_sleeps() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a", crashes_after_s=5), machine.model("b", crashes_after_s=5))
        first = asyncio.create_task(machine.ask("a", takes_s=4.5))
        second = asyncio.create_task(machine.ask("a", takes_s=4.5))  # waits for its place when it crashes
        await machine.ask("b")
        await asyncio.gather(first, second)
        await asyncio.sleep(10)
        assert machine.stage("b") is Stage.DORMANT
        await machine.ask("b")

    tell(2, story)


def test_a_preloaded_model_is_there_before_anybody_asks() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a", preload=True), machine.model("b", size=5, preload=True))
        await asyncio.sleep(3)
        assert machine.stage("a") is Stage.WARM and machine.stage("b") is Stage.DORMANT

    tell(2, story)


def test_a_changed_entry_runs_beside_the_old_one_until_that_is_dropped() -> None:
    async def story(machine: Machine) -> None:
        old, new = machine.model("a"), machine.model("a")
        new.world = World(Footprint(9, 0))
        await machine.start(old)
        await machine.ask("a")
        machine.pool.keep([new])
        machine.pool.current = [new]
        machine.engines["a"] = new
        asking = asyncio.create_task(machine.ask("a"))
        await asyncio.sleep(0.5)
        machine.pool.drop([old])
        await asking
        assert old.loads == new.loads == 1
        assert machine.world.taken == {}

    tell(1, story)


def test_while_its_files_come_others_are_asked_and_it_says_so() -> None:
    async def story(machine: Machine) -> None:
        await machine.start(machine.model("a", is_present=False))
        assert machine.stage("a") is Stage.ABSENT
        machine.pool.note_download(machine.engines["a"], is_coming=True)
        assert machine.stage("a") is Stage.DOWNLOADING
        with pytest.raises(ModelLoading, match="model 'a' is being downloaded") as refused:
            await machine.ask("a")
        assert refused.value.headers["retry-after"] == "30"
        machine.engines["a"].is_present = True
        machine.pool.note_download(machine.engines["a"], is_coming=False)
        await machine.ask("a")
        assert machine.stage("a") is Stage.WARM

    tell(1, story)
