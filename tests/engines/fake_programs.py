"""Programs that pass for llama-server, vllm or a Python with llama-cpp-python: they note how they were called, and
serve as fake_command.py does."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

CALLED = """\
import json, os, sys
called = {"argv": sys.argv[2:], "env": dict(os.environ)}
open(sys.argv[1] + ".new", "w").write(json.dumps(called))
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


@dataclass(frozen=True)
class Program:
    path: Path

    @property
    def argv(self) -> list[str]:
        return list(json.loads(self._called.read_text())["argv"])

    @property
    def env(self) -> dict[str, str]:
        return dict(json.loads(self._called.read_text())["env"])

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self.path.with_suffix(".pids").read_text().split()]

    @property
    def _called(self) -> Path:
        return self.path.with_suffix(".called")

    def option(self, name: str) -> str:
        return self.argv[self.argv.index(name) + 1]


def program(path: Path, key_variable: str, play: str = "serves") -> Program:
    here = Path(__file__).with_name("fake_command.py")
    (path.with_suffix(".py")).write_text(CALLED)
    path.write_text(
        f'#!/bin/sh\n"{sys.executable}" "{path.with_suffix(".py")}" "{path.with_suffix(".called")}" "$@"\n'
        f'export FAKE_KEY="${key_variable}" FAKE_PIDS="{path.with_suffix(".pids")}"\n'
        f'exec "{sys.executable}" "{here}" "{play}" ${{PORT:+--port $PORT}} "$@"\n'
    )
    path.chmod(0o755)
    return Program(path)
