"""kill -9 of a server, and backups beside one that runs."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.operations.machines import MODELS, machine
from tests.test_serve import run, start_serving, stop


@pytest.mark.slow
def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "models.yaml").write_text(MODELS)
    home = tmp_path / "home"
    run("keys", "create", "--name", "me", home=home, folder=tmp_path)
    served = start_serving(tmp_path, home)
    served.process.kill()
    served.process.wait(10)
    with closing(sqlite3.connect(home / "gateway.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again = start_serving(tmp_path, home)
    assert stop(again) == 0
    assert json.loads(run("keys", "list", "--json", home=home, folder=tmp_path))[0]["name"] == "me"


@pytest.mark.slow
def test_rows_of_a_killed_server_are_there_but_for_the_last_second(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), machine(tmp_path) as here:  # it does not end as it should
        for _ in range(20):
            assert here.chat().status_code == 200
        here.until("they are written", lambda: here.gauge("gateway_journal_waiting") == 0)
        here.process.kill()
        here.process.wait(10)
    assert here.told("report")["total"]["requests"] == 20


@pytest.mark.slow
def test_a_running_server_is_backed_up_and_not_restored_over(tmp_path: Path) -> None:
    with machine(tmp_path) as here:
        assert here.chat().status_code == 200
        here.until("it is written", lambda: here.gauge("gateway_journal_waiting") == 0)
        assert here.told("backup", "copy.db")["requests"] == 1
        refused = here.command("restore", "copy.db")
        assert refused.returncode == 1
        assert "in use by a server or a command: stop it first" in " ".join(refused.stderr.split())
        assert here.chat().status_code == 200
        here.until("it is written", lambda: here.gauge("gateway_journal_waiting") == 0)
    assert here.told("restore", "copy.db")["requests"] == 1
    assert here.told("report")["total"]["requests"] == 1
