"""Disks that are full or take no writes: requests are answered; what waits is counted, and written in the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event

from gateway.store.database import Database
from tests.asgi import Client
from tests.conftest import ROOT, Serve
from tests.operations.machines import MODELS, machine

POLICY = "policy: default\nserves: [auto]\nroutes: [{name: all, answer: {model: m}}]\n"
UNSENT = "store_unavailable"


@pytest.fixture
async def full(serve: Serve) -> Client:
    """A gateway whose database cannot grow."""
    client = await serve(MODELS, default=POLICY)
    database = client.runtime.database
    assert database is not None
    stuff(database)
    return client


def stuff(database: Database) -> None:
    """All connections from now on find the disk full: SQLite says the same of a limit on its pages."""

    @event.listens_for(database.engine.sync_engine, "checkout")
    def limit(connection: object, record: object, proxy: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA max_page_count=1")  # never less than it has
        cursor.close()


async def test_what_cannot_be_stored_is_503_with_a_reason_and_chats_go_on(full: Client) -> None:
    assert (await full.chat("hi")).status == 200
    trace = (await full.chat("hi")).headers["x-gateway-trace"]
    for _ in range(200):  # until the free space within pages is used up
        reply = await full.call("POST", "/v1/feedback", {"trace": trace, "value": True, "metric": "m" * 60})
        if reply.status >= 300:
            break
    assert (reply.status, reply.error["code"]) == (503, UNSENT)
    assert reply.headers["retry-after"] == "10"
    assert "log says why" in reply.error["message"] and "sqlite" not in str(reply.json).lower()
    assert (await full.chat("hi")).status == 200


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    with machine(tmp_path, disk="size=4m") as here:
        key = here.told("keys", "create", "--name", "me", "--admin")["key"]
        here.client.headers["authorization"] = f"Bearer {key}"
        here.until("the key counts", lambda: here.chat().status_code == 200)
        here.until("it is written", lambda: here.gauge("gateway_journal_waiting") == 0)
        before = here.told("report")["total"]["requests"]
        filler = here.fill()
        assert {here.chat().status_code for _ in range(60)} == {200}
        here.until("the log says so", lambda: "could not be written: database or disk is full" in here.log)
        assert here.gauge("gateway_journal_waiting") > 0
        assert here.gauge("gateway_journal_dropped") == 0
        reply = here.post("/v1/admin/keys", {"name": "another"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, UNSENT)
        for words in (("keys", "create", "--name", "x"), ("backup", str(here.folder / "home" / "copy.db"))):
            done = here.command(*words)
            assert done.returncode == 1
            assert "full" in done.stderr and "Traceback" not in done.stderr
        assert here.client.get(f"{here.url}/readyz").status_code == 200
        filler.unlink()
        here.until("what waited is written", lambda: here.gauge("gateway_journal_waiting") == 0)
        assert here.told("report")["total"]["requests"] == before + 60
        assert here.post("/v1/admin/keys", {"name": "another"}).status_code in (200, 201)
        assert "Traceback" not in here.log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "why"), [("ro", "Read-only file system: GATEWAY_HOME has to be"), ("size=64k", "is full")]
)
def test_a_start_on_such_a_disk_says_so_in_one_line(tmp_path: Path, options: str, why: str) -> None:
    with pytest.raises(AssertionError) as caught, machine(tmp_path, disk=options):
        pass
    assert why in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert str(caught.value).count("\n") < 4


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_not_fetched(tmp_path: Path) -> None:
    with machine(tmp_path, disk="size=4m") as here:
        (tmp_path / "models.yaml").write_text((ROOT / "models.yaml").read_text())
        done = here.command("pull", "core")
        assert done.returncode == 1
        assert "full" in done.stderr or "room" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert not list(here.home.glob("models/*/*.gguf"))
        assert here.chat().status_code == 200
