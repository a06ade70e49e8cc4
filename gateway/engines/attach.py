"""`engine: attach`: a server that somebody else runs. It is asked what it has, and watched; nothing is started."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gateway.engines import Lease, Residency, Site, State
from gateway.engines.plain import PlainEngine
from gateway.errors import EngineError
from gateway.probe import FoundModel, FoundServer, ProbeFailed, ProbeTimeout, probe, refresh
from gateway.tasks import ended
from gateway.transport import HttpClient

log = logging.getLogger(__name__)

UNLIMITED = 1 << 16  # slots of a server that does not say how many it has: it keeps its own queue
NAMED = 12  # models that a message names


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds: between questions while it answers, and between those that ask for everything; while it does not,
    doubling from `first_retry_s` to `longest_retry_s`; for an answer, and once more for one that is late; between two
    questions at least, however many requests fail."""

    up_s: float = 10.0
    whole_s: float = 60.0
    first_retry_s: float = 1.0
    longest_retry_s: float = 15.0
    answer_s: float = 3.0
    late_answer_s: float = 10.0
    least_s: float = 0.2


@dataclass(frozen=True)
class AttachSettings(PlainEngine):
    """One model of a server.

    Args:
        name: its name in models.yaml.
        url: with or without `/v1`.
        model: the server's name for it.
        kind: else it is found out.
        own_slots, context, accepts: what models.yaml says; else as the server says.
    """

    name: str
    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    kind: str | None = None
    own_slots: int | None = None
    context: int | None = None
    accepts: frozenset[str] = frozenset()
    rhythm: Rhythm = Rhythm()

    @property
    def slots(self) -> int:
        return self.own_slots or UNLIMITED

    @property
    def residency(self) -> Residency:
        return Residency.ELSEWHERE

    @property
    def idle_ttl_s(self) -> float:
        return math.inf

    @property
    def preload(self) -> bool:
        return False

    def supervise(self, site: Site, on_change: Callable[[], None]) -> AttachedServer:
        return AttachedServer(self, site.client, on_change)


class AttachedServer:
    """Asks one server, again and again, whether it is there and has the model. `found` is set while it has."""

    def __init__(self, settings: AttachSettings, client: HttpClient, on_change: Callable[[], None]) -> None:
        self.state = State.STOPPED
        self.lease: Lease | None = None
        self.found: FoundServer | None = None
        self.pid: int | None = None
        self.restarts = 0  # how often it came back
        self.last_error: str | None = None
        self.loaded_s: float | None = None
        self.resumes_at: float | None = None
        self._settings, self._client, self._on_change = settings, client, on_change
        self._seen: FoundServer | None = None  # all that the last whole answer told
        self._whole_at = self._asked_at = 0.0
        self._doubted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._become(State.STARTING)
            self._task = asyncio.create_task(self._watch(), name=f"attach {self._settings.name}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        self._leave(State.STOPPED)
        if task is not None:
            await ended([task])

    def remember(self, found: FoundServer) -> None:
        """It is asked all the same: others may have changed it."""

    async def sleep(self) -> None:
        raise EngineError("others run it")

    async def wake(self) -> None:
        raise EngineError("others run it")

    def doubt(self) -> None:
        """A request did not reach it: look now."""
        self._whole_at = 0.0
        self._doubted.set()

    async def _watch(self) -> None:
        rhythm, pause_s = self._settings.rhythm, self._settings.rhythm.first_retry_s
        while True:
            self._doubted.clear()
            try:
                self._arrive(await self._look())
            except ProbeFailed as exc:
                self._fail(exc.reason, pause_s)
            except Exception:  # whatever it is, the other models go on and this one is asked again
                log.exception("model %s: its server cannot be asked", self._settings.name)
                self._fail("cannot be asked", pause_s)
            if self.state is State.READY:
                pause_s = rhythm.first_retry_s
                await self._rest(rhythm.up_s)
            else:
                await self._rest(pause_s)
                pause_s = min(2 * pause_s, rhythm.longest_retry_s)

    async def _rest(self, seconds: float) -> None:
        """Until the time has come, or somebody doubts that it is there."""
        try:
            async with asyncio.timeout(seconds):
                await self._doubted.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(0.0, self._asked_at + self._settings.rhythm.least_s - time.monotonic()))

    async def _look(self) -> FoundServer:
        """Raises: ProbeFailed."""
        rhythm = self._settings.rhythm
        try:
            return await self._ask(rhythm.answer_s)
        except ProbeTimeout:
            if self.state is not State.READY:
                raise
            return await self._ask(rhythm.late_answer_s)  # it may be busy with our own requests

    async def _ask(self, timeout_s: float) -> FoundServer:
        settings = self._settings
        self._asked_at = now = time.monotonic()
        if self.state is State.READY and self._seen is not None and now - self._whole_at < settings.rhythm.whole_s:
            self._seen = await refresh(
                self._client, self._seen, settings.key, timeout_s=timeout_s, model=settings.model
            )
        else:
            self._seen = await probe(
                self._client, settings.url, settings.key, kind=settings.kind, timeout_s=timeout_s, model=settings.model
            )
            self._whole_at = now
        return self._seen

    def _arrive(self, seen: FoundServer) -> None:
        """Raises: ProbeFailed if it has not got the model."""
        settings = self._settings
        model = _model_of(seen, settings.model)
        if model is None:
            raise ProbeFailed(f"has no model '{settings.model}'; it has {_names(seen)}")
        told = replace(model, context=settings.context or model.context, accepts=settings.accepts or model.accepts)
        found = replace(seen, models=(told,), slots=settings.own_slots or seen.slots)
        if self.state is State.READY and found == self.found:
            return
        if self.state is not State.READY:
            self.restarts += self.loaded_s is not None
            self.loaded_s = time.monotonic() - self._asked_at
            log.info("model %s: answered by a server of kind %s", settings.name, seen.kind)
        self.found, self.resumes_at = found, None
        self.lease = Lease(seen.base_url, settings.key, model.id)
        self._become(State.READY)

    def _fail(self, reason: str, pause_s: float) -> None:
        error = f"its server {reason}"
        if self.state is not State.FAILED or error != self.last_error:
            log.warning("model %s: %s", self._settings.name, error)
        self.last_error = error
        self.resumes_at = time.monotonic() + pause_s
        self._leave(State.FAILED)

    def _leave(self, state: State) -> None:
        self.lease = self.found = None
        self._become(state)

    def _become(self, state: State) -> None:
        self.state = state
        self._on_change()


def _model_of(server: FoundServer, wanted: str) -> FoundModel | None:
    """Ollama takes a name without its tag, and Azure lists other things than what was deployed there."""
    found = server.model(wanted)
    if found is None and server.kind == "ollama":
        found = server.model(f"{wanted}:latest")
    if found is None and server.kind == "azure":
        found = FoundModel(wanted)
    return found


def _names(server: FoundServer) -> str:
    names = [f"'{model.id}'" for model in server.models]
    if not names:
        return "none"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
