"""Unmodified Python clients, as PyPI has them, installed once into environments of their own in the temporary folder.

They want other versions of the same packages than the gateway, and in part than each other. uv installs them: pip takes
ten times as long.
"""

from __future__ import annotations

import fcntl
import subprocess
import tempfile
from pathlib import Path

from tests.engines.environments import KEPT, NotHere, environment

UV = "uv==0.13.9"
NEW_CLIENTS = (
    "openai==3.54.0",
    "anthropic==2.12.0",
    "langchain-openai==1.7.4",
    "litellm==1.109.1",
    "llm==0.36",
    "openai-agents==0.24.0",
    "pydantic-ai-slim[openai]==2.68.0",
)
INSTRUCTOR = ("instructor==1.17.0",)  # these two do not go with the newest openai yet
LLAMA_INDEX = ("llama-index-llms-openai-like==0.8.1",)
OVERRIDES = ("certifi>=2026.2",)  # some ask for one that mirrors do not have yet, and no test speaks TLS


def new_clients() -> Path:
    """An interpreter that has them. Installed in about 10 s; 360 MB."""
    return _interpreter("clients", *NEW_CLIENTS)


def instructor() -> Path:
    return _interpreter("instructor", *INSTRUCTOR)


def llama_index() -> Path:
    return _interpreter("llama-index", *LLAMA_INDEX)


def _interpreter(name: str, *packages: str) -> Path:
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f"{name}.lock").open("w") as lock:  # workers of pytest-xdist come at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = KEPT / f"venv-{name}"
        wanted, installed = "\n".join((*packages, *OVERRIDES)), folder / "packages"
        if not installed.exists() or installed.read_text() != wanted:
            (folder / "installed").unlink(missing_ok=True)  # `environment` makes it anew
        environment(name, lambda python: _install(python, packages))
        installed.write_text(wanted)
    return folder / "bin" / "python"


def _install(python: Path, packages: tuple[str, ...]) -> None:
    _run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile", UV)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write("\n".join(OVERRIDES))
        overrides.flush()
        uv = (python.with_name("uv"), "pip", "install", "--quiet", "--native-tls", "--no-cache")
        _run(*uv, "--python", python, "--override", overrides.name, *packages)


def _run(*command: str | Path) -> None:
    """Raises: NotHere."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise NotHere(done.stderr.strip()[-500:])
