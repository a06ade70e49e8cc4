"""The pool: runs the local servers and gives out the right to use them.

A caller asks for a lease and waits for whatever that needs; it never reads a state and acts on it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.engines import Engine, Lease
from gateway.engines.capped_log import CappedLog
from gateway.engines.places import Places
from gateway.engines.process import PATIENCE, ChildProcess, Patience, State
from gateway.errors import BackendUnavailable


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model as operators see it. `last_error` is kept after it has recovered; `loaded_s`: its last good start."""

    state: State
    pid: int | None
    restarts: int
    last_error: str | None
    loaded_s: float | None
    slots: int
    busy: int
    waiting: int


class _Resident:
    """A model that is kept running: its engine, its process, the places at it."""

    def __init__(self, engine: Engine, log_path: Path, patience: Patience) -> None:
        self.engine = engine
        self.places = Places(engine.name, engine.slots)
        self.child = ChildProcess(
            engine.name, engine.launch, CappedLog(log_path), on_change=self._follow, patience=patience
        )
        self._follow()

    def _follow(self) -> None:
        if self.child.lease is not None and self.child.state is State.READY:
            self.places.open(self.child.lease)
        elif self.child.state is State.STARTING:
            self.places.hold()
        else:
            self.places.refuse(self._unavailable)

    async def take(self, deadline: float | None) -> Lease:
        resumes_at = self.child.resumes_at
        if deadline is not None and resumes_at is not None and resumes_at > deadline:
            raise self._unavailable()
        return await self.places.take(deadline)

    def _unavailable(self) -> BackendUnavailable:
        name = self.engine.name
        if self.child.state is State.STOPPED:
            return BackendUnavailable(f"model '{name}' is not running")
        pause_s = max(0.0, (self.child.resumes_at or 0.0) - time.monotonic())
        retry_s = max(1, round(pause_s + (self.child.loaded_s or 0.0)))
        return BackendUnavailable(
            f"model '{name}' is not running: {self.child.last_error}", headers={"retry-after": str(retry_s)}
        )

    @property
    def state(self) -> ModelState:
        child, places = self.child, self.places
        return ModelState(
            state=child.state,
            pid=child.pid,
            restarts=child.restarts,
            last_error=child.last_error,
            loaded_s=child.loaded_s,
            slots=places.slots,
            busy=places.busy,
            waiting=places.waiting,
        )


class Pool:
    """Local models by name. Each is kept running from `start` to `close`.

    Args:
        home: what the servers print goes to `home/logs/NAME.log`.
    """

    def __init__(self, home: Path, *, patience: Patience = PATIENCE) -> None:
        self._logs = home / "logs"
        self._patience = patience
        self._residents: dict[str, _Resident] = {}
        self._is_running = False

    def add(self, engine: Engine) -> None:
        """Make a model known; it is started by `start`, or now if that has been. Adding it again changes nothing.

        Raises: ValueError if another one has its name.
        """
        known = self._residents.get(engine.name)
        if known is not None:
            if known.engine != engine:
                raise ValueError(f"another model '{engine.name}' is in the pool")
            return
        file_name = re.sub(r"[^\w.-]", "_", engine.name) + ".log"
        resident = self._residents[engine.name] = _Resident(engine, self._logs / file_name, self._patience)
        if self._is_running:
            resident.child.start()

    async def start(self) -> None:
        """Begin to start all of them side by side. Does not wait: leases do."""
        self._is_running = True
        for resident in self._residents.values():
            resident.child.start()

    async def close(self) -> None:
        """Refuse those who wait, and return when every child is gone."""
        self._is_running = False
        await asyncio.gather(*(resident.child.stop() for resident in self._residents.values()))

    @asynccontextmanager
    async def lease(self, name: str, deadline: float | None = None) -> AsyncIterator[Lease]:
        """The right to send one request to this model, until the block is left.

        Waits while the model is being started, also after a crash, and for a free place. If it crashes during the
        lease, the holder sees that as an error of its own request.

        Args:
            deadline: `time.monotonic()` until which to wait; None: as long as it takes.
        Raises: BackendUnavailable (it does not start, or not before the deadline), BackendTimeout, Overloaded;
            KeyError for a model that was never added.
        """
        resident = self._residents[name]
        lease = await resident.take(deadline)
        taken = time.monotonic()
        try:
            yield lease
        finally:
            resident.places.give_back(time.monotonic() - taken)

    @property
    def is_ready(self) -> bool:
        """Does every model answer? Also true where there is none."""
        return all(resident.child.state is State.READY for resident in self._residents.values())

    def states(self) -> dict[str, ModelState]:
        return {name: resident.state for name, resident in self._residents.items()}
