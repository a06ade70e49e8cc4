"""`gateway learn adapters|promote|rollback`, and the picture of what became of it all."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.store.database import open_database
from gateway.store.outcomes import OutcomeRow, Outcomes
from gateway.store.tables import JOURNAL
from gateway.training import registry
from gateway.training.chart import svg
from gateway.training.kinds import Kind, Record
from gateway.training.progress import Mark, progress
from gateway.training.trial import State
from tests.conftest import write_config
from tests.sources.gguf_files import write_gguf
from tests.training.test_curate import ONE
from tests.training.test_places import CASCADE, MODELS, policy, put

KIND = Kind("k", "", "default", "f", ONE, 0.8, 30, Record(10, 9, 1, 8, 0))


@pytest.fixture
def place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GATEWAY_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "core.gguf")
    answer = "{cascade: " + CASCADE.format(small="core") + "}"
    write_config(tmp_path, MODELS.format(folder=tmp_path), default=policy(answer))
    return tmp_path


def made(home: Path, folder: Path, name: str, state: State) -> str:
    full = put(home, folder, name, state)
    registry.change(home, full, lambda one: replace(one, kinds=(KIND,), since=100.0, why="it passed the gate"))
    return full


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["learn", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout + (getattr(done.exception, "message", "") if code else "")


def keep(home: Path, name: str) -> None:
    async def write() -> None:
        database = await open_database(home)
        try:
            for n in range(40):
                await Outcomes(database).add(OutcomeRow(100.0 + n, name, "k", "canary", 0.5, n % 10 > 0, n % 2 > 0))
            row = {"requested_model": "default", "policy": "default", "path": "core", "stream": False, "status": 200}
            row |= {"input_tokens": 1, "output_tokens": 1, "escalated": True, "ms": 1.0, "trace": "{}"}
            models = ["core:one" if n > 20 else "expert" for n in range(40)]
            rows = [
                {**row, "id": f"{n:032x}", "created": 100.0 + n, "route": "all", "model": m}
                for n, m in enumerate(models)
            ]
            beside = {**row, "id": "f" * 32, "created": 101.0, "route": "audit", "model": "expert"}
            async with database.write() as connection:
                await connection.execute(JOURNAL.insert(), [*rows, beside])
        finally:
            await database.close()

    asyncio.run(write())


def test_what_was_trained_is_shown_with_what_became_of_it(place: Path, home: Path) -> None:
    assert "nothing is trained yet" in run("adapters")
    name = made(home, place, "one", State.CANARY)
    keep(home, name)
    [told] = json.loads(run("adapters", "--json"))
    assert (told["name"], told["state"], told["kinds"]) == (name, "canary", 1)
    assert told["gate"]["right"] == 9
    assert told["compared"] == {"count": 40, "right": 36, "before": 20, "wins": 16, "losses": 0}
    assert "36/40" in run("adapters")


def test_people_promote_and_take_back(place: Path, home: Path) -> None:
    name = made(home, place, "one", State.WAITING)
    run("promote", name)
    assert registry.read_registry(home)[name].state is State.SHADOW
    run("promote", name)
    assert registry.read_registry(home)[name].state is State.LIVE
    assert "nothing to promote" in run("promote", name, code=1)
    assert json.loads(run("rollback", name, "--json")) == {"name": name, "state": "rolled_back"}
    assert "nothing to take back" in run("rollback", name, code=1)
    run("promote", name)
    assert registry.read_registry(home)[name].state is State.LIVE
    assert "no trained model is called 'core:nobody'" in run("promote", "core:nobody", code=1)


def test_one_that_has_learned_no_kind_is_called_by_its_name_alone(place: Path, home: Path) -> None:
    name = put(home, place, "one", State.TRAINED)
    assert "called by its name" in run("promote", name, code=1)


def test_a_tenants_models_go_with_what_they_were_trained_on(place: Path, home: Path) -> None:
    own, others = made(home, place, "own", State.LIVE), put(home, place, "others", State.TRAINED)
    theirs = replace(KIND, tenant="blue")
    registry.change(home, own, lambda one: replace(one, kinds=(theirs,), data={"tenant": "blue"}))
    done = CliRunner().invoke(app, ["purge", "--tenant", "blue", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {"shards": 0, "lessons": 0, "answers": 0, "models": [own]}
    assert list(registry.read_registry(home)) == [others]


def test_it_is_drawn(place: Path, home: Path) -> None:
    assert "no requests to draw" in run("adapters", "--plot", "empty.svg", code=1)
    name = made(home, place, "one", State.CANARY)
    keep(home, name)
    assert "40 requests, 40 compared" in run("adapters", "--plot", "drawn.svg")
    text = (place / "drawn.svg").read_text()
    root = ElementTree.fromstring(text)
    titles = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert f"{name}: canary" in titles
    assert "answered here: 100% of 5" in titles and "answered here: 0% of 5" in titles


def test_few_requests_go_together_and_names_are_written_safely() -> None:
    found = progress([(1.0, True), (2.0, False), (3.0, True)], [], [Mark(2.0, "a<b"), Mark(99.0, "later")])
    assert [(point.share, point.count) for point in found.local.points] == [(2 / 3, 3)]
    assert [mark.said for mark in found.marks] == ["a<b"] and "a&lt;b" in svg(found)
    assert progress([], []).all == ()
