"""A gateway that is killed takes its children with it, whatever they are doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.engines.fakes import is_alive

REPOSITORY = Path(__file__).parents[2]


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """For what happens in processes that are not ours."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.002)


@contextmanager
def parent_of(model: str, home: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A small gateway and the number of its child."""
    command = [sys.executable, "-m", "tests.engines.parent", str(home), model]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            yield parent, int(parent.stdout.readline())
        finally:
            parent.kill()


def said(parent: subprocess.Popen[str]) -> str:
    assert parent.stdout is not None
    return parent.stdout.readline()


def test_the_child_of_a_killed_gateway_goes(tmp_path: Path) -> None:
    with parent_of("", tmp_path) as (parent, child):
        assert said(parent) == "ready\n" and is_alive(child)
        parent.kill()
        wait_until(lambda: not is_alive(child))


@pytest.mark.model
def test_a_model_server_goes_with_a_killed_gateway(core_model_path: Path, tmp_path: Path) -> None:
    with parent_of(str(core_model_path), tmp_path) as (parent, child):
        assert said(parent) == "ready\n" and is_alive(child)
        parent.kill()
        wait_until(lambda: not is_alive(child), seconds=2)


@pytest.mark.model
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it goes when the model is loaded")
def test_a_model_server_that_is_loading_goes_with_a_killed_gateway(core_model_path: Path, tmp_path: Path) -> None:
    with parent_of(str(core_model_path), tmp_path) as (parent, child):
        maps = Path(f"/proc/{child}/maps")
        wait_until(lambda: core_model_path.name in maps.read_text())  # llama.cpp is reading it
        os.kill(child, signal.SIGSTOP)  # and will not come to an end of that
        try:
            parent.kill()
            wait_until(lambda: not is_alive(child), seconds=5)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        assert said(parent) == ""  # it was not ready yet
