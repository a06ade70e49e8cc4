"""Servers that are not ours: commands which listen at a port they are told, run by `server_child.py`."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.engines import Launch
from gateway.engines.server_child import PORT

__all__ = ["PORT", "ServerCommand", "executable"]

TERMINATE_S = 3.0  # for the server to end in order; less than `Patience.exit_s`, after which all of it is killed


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """How to run a server.

    Args:
        argv: the command; `PORT` in it, and as a value of `env`, stands for the port.
        env: beside the gateway's own; None takes one away.
        key_variable: where the server looks for its key.
        ready_path: what answers with one of `ready_statuses` once requests can be served. It is asked without the
            key: 401 tells as much where only those with the key are answered.
        gguf_files: (path, what it is called): looked at before the start.
        cpus: that it may run on; none: all.
    """

    argv: Sequence[str]
    key_variable: str
    env: Mapping[str, str | None] = field(default_factory=dict)
    ready_path: str = "/health"
    ready_statuses: Sequence[str] = ("200",)
    gguf_files: Sequence[tuple[str, str]] = ()
    cpus: Sequence[int] = ()

    def launch(self, name: str) -> Launch:
        """A start of it, with a new key, under the name that it will know its model by."""
        key = secrets.token_urlsafe(32)
        settings = {
            "parent_pid": os.getpid(),
            "argv": list(self.argv),
            "env": {**self.env, self.key_variable: key},
            "ready_path": self.ready_path,
            "ready_statuses": list(self.ready_statuses),
            "api_path": "/v1",
            "gguf_files": [list(file) for file in self.gguf_files],
            "cpus": list(self.cpus),
            "terminate_s": TERMINATE_S,
        }
        argv = (sys.executable, "-P", "-m", "gateway.engines.server_child")
        return Launch(argv=argv, settings=settings, key=key, id=name)


def executable(command: str) -> str | None:
    """The file of a command: a path, `~` allowed, or a name on PATH; None where there is none that may be run."""
    return shutil.which(os.path.expanduser(command))
