"""Engines: local model servers, each a child process that speaks OpenAI's HTTP. One kind per file.

An engine of our own says how to start its server (`Launch`); `process.py` runs it and keeps it running. `pool.py`
gives out the right to use it (`Lease`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gateway.engines.footprint import Footprint
from gateway.errors import EngineError

if TYPE_CHECKING:  # the children import this package, and little else
    from gateway.probe import FoundServer
    from gateway.transport import HttpClient


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to have one request answered by a server. Plain data, so that it can be handed to another process.

    Args:
        url: where `/chat/completions` and the like hang, such as `http://127.0.0.1:PORT/v1`.
        key: what the server wants as its bearer token; None where it wants none.
        id: the name under which the server knows the model.
        slot: the number of the server's slot that is the holder's until the lease ends; None where the server chooses.
    """

    url: str
    key: str | None = field(repr=False)
    id: str
    slot: int | None = None


def read_ready_line(line: bytes) -> str:
    """The server's URL, from `{"ready": {"url": …}}`. Raises: EngineError with the reason of `{"failed": "why"}`."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        if isinstance(said.get("failed"), str):
            raise EngineError(said["failed"])
        ready = said.get("ready")
        if isinstance(ready, dict) and isinstance(ready.get("url"), str):
            return str(ready["url"])
    raise EngineError("its first words were not that it is ready")


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a server. Its key is new each time.

    Args:
        argv: the command. Every user of the machine can read it, so it holds no secret.
        settings: the child reads them as one line of JSON from its stdin. The pipe then stays open: that it closes
            tells the child that nobody needs it any more.
        key, id: as in `Lease`.
        read_ready: from the first line of the child's stdout to the server's URL. Raises: EngineError, whose message
            may be shown to clients.
    """

    argv: tuple[str, ...]
    settings: Mapping[str, Any] = field(repr=False)
    key: str = field(repr=False)
    id: str
    read_ready: Callable[[bytes], str] = read_ready_line


class State(StrEnum):
    STARTING = "starting"  # also: waiting to be started again after a crash
    READY = "ready"
    FAILED = "failed"  # its last start failed; it is tried again, with pauses
    STOPPED = "stopped"


class Residency(StrEnum):
    ALWAYS = "always"  # loaded first, and never dropped: the gateway is only ready with it
    ON_DEMAND = "on_demand"  # loaded when it is asked for, dropped for others or when it is idle
    ELSEWHERE = "elsewhere"  # others run its server: nothing of it is loaded or dropped here


class Supervisor(Protocol):
    """Sees to one server from `start` to `stop`, and calls its `on_change` whenever something here has changed.

    `lease` is set while it is READY. `last_error`, in words that a client may read, stays after it has recovered.
    `loaded_s`: what the last good start took. `resumes_at`: `time.monotonic()` of the next try, during a pause.
    `found`: what a server that others run tells of itself and of the model; None for our own, and while it is away.
    """

    @property
    def state(self) -> State: ...
    @property
    def lease(self) -> Lease | None: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def restarts(self) -> int: ...
    @property
    def last_error(self) -> str | None: ...
    @property
    def loaded_s(self) -> float | None: ...
    @property
    def resumes_at(self) -> float | None: ...
    @property
    def found(self) -> FoundServer | None: ...

    def doubt(self) -> None:
        """A request could not reach the server."""

    def start(self) -> None: ...

    def remember(self, found: FoundServer) -> None:
        """What an earlier run of the same server told: it need not be asked again."""

    async def stop(self) -> None:
        """Returns when it is gone; cancelling this does not keep it alive."""

    async def sleep(self) -> None:
        """Give its memory back but stay: for engines that say what they take `asleep`. Raises: EngineError."""

    async def wake(self) -> None:
        """Raises: EngineError."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for a start (large models load for minutes), for a child to go once its stdin is closed, and once it
    got SIGTERM; between starts, doubling from `first_retry_s` to `longest_retry_s` and back after `healthy_s` of
    being ready."""

    start_s: float = 300.0
    exit_s: float = 5.0
    terminate_s: float = 2.0
    first_retry_s: float = 0.5
    longest_retry_s: float = 30.0
    healthy_s: float = 60.0


def _unmeasured(pid: int) -> None:
    return None


def _not_warmed(files: Collection[Path]) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Site:
    """Where engines run: `logs` is a folder; `client` asks servers whether they are there; `measure` says what a
    process and its children take, None where that cannot be known or it is gone; `warm` has the kernel read files ahead
    of need."""

    logs: Path
    client: HttpClient
    patience: Patience = Patience()
    measure: Callable[[int], Footprint | None] = _unmeasured
    warm: Callable[[Collection[Path]], None] = _not_warmed

    def log_of(self, name: str) -> Path:
        return self.logs / (re.sub(r"[^\w.-]", "_", name) + ".log")


class Engine(Protocol):
    """One model on one kind of server: plain settings, hashable, equal when they ask for the same server."""

    @property
    def name(self) -> str:
        """The model's name in models.yaml."""

    @property
    def slots(self) -> int:
        """Requests that it works on at the same time."""

    @property
    def residency(self) -> Residency: ...

    @property
    def idle_ttl_s(self) -> float:
        """On demand: dropped after so long without a request."""

    @property
    def preload(self) -> bool:
        """On demand: loaded at the start, if there is room."""

    @property
    def is_present(self) -> bool:
        """Are its files on this machine? Also true where that is not known."""

    @property
    def files(self) -> Collection[Path]:
        """Those that its server maps into memory: two servers share their pages."""

    @property
    def growth(self) -> Footprint:
        """What it may take beyond what it takes once it is loaded."""

    def footprint(self) -> Footprint:
        """What a load of it will take, as far as its files tell; NOTHING where nobody knows. It reads files.

        Raises: EngineError for files that are not fit to load.
        """

    def asleep(self, loaded: Footprint) -> Footprint | None:
        """What it takes while it sleeps, if it takes `loaded` when it is awake; None where it has no sleep."""

    def supervise(self, site: Site, on_change: Callable[[], None]) -> Supervisor:
        """Who will see to its server. Touches nothing before it is started."""
