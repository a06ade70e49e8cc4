"""A server that only plays: an engine for `fake_server.py`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.engines import Launch
from gateway.engines.process import ProcessEngine

KEY = "fake-key-0123456789"


@dataclass(frozen=True)
class Fake(ProcessEngine):
    """`play` is what its child does: see fake_server.py."""

    play: str = "serve"
    name: str = "fake"
    slots: int = 2

    def launch(self) -> Launch:
        argv = (sys.executable, "-S", "-E", str(Path(__file__).with_name("fake_server.py")))
        return Launch(argv=argv, settings={"play": self.play, "key": KEY}, key=KEY, id=self.name)


def is_alive(pid: int) -> bool:
    """A zombie is not; ours must not even be that, which `is_known` tells."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return is_known(pid) and not Path("/proc/self").exists()
    return state != "Z"


def is_known(pid: int) -> bool:
    """Does the kernel still have a process of this number, dead or alive?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
