"""One local model server as a child process that is watched, started again when it dies, and never left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, cast

from gateway.engines import Launch, Lease, Patience, Residency, Site, State
from gateway.engines.capped_log import CappedLog
from gateway.engines.environment import without_secrets
from gateway.engines.plain import PlainEngine
from gateway.errors import EngineError
from gateway.probe import FoundServer
from gateway.transport import HttpClient

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 1024
LAST_LINES = 50
DRAIN_S = 1.0  # for what a dead child still has in its pipes; a grandchild may hold them open
KILLED_S = 5.0  # for the kernel to take away a killed child


PATIENCE = Patience()
Describe = Callable[[Lease], Awaitable[FoundServer | None]]


class Nap(Protocol):
    """Both raise EngineError."""

    async def sleep(self, lease: Lease) -> None: ...
    async def wake(self, lease: Lease) -> None: ...


class _Pipes(asyncio.SubprocessProtocol):
    """What comes out of a child: its first line on stdout, its stderr line by line, its end."""

    def __init__(self, note: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.first_line: asyncio.Future[bytes] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.drained: asyncio.Future[None] = loop.create_future()
        self._note = note
        self._out = self._err = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            *lines, self._err = (self._err + data).split(b"\n")
            if len(self._err) > MAX_LINE_BYTES:
                lines, self._err = [*lines, self._err], b""
            for line in lines:
                self._note(line)
        elif not self.first_line.done():
            self._out += data
            line, newline, _ = self._out.partition(b"\n")
            if newline or len(line) > MAX_LINE_BYTES:
                self.first_line.set_result(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 2 and self._err:
            self._note(self._err)
            self._err = b""

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.process_exited()
        self.drained.set_result(None)


class _Child:
    """One run of the command."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: _Pipes) -> None:
        self.pipes = pipes
        self.pid = transport.get_pid()
        self.is_ready = False
        self._transport = transport

    @classmethod
    async def spawn(cls, launch: Launch, note: Callable[[bytes], None]) -> _Child:
        """Raises: EngineError.

        In a session of its own, so that Ctrl-C in a terminal reaches only the gateway, which then ends it in order.
        """
        try:
            transport, pipes = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Pipes(note), *launch.argv, start_new_session=True, env=without_secrets(os.environ)
            )
        except OSError as exc:
            raise EngineError(f"it cannot be started: {exc.strerror or type(exc).__name__}") from exc
        child = cls(transport, pipes)
        child._stdin.write(json.dumps(launch.settings).encode() + b"\n")
        return child

    @property
    def _stdin(self) -> asyncio.WriteTransport:
        return cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    async def first_line(self, patience_s: float) -> bytes:
        """Raises: EngineError if it ends, or if it takes longer, before it has said anything."""
        pipes = self.pipes
        either: set[asyncio.Future[Any]] = {pipes.first_line, pipes.exited}
        await asyncio.wait(either, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if not pipes.first_line.done() and pipes.exited.done():
            await asyncio.wait({pipes.drained}, timeout=DRAIN_S)
        if pipes.first_line.done():
            return pipes.first_line.result()
        if pipes.exited.done():
            raise EngineError(f"it ended while starting ({self.how_it_ended})")
        raise EngineError(f"it was not ready within {patience_s:g} s")

    @property
    def how_it_ended(self) -> str:
        status = self._transport.get_returncode()
        if status is not None and status < 0:
            with suppress(ValueError):
                return signal.Signals(-status).name
        return f"exit status {status}"

    async def end(self, patience: Patience) -> None:
        """See that it is gone: close its stdin, then SIGTERM, then SIGKILL. A second cancellation kills at once."""
        try:
            if not self.pipes.exited.done():
                self._stdin.close()
                # Before it is ready it has nothing to finish, and may be too busy loading to look at its stdin.
                if not (self.is_ready and await self._is_gone_within(patience.exit_s)):
                    self._signal(signal.SIGTERM)
                    await self._is_gone_within(patience.terminate_s)
        finally:
            self._signal(signal.SIGKILL)
            try:
                if not await self._is_gone_within(KILLED_S):
                    log.error("process %d does not go away", self.pid)
            finally:
                self._kill_what_it_left()
                self._transport.close()
        await asyncio.wait({self.pipes.drained}, timeout=DRAIN_S)

    def _kill_what_it_left(self) -> None:
        """Its children, if it was killed before it had seen to them: they are in the group that it led."""
        with suppress(ProcessLookupError, PermissionError):  # there are none; macOS says so of zombies
            os.killpg(self.pid, signal.SIGKILL)

    async def _is_gone_within(self, seconds: float) -> bool:
        await asyncio.wait({self.pipes.exited}, timeout=seconds)
        return self.pipes.exited.done()

    def _signal(self, number: signal.Signals) -> None:
        if not self.pipes.exited.done():
            with suppress(ProcessLookupError):
                self._transport.send_signal(number)


class ChildProcess:
    """Keeps one server running from `start` to `stop`. It is told by `on_change`, which must not block, that `state`
    or what belongs to it has changed.

    Args:
        launch: called for each start; what it raises counts as a failed start.
        lines: where the child's stderr goes.
        describe: asks a server that is ready what it can do, beside what its settings say.
        nap: how the server is sent to sleep, where it can be.
        now, sleep: the clock of the pauses between starts.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], Launch],
        lines: CappedLog,
        *,
        on_change: Callable[[], None] = lambda: None,
        describe: Describe | None = None,
        nap: Nap | None = None,
        patience: Patience = PATIENCE,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.state = State.STOPPED
        self.lease: Lease | None = None  # set while ready
        self.pid: int | None = None
        self.restarts = 0
        self.loaded_s: float | None = None  # what the last good start took
        self.last_error: str | None = None  # in words that a client may read
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)  # of its stderr; they may name files
        self.resumes_at: float | None = None  # by `now`: the end of a pause between starts
        self.found: FoundServer | None = None
        self._known: FoundServer | None = None
        self._describe, self._nap = describe, nap
        self._launch, self._lines, self._on_change, self._patience = launch, lines, on_change, patience
        self._now, self._sleep = now, sleep
        self._key = ""
        self._pause_s = patience.first_retry_s  # before the next start
        self._task: asyncio.Task[None] | None = None

    def doubt(self) -> None:
        """Nothing to do: its end is seen at once."""

    def remember(self, found: FoundServer) -> None:
        self._known = found

    def start(self) -> None:
        if self._task is None:
            self._become(State.STARTING)
            self._task = asyncio.create_task(self._supervise(), name=f"engine {self.name}")

    async def stop(self) -> None:
        """Returns when the child is gone; cancelling this does not keep it alive."""
        task, self._task = self._task, None
        self._become(State.STOPPED)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def sleep(self) -> None:
        if self._nap is None or self.lease is None:
            raise EngineError("it is not there to be sent to sleep")
        await self._nap.sleep(self.lease)

    async def wake(self) -> None:
        if self._nap is None or self.lease is None:
            raise EngineError("it is not there to be woken")
        await self._nap.wake(self.lease)

    def _become(self, state: State) -> None:
        self.state = state
        self._on_change()

    async def _supervise(self) -> None:
        try:
            await self._run_again_and_again()
        finally:
            self._lines.close()

    async def _run_again_and_again(self) -> None:
        while True:
            was_ready_s = await self._run_once()
            pause_s = self._pause_s
            last_line = self.last_lines[-1] if self.last_lines else "nothing"
            log.warning("model %s: %s; next start in %g s; it said: %s", self.name, self.last_error, pause_s, last_line)
            self.resumes_at = self._now() + pause_s
            self._become(State.FAILED if was_ready_s is None else State.STARTING)
            await self._sleep(pause_s)
            self._pause_s = min(2 * pause_s, self._patience.longest_retry_s)
            self.resumes_at = None
            self.restarts += 1

    async def _run_once(self) -> float | None:
        """From a start to the end of the child. Returns: how long it was ready; None if it never was."""
        try:
            launch = self._launch()
            self._key = launch.key
            started = self._now()
            child = await _Child.spawn(launch, self._note)
            self.pid = child.pid
            try:
                url = launch.read_ready(await child.first_line(self._patience.start_s))
                child.is_ready = True
                return await self._watch(child, Lease(url, launch.key, launch.id), started)
            finally:
                self.lease = self.pid = None
                await child.end(self._patience)
        except EngineError as exc:
            self.last_error = exc.message
        except Exception:  # whatever it is, the other models go on and this one is tried again
            log.exception("model %s: cannot be started", self.name)
            self.last_error = "it cannot be started"
        return None

    async def _watch(self, child: _Child, lease: Lease, started: float) -> float:
        self.found = await self._described(lease)
        ready_at = self._now()
        self.lease, self.loaded_s = lease, ready_at - started
        log.info("model %s: ready after %.1f s, process %d", self.name, self.loaded_s, child.pid)
        self._become(State.READY)
        await asyncio.wait({child.pipes.exited})
        was_ready_s = self._now() - ready_at
        if was_ready_s >= self._patience.healthy_s:
            self._pause_s = self._patience.first_retry_s
        self.lease, self.last_error = None, f"it crashed ({child.how_it_ended})"
        # Known from the crash on: who comes while the child is cleared away must not wait in vain either.
        self.resumes_at = self._now() + self._pause_s
        self._become(State.STARTING)
        await asyncio.wait({child.pipes.drained}, timeout=DRAIN_S)
        return was_ready_s

    async def _described(self, lease: Lease) -> FoundServer | None:
        if self._known is not None:
            return replace(self._known, base_url=lease.url)
        return await self._describe(lease) if self._describe else None

    def _note(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if self._key:
            text = text.replace(self._key, "***")
        self.last_lines.append(text)
        self._lines.write(text)


class ProcessEngine(PlainEngine, ABC):
    """An engine whose server is a child process of ours."""

    name: str
    residency: Residency = Residency.ALWAYS
    idle_ttl_s: float = 300.0
    preload: bool = False

    def nap(self, client: HttpClient) -> Nap | None:
        """How its server is sent to sleep and woken."""
        return None

    @abstractmethod
    def launch(self) -> Launch:
        """How to start it, now. Raises: EngineError, whose message may be shown to clients."""

    def describe(self, client: HttpClient) -> Describe | None:
        """What to ask its server once it is ready; None: its settings say all there is to know."""
        return None

    def supervise(self, site: Site, on_change: Callable[[], None]) -> ChildProcess:
        return ChildProcess(
            self.name,
            self.launch,
            CappedLog(site.log_of(self.name)),
            on_change=on_change,
            describe=self.describe(site.client),
            nap=self.nap(site.client),
            patience=site.patience,
        )
