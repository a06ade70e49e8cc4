"""The loop from kept answers to an adapter that answers, told with adapters that are scripts: what is bad is stopped,
what was lucky is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from gateway.chat import Answer, ChatRequest, Emit, Json
from gateway.given import ADAPTER, Adapted
from gateway.responders.with_adapters import WithAdapters
from gateway.shards.lessons import Lesson, Lessons
from gateway.store.database import Database
from gateway.store.tables import JOURNAL, LESSONS
from gateway.trace import RequestTrace, Trace
from gateway.training import loop as looping
from gateway.training.jobs import Trainables, Trainer
from gateway.training.loop import Loop
from gateway.training.orders import TrainingOrders
from gateway.training.registry import Entry, folder_of, read_registry
from gateway.training.specialists import Curriculum, Place, Specialists
from gateway.training.states import take_step
from gateway.training.trial import SERVED, State, Step, Terms
from tests.training.test_curate import vector

DATES, COLOURS = "Write the date as YYYY-MM-DD.", "Name the colour."
ORDERS = TrainingOrders(min_pairs=24, terms=Terms(shadow=10, steps=(0.5,), step=10))
AXES = {DATES: vector(1.0), COLOURS: vector(0.0, 1.0)}
Says = Callable[[str], str]


class Vectors:
    """Of the two tasks at right angles, of each question somewhere else."""

    async def of(self, text: str) -> bytes:
        rows = np.random.default_rng(abs(hash(text)) % 2**32).normal(size=384).astype("<f4")
        return AXES.get(text) or (rows / np.linalg.norm(rows)).tobytes()

    async def of_known(self, texts: list[str]) -> list[bytes]:
        return [await self.of(text) for text in texts]


@dataclass(frozen=True)
class Model:
    name: str
    says: Says
    users: set[Any] = field(default_factory=set)

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        self.users.add(request.body.get("user"))
        message = {"role": "assistant", "content": self.says(request.last_user_text)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        with trace.span("model", self.name):
            return Answer({"model": self.name, "choices": [choice]})


def right(question: str) -> str:
    return f"answer to {question}"


def wrong(question: str) -> str:
    return "no idea"


@dataclass
class School:
    """A server's loop, without the server. `learned`: what the next adapter will say."""

    home: Path
    loop: Loop
    specialists: Specialists
    trainer: Trainer
    lessons: Lessons
    database: Database
    base: Says = wrong
    learned: list[Says] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    orders: TrainingOrders = ORDERS
    is_reviewed: bool = False
    asked: int = 0

    def reload(self) -> None:
        entries = [one for one in read_registry(self.home).values() if one.state in SERVED]
        for entry in entries:
            if entry.full_name not in self.models:
                self.models[entry.full_name] = Model(entry.full_name, self.learned.pop(0))
        own = {entry.full_name: self.models[entry.full_name] for entry in entries}
        place = Place("p", "core", Model("core", self.base), own, "expert", Model("expert", right), self.is_reviewed)
        self.trainer.take(Trainables({"core": self.home / "core.gguf"}, frozenset(own)))
        self.loop.take(Curriculum((place,), tuple(entries), self.orders))

    @property
    def place(self) -> Place:
        return self.specialists.places[0]

    async def keep(self, count: int, task: str = DATES, first: int = 0) -> None:
        for n in range(first, first + count):
            messages = [{"role": "system", "content": task}, {"role": "user", "content": f"{task[:4]} {n:04d}"}]
            answer = {"role": "assistant", "content": right(f"{task[:4]} {n:04d}")}
            id = f"{task[:4]}{n:028x}"
            lesson = Lesson(id, 1.0 + n, "", "ann", "p", "expert", {"core": "x"}, {"messages": messages}, answer)
            await self.lessons._write([lesson])

    async def learn(self) -> list[Entry]:
        found = await self.loop.learn()
        self.reload()
        return found

    async def ask(self, count: int = 1, task: str = DATES, *, accepts: bool = True) -> list[str]:
        """Requests through the model's place; what is not accepted, the expert answers. Returns who answered."""
        said = []
        for _ in range(count):
            self.asked += 1
            body = {"model": "p", "messages": [{"role": "system", "content": task}, user(f"new {self.asked}")]}
            request, trace = ChatRequest(body), RequestTrace("p")
            trace.policy = "p"
            answer = await WithAdapters(self.place, self.specialists).respond(request, nobody, trace)
            said.append(answer.model)
            if not accepts:
                answer = await self.place.asks.respond(request, nobody, trace)
            self.specialists.settle("p", request, answer, trace)
            await self.specialists.idle()
            await asyncio.sleep(0)
            self.reload()
        return said

    @property
    def entry(self) -> Entry:
        [entry] = [one for one in read_registry(self.home).values() if one.state is not State.REPLACED]
        return entry


