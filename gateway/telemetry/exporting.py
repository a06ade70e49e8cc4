"""OpenTelemetry as the rest of the gateway sees it: requests that have ended go in. Without a place to export to it
does nothing, and imports nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

from gateway.tasks import ended
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.sampling import Sampling
from gateway.telemetry.settings import TelemetrySettings
from gateway.trace import RequestTrace

if TYPE_CHECKING:
    from gateway.telemetry.otlp import Otlp

log = logging.getLogger(__name__)
FLUSH_S = 3.0  # for what waits, when the server stops or another place takes over
MOST_EARLY = 256  # requests that may end before the SDK is imported
T = TypeVar("T")


class Telemetry:
    """Args: `flush_s`: how long the end may take."""

    def __init__(self, metrics: Metrics, *, flush_s: float = FLUSH_S) -> None:
        self.sampling = Sampling()
        self._metrics, self._flush_s = metrics, flush_s
        self._settings: TelemetrySettings | None = None
        self._otlp: Otlp | None = None
        self._early: deque[RequestTrace] = deque(maxlen=MOST_EARLY)
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()

    def use(self, settings: TelemetrySettings | None) -> None:
        """From now on; returns at once. Changed settings take the place of those before."""
        if settings == self._settings:
            return
        self._settings = settings
        self._metrics.models.has_sizes = settings is not None and settings.metrics
        self.sampling.rate = None if settings is None else settings.sample
        self._settled.clear()
        before, otlp, self._otlp = self._task, self._otlp, None
        self._task = asyncio.create_task(self._run(settings, before, otlp), name="telemetry")

    def record(self, trace: RequestTrace) -> None:
        """Take a finished request, which nobody changes any more. Never waits, never raises."""
        if self.sampling.rate is None or not self.sampling.takes(trace):
            return
        if self._otlp is None:
            self._early.append(trace)
        else:
            self._add(self._otlp, trace)

    @property
    def counts(self) -> tuple[int, int] | None:
        """Spans that were sent, and that were lost; None where none are exported."""
        return (self._otlp.sent, self._otlp.lost) if self._otlp is not None else None

    async def ready(self) -> None:
        """Returns once what `use` has asked for holds, or could not be had."""
        await self._settled.wait()

    async def close(self) -> None:
        """Send what waits, for `flush_s` at most."""
        task, otlp = self._task, self._otlp
        self._task = self._otlp = self._settings = self.sampling.rate = None
        if task is not None:
            await ended([task])
        if otlp is not None:
            await self._flush(otlp)

    async def _run(
        self, settings: TelemetrySettings | None, before: asyncio.Task[None] | None, old: Otlp | None
    ) -> None:
        if before is not None:
            await ended([before])
        if old is not None:
            await self._flush(old)
        if settings is None:
            self._early.clear()
            self._settled.set()
            return
        opening = asyncio.ensure_future(_in_thread(lambda: _open(settings, self._metrics)))
        try:
            otlp = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await self._flush(await opening)
            raise
        except Exception:
            log.exception("telemetry: nothing is exported")
            self.sampling.rate = None
            self._settled.set()
            return
        self._otlp = otlp
        self._settled.set()
        while self._early:
            self._add(otlp, self._early.popleft())
        while settings.metrics:
            await asyncio.sleep(settings.interval_s)
            _push_metrics(otlp)

    def _add(self, otlp: Otlp, trace: RequestTrace) -> None:
        try:
            otlp.add(trace)
        except Exception:  # a request must not suffer from what is told of it
            log.exception("telemetry: request %s could not be made into spans", trace.id)

    async def _flush(self, otlp: Otlp) -> None:
        _push_metrics(otlp, are_last=True)
        closing = asyncio.ensure_future(_in_thread(otlp.close))
        await asyncio.wait({closing}, timeout=self._flush_s)
        if not closing.done():
            log.warning("telemetry: what was left could not be sent within %g s", self._flush_s)
            otlp.abort()
            await ended([closing])


def _push_metrics(otlp: Otlp, *, are_last: bool = False) -> None:
    try:
        otlp.push_metrics(are_last=are_last)
    except Exception:  # the next ones may go
        log.exception("telemetry: the metrics could not be read")


def _open(settings: TelemetrySettings, metrics: Metrics) -> Otlp:
    from gateway.telemetry.otlp import Otlp

    return Otlp(settings, metrics)


async def _in_thread(work: Callable[[], T]) -> T:
    """In a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, fault: BaseException | None) -> None:
        if fault is not None and not done.done():
            done.set_exception(fault)
        elif not done.done():
            done.set_result(cast(T, result))

    def run() -> None:
        result, fault = None, None
        try:
            result = work()
        except Exception as exc:
            fault = exc
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, fault)

    threading.Thread(target=run, name="telemetry", daemon=True).start()
    return await done
