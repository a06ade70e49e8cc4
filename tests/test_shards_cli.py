"""`gateway shards …`, as a user types it."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.conftest import write_config
from tests.shards.story import FACT, KNOWS, POLICY, models

PAGE = f"# Towers\n\n{FACT} Kell Tower has stood empty since the great flood of 1931.\n"


@pytest.fixture
def run(home: Path, tmp_path: Path, minilm_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GATEWAY_HOME", str(home))
    (home / "models").symlink_to(minilm_home / "models")
    files = write_config(tmp_path / "config", models(KNOWS), default=POLICY)

    def run(*words: str, config: bool = False) -> Result:
        options = ["--models", str(files[0]), "--policies", str(files[1])] if config else []
        return CliRunner().invoke(app, ["shards", *words, *options], catch_exceptions=False)

    return run


def listed(run: Any, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--json", *words).stdout)
    return found


def test_documents_are_read_tested_found_and_retired(run: Any, tmp_path: Path) -> None:
    (tmp_path / "towers.md").write_text(PAGE)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    done = run("add", str(tmp_path / "towers.md"), str(tmp_path / "picture.png"))
    assert done.exit_code == 0 and "2 added" in done.stdout
    assert {one["state"] for one in listed(run)} == {"candidate"}
    again = json.loads(run("add", str(tmp_path / "towers.md"), "--json").stdout)
    assert (again["added"], again["kept"]) == (0, 2)

    results = json.loads(run("test", "--json", config=True).stdout)
    assert {one["text"]: one["admitted"] for one in results}[FACT] is True
    assert all(one["lift_low"] <= one["lift"] <= one["lift_high"] for one in results)
    [live] = [one for one in listed(run) if one["fact"] == FACT]
    assert live["state"] in ("live", "trial")
    assert json.loads(run("show", live["id"]).stdout)["readers"]["core"]["evidence"]["admitted"]

    found = json.loads(run("search", "Who is the warden of Brill Tower?", "--json", config=True).stdout)
    assert [one["text"] for one in found if one["in"]] == [FACT]
    assert run("retire", live["id"]).exit_code == 0
    assert [one["why"] for one in listed(run, "--state", "retired")] == ["retired by hand"]


def test_past_conversations_become_memories(run: Any, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "My sister lives in Oslo."}, {"role": "assistant", "content": "Nice."}]
    with gzip.open(tmp_path / "talks.jsonl.gz", "wt") as file:
        file.write(json.dumps({"user": "ann", "session": "1", "messages": said}) + "\n")
    assert run("add", str(tmp_path / "talks.jsonl.gz")).exit_code == 0
    [memory] = listed(run, "--kind", "memory")
    assert (memory["user"], memory["fact"]) == ("ann", "The user's sister lives in Oslo.")


def test_a_bundle_goes_from_one_home_to_another(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "towers.md").write_text(PAGE)
    run("add", str(tmp_path / "towers.md"))
    done = run("export", "towers", "--out", str(tmp_path))
    assert "towers.shards" in done.stdout.replace("\n", "")
    key = done.stdout.replace("\n", "").split("signed with ")[1].split(":")[1].split(" ")[0]
    bundle = str(tmp_path / "towers.shards")
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "other"))
    files = write_config(tmp_path / "there", models(shards={"trust": [f"ed25519:{key}"]}), default=POLICY)
    options = ["--models", str(files[0]), "--policies", str(files[1])]
    taken = CliRunner().invoke(app, ["shards", "import", bundle, *options], catch_exceptions=False)
    assert "2 new" in taken.stdout
    assert {one["state"] for one in listed(run)} == {"candidate"}
    files = write_config(tmp_path / "stranger", models(), default=POLICY)
    options = ["--models", str(files[0]), "--policies", str(files[1])]
    refused = CliRunner().invoke(app, ["shards", "import", bundle, *options])
    assert refused.exit_code == 1 and "not trusted" in str(refused.exception)


def test_skills_in_and_out(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "iso-dates"
    folder.mkdir()
    (folder / "SKILL.md").write_text(
        "---\nname: iso-dates\ndescription: Use when a date is to be written as YYYY-MM-DD.\n---\n"
        "# Dates\n\n1. Write the year first.\n2. Then month and day.\n"
    )
    assert run("import", str(folder), config=True).exit_code == 0
    [skill] = listed(run, "--kind", "process")
    assert skill["steps"] == ["Write the year first.", "Then month and day."]
    out = tmp_path / "out"
    out.mkdir()
    assert run("export", "all", "--skills", "--out", str(out)).exit_code == 0
    assert "Write the year first." in next(out.glob("*/SKILL.md")).read_text()


def test_purging_a_user(run: Any, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "My sister lives in Oslo."}]
    (tmp_path / "talks.jsonl").write_text(json.dumps({"user": "ann", "session": "1", "messages": said}) + "\n")
    run("add", str(tmp_path / "talks.jsonl"))
    purged = CliRunner().invoke(app, ["purge", "--user", "ann", "--json"], catch_exceptions=False)
    assert json.loads(purged.stdout) == {"shards": 1, "lessons": 0, "answers": 0, "models": []}
    assert listed(run) == []
    assert CliRunner().invoke(app, ["purge"]).exit_code == 2


def test_no_word_of_what_is_purged_stays_in_the_file(run: Any, tmp_path: Path) -> None:
    home = Path(os.environ["GATEWAY_HOME"])

    def holds(word: bytes) -> bool:
        return any(word in path.read_bytes().lower() for path in home.glob("gateway.db*"))

    said = [{"role": "user", "content": "My sister lives in Quetzaltenango."}]
    (tmp_path / "talks.jsonl").write_text(json.dumps({"user": "ann", "session": "1", "messages": said}) + "\n")
    run("add", str(tmp_path / "talks.jsonl"))
    assert holds(b"quetzaltenango")
    purged = CliRunner().invoke(app, ["purge", "--user", "ann", "--vacuum", "--json"], catch_exceptions=False)
    assert json.loads(purged.stdout)["shards"] == 1
    assert not holds(b"quetzaltenango")
    alone = CliRunner().invoke(app, ["purge", "--vacuum"], catch_exceptions=False)
    assert (alone.exit_code, "erased 0 shards" in alone.output) == (0, True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["show", "nothing"], 1),
        (["list", "--kind", "poem"], 2),
        (["add", "no/such/file.md"], 2),
        (["retire", "0000"], 1),
    ],
)
def test_what_is_not_there_is_said(run: Any, words: list[str], code: int) -> None:
    result = CliRunner().invoke(app, ["shards", *words])
    assert result.exit_code == code


def test_shards_are_written_in_an_editor(run: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"- {{kind: content, fact: '{FACT}'}}\n- {{kind: content, fact: Noon is at 12.}}\n"
    )
    assert run("import", str(tmp_path / "mine.yaml"), config=True).exit_code == 0
    assert {one["fact"] for one in listed(run)} == {FACT, "Noon is at 12."}
    (tmp_path / "bad.yaml").write_text("{kind: content, fact: [")
    assert CliRunner().invoke(app, ["shards", "import", str(tmp_path / "bad.yaml")]).exit_code == 1
