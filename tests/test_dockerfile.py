"""The Dockerfile's own lines, run without Docker: its RUN and COPY in a fresh folder, its CMD as another user.

This does not build the image; it shows that the commands in it work, and that the server needs no more than its own
folders.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.test_serve import free_port

pytestmark = [pytest.mark.slow, pytest.mark.model]
USER = "nobody"


def python_for(user: int) -> str:
    """An interpreter that this user may run and that can make virtual environments."""
    for found in (sys.base_prefix + "/bin/python3", "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            probe = [found, "-c", "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"]
            if subprocess.run(probe, user=user, cwd="/", capture_output=True).returncode == 0:
                return found
        except OSError:
            continue
    raise AssertionError(f"no Python 3.11 here that {USER} may run")


@pytest.fixture
def image() -> Iterator[Path]:
    """A folder in place of the image's root, owned by the user."""
    if os.geteuid() != 0:
        raise AssertionError("only root can become another user: run this test as root")
    user = pwd.getpwnam(USER).pw_uid
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chown(folder, user, -1)
        yield Path(folder)


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if " " in line]


def test_its_commands_build_and_serve_as_another_user(image: Path, core_model_path: Path) -> None:
    user = pwd.getpwnam(USER).pw_uid
    python = python_for(user)

    def inside(text: str) -> str:
        return re.sub(r"(?<![\w.])/(opt/gateway|config|data|src)\b", rf"{image}/\1", text)

    def run(command: str | list[str], **more: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HOME": str(image), **environment, **more}
        shell = isinstance(command, str)
        done = subprocess.run(command, shell=shell, user=user, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    environment: dict[str, str] = {}
    folder, command, health, users = image, [], [], []
    for name, rest in instructions():
        if name == "WORKDIR":
            folder = Path(inside(rest))
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, user, -1)
        elif name == "COPY" and "--from" not in rest:
            *sources, target = [inside(word) for word in rest.split() if not word.startswith("--")]
            for source in sources:
                place = folder / target if target.startswith(".") else Path(target)
                place = place / source if target == "./" and not (ROOT / source).is_dir() else place
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(ROOT / source, place) if (ROOT / source).is_dir() else shutil.copy(ROOT / source, place)
            subprocess.run(["chown", "-R", str(user), str(image)], check=True)
        elif name == "RUN" and not rest.startswith("useradd"):
            run(inside(re.sub(r"^python ", f"{python} ", rest)))
        elif name == "ENV":
            for key, value in re.findall(r"(\w+)=(\S+)", inside(rest)):
                environment[key] = os.path.expandvars(value.replace("$PATH", os.environ["PATH"]))
        elif name == "USER":
            users.append(rest)
        elif name == "HEALTHCHECK":
            health = json.loads(rest.split("CMD ", 1)[1])
        elif name == "CMD":
            command = json.loads(rest)
    assert users == ["gateway"], "the image runs as a user of its own"

    port = str(free_port())
    command, health = [[part.replace("8080", port) for part in line] for line in (command, health)]
    config = image / "config" / "models.yaml"
    config.write_text(re.sub(r"source: .*", f'source: "file:{core_model_path}"', config.read_text()))
    key = json.loads(run(["gateway", "keys", "create", "--name", "me", "--json"]).stdout)["key"]
    env = {**os.environ, "HOME": str(image), **environment}
    with (image / "log").open("w") as log:
        server = subprocess.Popen(command, user=user, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        give_up_at = time.monotonic() + 60
        ready = False
        while not ready and time.monotonic() < give_up_at and server.poll() is None:
            try:
                ready = httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                time.sleep(0.1)
        assert ready, (image / "log").read_text()
        run(health)
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        assert httpx.post(url, json=body, timeout=60).status_code == 401
        reply = httpx.post(url, json=body, headers={"authorization": f"Bearer {key}"}, timeout=60)
        assert reply.status_code == 200 and reply.json()["model"] == "core"
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
