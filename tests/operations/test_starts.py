"""A start while nothing that it asks can be reached, and wall clocks that are set while it runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.http.programs import program
from tests.operations.machines import machine
from tests.test_serve import free_port

DAY_S = 86_400
YEAR_S = 365 * DAY_S
NO_KEY = {"authorization": ""}


def unreachable(port: int) -> str:
    here = f"http://127.0.0.1:{port}/v1"
    return f"""
models:
  remote: {{engine: openai, base_url: "{here}", model: m, retries: 0}}
  theirs: {{engine: attach, url: "{here}", model: m}}
  spare: {{engine: scripted, replies: [{{text: from the spare}}]}}
  covered: {{engine: openai, base_url: "{here}", model: m, retries: 0, fallbacks: [spare]}}
"""


def test_it_serves_at_once_while_no_upstream_can_be_reached(tmp_path: Path) -> None:
    started = time.monotonic()
    with machine(tmp_path, unreachable(free_port())) as here:
        assert time.monotonic() - started < 15
        ready = here.client.get(f"{here.url}/readyz")
        assert ready.status_code in (200, 503)
        assert ready.json()["status"] == ("ready" if ready.status_code == 200 else "starting")
        asking = {"messages": [{"role": "user", "content": "hi"}]}
        refused = here.post("/v1/chat/completions", {"model": "remote", **asking})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "upstream_unavailable")
        covered = here.post("/v1/chat/completions", {"model": "covered", **asking})
        assert covered.json()["choices"][0]["message"]["content"] == "from the spare"
        attached = here.post("/v1/chat/completions", {"model": "theirs", **asking})
        assert attached.status_code == 503
        assert "Traceback" not in here.log


@pytest.mark.slow
def test_a_clock_that_is_set_while_it_runs(tmp_path: Path) -> None:
    """By libfaketime, which moves the wall clock of one process and leaves the monotonic one alone."""
    library = next(program("faketime").parents[1].glob("lib/*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("needs libfaketime")
    offset = tmp_path / "offset"

    def set_clock(seconds: float) -> None:
        offset.with_suffix(".new").write_text(f"{seconds:+.0f}")
        offset.with_suffix(".new").replace(offset)

    set_clock(0)
    fake = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with machine(tmp_path, environment=fake) as here:
        limits = ("--expires", "30d", "--requests-per-minute", "6", "--usd-per-day", "1")
        key = here.told("keys", "create", "--name", "me", *limits)["key"]
        here.client.headers["authorization"] = f"Bearer {key}"

        def status() -> int:
            return here.chat().status_code

        here.until("the key is asked for", lambda: here.client.get(f"{here.url}/v1/models", headers=NO_KEY).is_error)
        for seconds in (0, -YEAR_S, 0, 7 * DAY_S, 0, -DAY_S):  # the minute goes on, whatever the clock says
            set_clock(seconds)
            reply = here.chat()
            assert reply.status_code == 200, reply.text
            assert abs(reply.json()["created"] - time.time() - seconds) < 60, "the server has seen it"
        assert status() == 429
        set_clock(2 * YEAR_S)
        assert status() == 401, "its thirty days are over"
        set_clock(0)
        assert status() == 429, "and now they are not"
        here.until("all is written", lambda: here.gauge("gateway_journal_waiting") == 0)
        assert here.gauge("gateway_journal_dropped") == 0
        assert "Traceback" not in here.log
        written = here.told("report")["total"]["requests"]
        assert written == 8, "and no row has gone"
