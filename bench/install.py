"""Peers, each in a folder of its own, and which versions of them are here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.processes import BenchError
from bench.targets import Target

PY_SPY = "py-spy"


def install(name: str, target: Target, tools: Path) -> None:
    """Raises: BenchError."""
    if target.pip:
        install_python(name, target.pip, tools)
    elif target.npm:
        if shutil.which("npm") is None:
            raise BenchError(f"{name} needs npm, which comes with Node.js")
        (tools / name).mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tools / name), target.npm])
    else:
        raise BenchError(f"{name} comes with the system: {target.how_to_install(name)}")


def install_python(name: str, packages: tuple[str, ...], tools: Path) -> None:
    """Into `tools/name`, an environment of its own: peers want versions that would not go together."""
    python = tools / name / "bin" / "python"
    if not python.exists():
        tools.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(tools / name)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])


def version_of(name: str, target: Target, tools: Path) -> str:
    """As it says itself; empty where it does not, or is not here."""
    if not target.is_installed(tools):
        return ""
    if target.pip:
        distribution = re.split(r"[\[=<>]", target.pip[0])[0]
        code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        return _said([str(tools / name / "bin" / "python"), "-c", code])
    if target.npm:
        package = tools / name / "node_modules" / target.npm / "package.json"
        return str(json.loads(package.read_text())["version"])
    found = re.search(r"\d+(\.\d+)+", _said([target.program(tools), "-v"]))
    return found[0] if found else ""


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip()


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise BenchError(f"could not install: {exc}") from None
