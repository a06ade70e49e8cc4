"""The fuzzer's corpus, and a little of its work; `python -m tests.transport.fuzz` does more."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from gateway.transport.connection import Connection
from tests.transport import fuzz
from tests.transport.raw import ROOT, outcome


@pytest.mark.parametrize("file", sorted(fuzz.CORPUS.iterdir()), ids=lambda file: file.name)
def test_the_corpus(file: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(fuzz.replay(file, random.Random(1)))


def test_some_that_are_bent() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tried, behaviours = runner.run(fuzz.fuzz(random.Random(7), until=lambda tried: tried < 40))
    assert tried == 40 and behaviours > 30


async def test_a_reader_that_loses_bytes_at_an_edge_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (fuzz.CORPUS / "length.http").read_bytes()
    received = Connection.data_received
    monkeypatch.setattr(Connection, "data_received", lambda self, data: received(self, data.removesuffix(b"}")))
    assert (await outcome([said], ends=True)).error == "ConnectionCut"
    monkeypatch.setattr(Connection, "data_received", lambda self, data: received(self, data.removeprefix(b"{")))
    with pytest.raises(fuzz.Broken):
        for _ in range(20):
            await fuzz.try_reply(said, random.Random(_))


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.transport.fuzz", "--seconds", "0", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "no promise broken" in done.stdout, done.stderr
