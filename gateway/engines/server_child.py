"""Runs somebody's server command, for `server_command.py`: `python -m gateway.engines.server_child`.

It speaks with the gateway as `child.py` says. The command gets a free port, a key in its environment, and nothing to
read; what it prints goes to stderr. When stdin is closed, on SIGTERM, and when the command ends by itself, everything
it has started goes too: SIGTERM for all, SIGKILL for what is left. On Linux that includes processes which have left
its process group or lost their parent, for orphans become children of this one.

One thread, so that nothing here ever waits for the command.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from gateway.engines.child import (
    PR_SET_CHILD_SUBREAPER,
    Say,
    Unfit,
    check_gguf,
    die_with_parent,
    keep_to_cpus,
    prctl,
    read_settings,
    take_stdout,
)

HOST = "127.0.0.1"
PORT = "{port}"  # as a whole word of the command, or as a value of its environment
POLL_S = 0.2
PROBE_S = 2.0  # for the server to say whether it is ready
STARTS = 3  # of them, if somebody else takes the port before the server does
LISTENS = "0A"  # in /proc/net/tcp


class Unwanted(Exception):
    """The gateway needs it no more, or is gone."""


def main() -> NoReturn:
    die_with_parent(signal.SIGTERM)
    say = take_stdout()
    bell = Bell()
    with suppress(PermissionError):  # it leads a session already
        os.setpgid(0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    end_like(run(read_settings(), bell, say))


def run(settings: dict[str, Any], bell: Bell, say: Say) -> int:
    """Returns: the command's exit code, less than 0 for a signal, if it ended by itself."""
    server = Server(settings, bell)
    try:
        for path, what in settings["gguf_files"]:
            check_gguf(path, what)
        keep_to_cpus(settings["cpus"])
        if server.start():
            say({"ready": {"url": f"http://{HOST}:{server.port}{settings['api_path']}"}})
            server.wait()
            server.end(settings["terminate_s"])
        return server.code or 0
    except Unfit as exc:
        say({"failed": str(exc)})
        return 1
    except Unwanted:
        server.end(settings["terminate_s"] if server.is_ready else 0)  # before, it has nothing to finish
        return 0


def end_like(code: int) -> NoReturn:
    if code < 0:
        with suppress(OSError):  # SIGKILL and SIGSTOP cannot be set
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


class Bell:
    """Rings when the gateway needs this no more, and when a child has ended."""

    def __init__(self) -> None:
        self._rung, ring = os.pipe()
        os.set_blocking(ring, False)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

    def wait(self, seconds: float | None) -> None:
        """Raises: Unwanted."""
        ready, _, _ = select.select([0, self._rung], [], [], seconds)
        if 0 in ready and not os.read(0, 4096):
            raise Unwanted
        if self._rung in ready and signal.SIGTERM in os.read(self._rung, 256):
            raise Unwanted

    def wait_for_child(self, seconds: float) -> None:
        if select.select([self._rung], [], [], max(0.0, seconds))[0]:
            os.read(self._rung, 256)


class Server:
    """The command, and whatever it has started."""

    def __init__(self, settings: dict[str, Any], bell: Bell) -> None:
        self._settings, self._bell = settings, bell
        self._pid = 0
        self.port = 0
        self.code: int | None = None  # with which the command has ended
        self.is_ready = False

    def start(self) -> bool:
        """Returns: whether it is ready; False if it has ended. Raises: Unfit, Unwanted."""
        for _ in range(STARTS):
            self._spawn()
            try:
                self.is_ready = self._becomes_ready()
            except PortTaken:
                pass
            if self.is_ready:
                return True
            self.end(0)
            if not is_taken(self.port):
                return False
            print("somebody else has taken its port: once more, with another", file=sys.stderr)
        raise Unfit("its server found no free port")

    def _spawn(self) -> None:
        self.port, self.code = free_port(), None
        command = [str(self.port) if word == PORT else word for word in self._settings["argv"]]
        environment = dict(os.environ)
        for name, value in self._settings["env"].items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = str(self.port) if value == PORT else value
        print("starts", " ".join(command), file=sys.stderr, flush=True)
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, preexec_fn=die_with_parent)
        except OSError as exc:
            raise Unfit(f"its server command cannot be started: {exc.strerror}") from None
        self._pid = process.pid
        process.returncode = 0  # `reap` waits for it

    def _becomes_ready(self) -> bool:
        while True:
            self._bell.wait(POLL_S)
            self.reap()
            if self.code is not None:
                return False
            if self._answers():
                if not owners(self.port) <= {os.getuid(), 0}:
                    raise PortTaken
                return True

    def _answers(self) -> bool:
        """Without the key: whoever listens there may not be the server."""
        request = f"GET {self._settings['ready_path']} HTTP/1.0\r\nHost: {HOST}\r\n\r\n"
        try:
            with socket.create_connection((HOST, self.port), timeout=PROBE_S) as connection:
                connection.sendall(request.encode())
                first = connection.makefile("rb").readline(64).split(b" ")
        except OSError:
            return False
        return len(first) > 1 and first[1].decode(errors="replace") in self._settings["ready_statuses"]

    def wait(self) -> None:
        """Until the command ends. Raises: Unwanted."""
        while self.code is None:
            self._bell.wait(None)
            self.reap()

    def reap(self) -> bool:
        """Clear away children that have ended. Returns: whether none is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self._note(pid, status)

    def _note(self, pid: int, status: int) -> None:
        if pid == self._pid:
            self.code = os.waitstatus_to_exitcode(status)

    def end(self, grace_s: float) -> None:
        """Returns when nothing of it is left."""
        if grace_s and not self.reap():
            os.killpg(0, signal.SIGTERM)  # which this process hears too, and takes for a bell
            give_up_at = time.monotonic() + grace_s
            while not self.reap() and (left_s := give_up_at - time.monotonic()) > 0:
                self._bell.wait_for_child(left_s)
        while not self.reap():
            kill_children()
            with suppress(ChildProcessError):
                self._note(*os.waitpid(-1, 0))


class PortTaken(Exception):
    """By another user of the machine: what listens there is not the server."""


def kill_children() -> None:
    """Where they cannot be listed, with this process and all that is in its group."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:
        os.killpg(0, signal.SIGKILL)
        return
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(PROBE_S)
        return probe.connect_ex((HOST, port)) == 0


def owners(port: int) -> set[int]:
    """User numbers of those who listen at a port of this machine; empty where that cannot be known."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, uid, *_ = line.split()
                if state == LISTENS and int(local.rpartition(":")[2], 16) == port:
                    found.add(int(uid))
    return found


if __name__ == "__main__":
    main()