def user(text: str) -> Json:
    return {"role": "user", "content": text}


async def nobody(chunk: Any) -> None:
    pass


@pytest.fixture
async def school(home: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[School]:
    (home / "core.gguf").write_bytes(b"GGUF")
    trainer = Trainer(home)
    specialists = Specialists(Vectors(), lambda trace: None)  # type: ignore[arg-type]
    lessons = Lessons(database)
    loop = Loop(home, trainer, specialists, Vectors(), lambda: lessons)  # type: ignore[arg-type]
    school = School(home, loop, specialists, trainer, lessons, database)

    async def train(base: Path, folder: Path, settings: Any, tell: Any) -> Json:
        (folder / "adapter.gguf").write_bytes(b"GGUF" + str(len(school.models)).encode())
        return {"seconds": 1.0, "tokens_per_s": 100.0}

    async def until_callable(name: str) -> bool:
        school.reload()
        return name in school.place.adapters

    monkeypatch.setattr(looping, "train", train)
    monkeypatch.setattr(trainer, "until_callable", until_callable)
    loop.open(database)
    specialists.work()
    school.reload()
    yield school
    await loop.close()


async def test_what_the_larger_model_answered_is_learned_tried_and_let_in_step_by_step(school: School) -> None:
    await school.keep(40)
    school.learned = [right]
    [entry] = await school.learn()
    assert school.models[entry.full_name].users == {"ann"}  # asked as that user, whose memories others may know
    assert entry.state is State.SHADOW and entry.gate["held_out"][entry.kinds[0].id]["right"] == 10
    assert entry.data["trained_on"] == 27 and entry.data["teachers"] == ["expert"]  # 30, of which 3 are measured with
    assert not (folder_of(school.home, entry) / "pairs.jsonl").exists()

    assert await school.ask(10, accepts=False) == ["core"] * 10
    assert school.entry.state is State.CANARY and school.entry.share == 0.5
    answered = await school.ask(60)
    assert school.entry.state is State.LIVE
    assert {"core", entry.full_name} == set(answered)
    assert await school.ask(5) == [entry.full_name] * 5
    assert await school.ask(5, COLOURS) == ["core"] * 5  # another kind of task is none of its business
    assert school.specialists.outcomes is not None
    rows = await school.specialists.outcomes.find(entry.full_name)
    assert {row.state for row in rows} >= {"shadow", "canary"} and all(row.right and not row.before for row in rows)


async def test_one_that_learned_nothing_is_stopped_by_the_gate_and_its_files_go(school: School) -> None:
    await school.keep(40)
    school.learned = [wrong]
    [entry] = await school.learn()
    assert entry.state is State.REFUSED and "not better on held-out requests: 0 of 10 right" in entry.why
    assert not folder_of(school.home, entry).exists()
    assert await school.ask(3, accepts=False) == ["core"] * 3
    await school.keep(40, first=100)  # twice as many, where three times are wanted after one in vain
    assert await school.learn() == []


async def test_one_that_was_lucky_at_the_gate_is_rolled_back_in_the_canary(school: School) -> None:
    await school.keep(40)
    seen = 0

    def lucky(question: str) -> str:
        nonlocal seen
        seen += 1
        return right(question) if seen <= 10 else wrong(question)

    school.orders = replace(ORDERS, terms=Terms(shadow=0, steps=(0.5,), step=10))
    school.reload()
    school.learned = [lucky]
    [entry] = await school.learn()
    assert entry.state is State.CANARY
    await school.ask(40)
    assert school.entry.state is State.ROLLED_BACK and "worse than at the gate" in school.entry.why
    assert await school.ask(4) == ["core"] * 4


async def test_nobody_is_let_in_who_is_no_better_than_what_answers_now(school: School) -> None:
    school.base = right
    school.reload()
    await school.keep(40)
    school.learned = [right]
    [entry] = await school.learn()
    assert entry.state is State.REFUSED and "10 of 10 right, 10 without it" in entry.why


async def test_where_a_person_decides_it_waits(school: School) -> None:
    school.is_reviewed = True
    school.reload()
    await school.keep(40)
    school.learned = [right]
    [entry] = await school.learn()
    assert entry.state is State.WAITING
    assert await school.ask(3, accepts=False) == ["core"] * 3
    assert await school.learn() == []  # nothing is begun anew meanwhile
    take_step(school.home, entry.full_name, Step(State.SHADOW, 0.0, "approved"))
    school.reload()
    await school.ask(10, accepts=False)
    assert school.entry.state is State.CANARY


async def test_a_later_one_takes_its_place_and_gives_it_back(school: School) -> None:
    school.orders = replace(ORDERS, terms=Terms(shadow=0, steps=()))
    school.reload()
    await school.keep(40)
    school.learned = [lambda question: right(question) if question < "Writ 0036" else wrong(question), right]
    [first] = await school.learn()
    assert first.state is State.LIVE
    await school.keep(10, first=100)
    assert await school.learn() == []  # too few are new
    await school.keep(30, first=200)
    [second] = await school.learn()
    assert second.state is State.LIVE and second.parent == first.full_name
    assert read_registry(school.home)[first.full_name].state is State.REPLACED
    assert await school.ask() == [second.full_name]
    take_step(school.home, second.full_name, Step(State.ROLLED_BACK, 0.0, "a person has taken it back"))
    school.reload()
    assert read_registry(school.home)[first.full_name].state is State.LIVE
    assert await school.ask() == [first.full_name]


async def test_kinds_are_let_in_each_by_itself(school: School) -> None:
    school.orders = replace(ORDERS, terms=Terms(shadow=0, steps=()))
    school.reload()
    await school.keep(30)
    await school.keep(30, COLOURS)
    school.learned = [lambda question: right(question) if question.startswith("Writ") else wrong(question)]
    [entry] = await school.learn()
    assert entry.state is State.LIVE and len(entry.kinds) == 1 and entry.data["pairs"] == 60
    assert list(entry.gate["refused"].values()) == ["not better on held-out requests: 0 of 8 right, 0 without it"]
    assert await school.ask(1, COLOURS) == ["core"]


async def test_few_requests_and_those_that_cost_too_little_are_not_learned(school: School) -> None:
    await school.keep(23)
    assert await school.learn() == []
    await school.keep(23, first=50)
    async with school.database.write() as connection:
        ids = (await connection.execute(select(LESSONS.c.id))).scalars().all()
        row = {"created": 1.0, "requested_model": "p", "path": "expert", "stream": False, "status": 200, "trace": "{}"}
        row |= {"input_tokens": 1, "output_tokens": 1, "cost_usd": 1e-12, "escalated": True, "ms": 1.0}
        await connection.execute(JOURNAL.insert(), [{"id": id, **row} for id in ids])
    assert await school.learn() == []
    school.orders = replace(ORDERS, usd_per_hour=0.0)
    school.reload()
    school.learned = [right]
    assert len(await school.learn()) == 1


async def test_what_was_being_tried_when_a_server_ended_is_forgotten(school: School) -> None:
    await school.keep(40)
    school.learned = [right]
    [entry] = await school.learn()
    take_step(school.home, entry.full_name, Step(State.CANDIDATE, 0.0, ""))
    school.loop._forget_unfinished()
    assert read_registry(school.home) == {} and not folder_of(school.home, entry).exists()


async def test_switched_off_nothing_is_learned(school: School) -> None:
    school.orders = replace(ORDERS, is_automatic=False)
    school.reload()
    await school.keep(40)
    assert await school.learn() == []


async def test_a_trace_says_which_adapter_and_no_words(school: School) -> None:
    school.orders = replace(ORDERS, terms=Terms(shadow=0, steps=()))
    school.reload()
    await school.keep(40)
    school.learned = [right]
    [entry] = await school.learn()
    request = ChatRequest({"model": "p", "messages": [{"role": "system", "content": DATES}, user("new")]})
    adapted = await school.specialists.pick(school.place, request)
    assert isinstance(adapted, Adapted) and adapted.serving == entry.full_name and adapted.rate > 0.9
    assert set(adapted.as_json()) == {"kind", "serving", "tried", "watched"} and ADAPTER == "adapter"
