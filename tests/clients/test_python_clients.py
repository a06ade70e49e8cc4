"""Unmodified clients from PyPI, each in a process of its own, against `gateway serve` with a key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from gateway import cli
from tests.clients import scripted
from tests.clients.environments import instructor, llama_index, new_clients
from tests.test_serve import Served, stop

SCRIPTS = Path(__file__).parent / "scripts"
OPENAI = ("openai_chat", "openai_responses", "openai_others", "openai_errors")
OTHERS = (
    "anthropic_client",
    "pydantic_ai_client",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("agents_client", "langchain_client", "litellm_client")),
)
STRICT = ("-W", "error:Pydantic serializer warnings:UserWarning")  # a reply that is not what the package's types say
Keyed = tuple[Served, str]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, minilm_home: Path) -> Iterator[Keyed]:
    served, key = scripted.start(tmp_path_factory.mktemp("clients"), minilm_home)
    yield served, key
    assert _becomes_idle(served)  # whoever went away has left nothing running
    assert stop(served) == 0


def _becomes_idle(served: Served) -> bool:
    give_up_at = time.monotonic() + 5
    while time.monotonic() < give_up_at:
        metrics = httpx.get(f"{served.url}/metrics").text
        if re.search(r"^gateway_requests_in_flight 0(\.0)?$", metrics, re.MULTILINE):
            return True
        time.sleep(0.05)
    return False


def run_scripts(names: Sequence[str], python: Path, keyed: Keyed, folder: Path, *options: str) -> None:
    """Its report is shown where it fails. It sees no settings of this machine's user."""
    served, key = keyed
    environment = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "GATEWAY_URL": served.url,
        "GATEWAY_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would ask for it elsewhere
    }
    done = subprocess.run(
        [str(python), *options, str(SCRIPTS / "run.py"), *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* ok$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    "python",
    [lambda: Path(sys.executable), pytest.param(new_clients, marks=pytest.mark.slow)],
    ids=["installed", "newest"],
)
def test_openai(python: Callable[[], Path], keyed: Keyed, tmp_path: Path) -> None:
    """The one that is installed here, and the newest there is."""
    run_scripts(OPENAI, python(), keyed, tmp_path, *STRICT)


@pytest.mark.slow  # to install and to import
@pytest.mark.parametrize("name", OTHERS)
def test_a_client(name: str, keyed: Keyed, tmp_path: Path) -> None:
    run_scripts([name], new_clients(), keyed, tmp_path)


@pytest.mark.slow
def test_instructor(keyed: Keyed, tmp_path: Path) -> None:
    run_scripts(["instructor_client"], instructor(), keyed, tmp_path)


@pytest.mark.slow  # to install and to import
def test_llama_index(keyed: Keyed, tmp_path: Path) -> None:
    run_scripts(["llama_index_client"], llama_index(), keyed, tmp_path)


@pytest.mark.slow
def test_llm_as_connect_sets_it_up(keyed: Keyed, tmp_path: Path) -> None:
    served, key = keyed
    printed = CliRunner().invoke(cli.app, ["connect", "llm", "--json", "--url", served.url, "--key", key]).stdout
    (tmp_path / "printed.json").write_text(printed)
    run_scripts(["llm_client"], new_clients(), keyed, tmp_path)
