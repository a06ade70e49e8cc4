"""The workers as processes: started, started again when they die, and stopped in order."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from gateway.errors import GatewayError
from gateway.tasks import ended
from gateway.workers.desk import Desk
from gateway.workers.office import Office

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0  # before a worker is started again that never was ready
LAST_S = 10.0  # for a worker to write what it has, after its open requests have had their time
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Crew:
    """It serves, and stops by signals, as `http_server.Server` does where there is one process."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._hash_seed = str(secrets.randbelow(2**32))  # one for all: they tell each other of things by their hashes
        self._is_stopping = asyncio.Event()
        self._is_hurried = asyncio.Event()
        self._has_failed = asyncio.Event()

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Until it is told to stop and all workers have ended. Args: `sockets`: one for each worker; a worker that is
        started again finds there who has come meanwhile. Raises: GatewayError where one does not start."""
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        telling = asyncio.create_task(self._office.keep_telling())
        keeping = [asyncio.create_task(self._keep(one)) for one in sockets]
        try:
            await asyncio.wait(keeping)
        finally:
            await ended([telling, *keeping])
            for number in STOPPING:
                loop.remove_signal_handler(number)
        for task in keeping:
            task.result()
        if self._has_failed.is_set():
            raise GatewayError("a worker did not start: see the log")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first time, open requests may finish; the second ends everything at once."""
        if self._is_stopping.is_set():
            self._is_hurried.set()
        self._office.live.is_draining = True
        self._is_stopping.set()
        self._office.stop()

    async def _keep(self, listener: socket.socket) -> None:
        """One worker after the other, until the server stops."""
        was_ever_ready, pause_s = False, 0.0
        while not self._is_stopping.is_set():
            if pause_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._is_stopping.wait(), pause_s)
                    return
            try:
                process, desk = await self._start(listener)
            except OSError as exc:  # no process, descriptor or memory is left
                why, was_ready = f"a worker cannot be started ({exc})", False
            else:
                status, was_ready = await self._watched(process, desk)
                why = f"worker {process.pid} has ended ({_told(status)})"
            if self._is_stopping.is_set():
                return
            was_ever_ready = was_ever_ready or was_ready
            if not was_ever_ready:
                log.error("%s", why)
                self._has_failed.set()
                self.handle_exit(signal.SIGTERM, None)
                return
            pause_s = 0.0 if was_ready else min(LONGEST_PAUSE_S, 2 * pause_s or FIRST_PAUSE_S)
            self._office.restarts += 1
            log.error("%s: another one is started", why)

    async def _start(self, listener: socket.socket) -> tuple[asyncio.subprocess.Process, Desk]:
        """Raises: OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = theirs.fileno(), listener.fileno()
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "gateway.workers.worker",
                    *map(str, descriptors),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=descriptors,
                    env={**os.environ, "PYTHONHASHSEED": self._hash_seed},
                )
            except OSError:
                ours.close()
                raise
        desk = Desk(self._office, process.pid)
        await desk.channel.open(ours)
        return process, desk

    async def _watched(self, process: asyncio.subprocess.Process, desk: Desk) -> tuple[int, bool]:
        """Until it has ended, and what it held is let go. Returns: its status, and was it ever ready?"""
        stopping = asyncio.create_task(self._stop_in_time(process))
        try:
            status = await process.wait()
            await desk.ended.wait()
        except asyncio.CancelledError:
            process.kill()
            raise
        finally:
            await ended([stopping])
        return status, desk.was_ready

    async def _stop_in_time(self, process: asyncio.subprocess.Process) -> None:
        """Once the server stops, a worker that does not end is ended."""
        await self._is_stopping.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_hurried.wait(), self._office.order.grace_s)
        await asyncio.sleep(LAST_S)
        log.error("worker %d does not end: it is killed", process.pid)
        process.kill()


def _told(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
