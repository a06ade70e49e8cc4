"""The gateway as the bench measures it, with everything on: a key, a policy of five rules, trace, journal, metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.processes import BenchError
from bench.targets import HERE, ROOT, Target, filled

CONFIG = HERE / "ours"
POLICIES = ("bench", "held")


def write_config(folder: Path, models: str, upstream: str = "", policies: tuple[str, ...] = POLICIES) -> None:
    """`folder/models.yaml` from ours/MODELS.yaml, and `folder/policies`."""
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    (folder / "models.yaml").write_text(filled((CONFIG / f"{models}.yaml").read_text(), {"up": upstream}))
    for name in policies:
        (folder / "policies" / f"{name}.yaml").write_text((CONFIG / "policies" / f"{name}.yaml").read_text())


def make_key(home: Path) -> str:
    """As an operator makes one. Raises: BenchError."""
    command = [sys.executable, "-m", "gateway", "keys", "create", "--name", "bench", "--json"]
    env = {**os.environ, "GATEWAY_HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"no key could be made: {done.stderr.strip()}")
    return str(json.loads(done.stdout)["key"])


def our_target(folder: Path, upstream_port: int) -> Target:
    """Its configuration and database lie in `folder`. Raises: BenchError."""
    write_config(folder, "mock", f"http://127.0.0.1:{upstream_port}")
    home = folder / "home"
    return Target(
        title="Onion Gateway",
        command=f"{sys.executable} -m gateway serve --models {folder}/models.yaml --policies {folder}/policies"
        " --port {port}",
        headers={"Authorization": f"Bearer {make_key(home)}"},
        env={"GATEWAY_HOME": str(home)},
        has_cascades=True,
    )
