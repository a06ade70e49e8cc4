"""Programs that tests run beside the gateway. One that is not installed is taken from Debian's archive, into a folder
of temporary files, once; nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / "onion-gateway-tests" / "programs"
SBIN = "/usr/sbin:/usr/local/sbin"


def program(name: str) -> Path:
    """Raises: AssertionError where it is not installed, and cannot be fetched."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")
    return Path(found) if found else _fetched(name)


def _fetched(name: str) -> Path:
    for place in ("usr/bin", "usr/sbin"):
        if (FOLDER / name / place / name).exists():
            return FOLDER / name / place / name
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as text:
        folder = Path(text)
        try:
            _apt(folder, "update")  # into a folder of our own, for that of the system may be empty or not ours
            _apt(folder, "download", name)
            (package,) = folder.glob("*.deb")
            subprocess.run(["dpkg", "-x", package, folder / "tree"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError, ValueError) as exc:
            raise AssertionError(f"this test needs {name}: install it (it could not be fetched: {exc})") from exc
        if not (FOLDER / name).exists():  # another run may have been faster
            (folder / "tree").rename(FOLDER / name)
    return _fetched(name)


def _apt(folder: Path, *words: str) -> None:
    for place in ("state/lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::State={folder}/state", f"-oDir::Cache={folder}/cache"]
    if words[0] == "update":
        options.append("-oDir::State::status=/var/lib/dpkg/status")
    subprocess.run(["apt-get", "-qq", *options, *words], cwd=folder, check=True, capture_output=True, timeout=120)
