"""`gateway train`: what there is to learn from, and an adapter of it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.shards.lessons import Lesson, Lessons
from gateway.store.database import open_database
from gateway.training import process
from gateway.training.registry import read_registry
from tests.conftest import write_config
from tests.sources.gguf_files import write_gguf

POLICY = """
    policy: default
    serves: [auto]
    routes:
      - {name: rest, answer: {model: expert}}
"""


@pytest.fixture
def place(tmp_path: Path, home: Path, minilm_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_gguf(tmp_path / "core.gguf")
    models = f"""
    models:
      core: {{engine: llama.cpp, source: "file:{tmp_path}/core.gguf", residency: on_demand}}
      expert: {{engine: scripted, replies: [{{text: "Hello!"}}]}}
      barred: {{engine: scripted, distillable: false, replies: [{{text: "Hello!"}}]}}
    """
    write_config(tmp_path, models, default=POLICY)
    (home / "models").symlink_to(minilm_home / "models")
    monkeypatch.setenv("GATEWAY_HOME", str(home))
    monkeypatch.setattr(process, "COMMAND", (sys.executable, str(Path(__file__).parent / "stand_in.py")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keep(home: Path, count: int = 12) -> None:
    async def run() -> None:
        database = await open_database(home)
        lessons = Lessons(database)
        for n in range(count):
            messages = [{"role": "system", "content": "Double it."}, {"role": "user", "content": f"Double {n} for me."}]
            answer = {"role": "assistant", "content": str(2 * n)}
            model = "barred" if n == 0 else "expert"
            await lessons._write([Lesson(f"{n:032x}", n + 1, "", None, "p", model, {}, {"messages": messages}, answer)])
        await database.close()

    asyncio.run(run())


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["train", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.mark.model
def test_what_there_is_to_learn_from_is_shown_exported_and_trained_on(place: Path, home: Path) -> None:
    keep(home)
    [shown] = json.loads(run("--dry-run", "--json"))
    assert (shown["chats"], shown["left_out"], shown["task"]) == (11, {"its teacher's licence": 1}, "Double it.")
    assert "Double it." in run("--dry-run")
    run("--export", "chats.jsonl", "--cluster", shown["id"][:8])
    lines = [orjson.loads(line) for line in (place / "chats.jsonl").read_bytes().splitlines()]
    assert len(lines) == 11 and lines[0]["messages"][-1] == {"role": "assistant", "content": "2"}
    told = json.loads(run("--json", "--name", "doubles"))
    [entry] = read_registry(home).values()
    assert told["model"] == entry.full_name and entry.name.startswith("doubles-")
    assert entry.data["clusters"] == [shown["id"]] and (entry.data["examples"], entry.data["held_out"]) == (10, 1)
    assert json.loads(run("--file", "chats.jsonl", "--json", "--set", "epochs=2"))["settings"]["epochs"] == 2


def test_what_is_measured_with_is_left_out(place: Path, home: Path) -> None:
    keep(home)
    chat = {"messages": [{"role": "user", "content": "Double 3 for me"}, {"role": "assistant", "content": "6"}]}
    (place / "measured.jsonl").write_bytes(orjson.dumps(chat))
    [shown] = json.loads(run("--dry-run", "--json", "--but", "measured.jsonl"))
    assert shown["left_out"] == {"its teacher's licence": 1, "measured with": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--file", "none.jsonl"], "there is no file none.jsonl"),
        (["--set", "epochs"], "is not like epochs=5"),
        (["--cluster", "zz"], "0 kinds of requests begin with"),
        (["--model", "expert"], "cannot be trained"),
        ([], "and 10 are needed"),
    ],
)
def test_what_cannot_be_is_told(place: Path, home: Path, arguments: list[str], words: str) -> None:
    if arguments:
        keep(home)
    done = CliRunner().invoke(app, ["train", *arguments])
    assert done.exit_code != 0 and words in " ".join((done.output + str(done.exception)).replace("│", " ").split())
