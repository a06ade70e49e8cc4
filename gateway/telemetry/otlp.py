"""Spans and metrics on their way to a collector, by OpenTelemetry's SDK, in threads of their own.

Imported only where something is exported: it takes 0.2 s.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from gateway import __version__
from gateway.telemetry import names
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.otel_metrics import metrics_data
from gateway.telemetry.settings import TelemetrySettings
from gateway.telemetry.spans import spans_of
from gateway.trace import RequestTrace

EVERY_S = 60.0  # between two words on what does not go through
LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.sdk._shared_internal",  # the queue
)


class Otlp:
    """What is handed to it is sent later, or lost where nobody takes it; none of its methods but `close` waits."""

    def __init__(self, settings: TelemetrySettings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._resource = _resource(settings)
        self._exporter = _Counted(OTLPSpanExporter(settings.url("traces"), headers=settings.headers))
        self._processor = BatchSpanProcessor(self._exporter)  # its limits are OTEL_BSP_*
        self._pusher = _Pusher(settings) if settings.metrics else None
        self._quiet = [(logging.getLogger(name), _NowAndThen()) for name in LOGGERS]
        for logger, rarely in self._quiet:
            logger.addFilter(rarely)

    @property
    def lost(self) -> int:
        """Spans that could not be sent."""
        return self._exporter.lost

    @property
    def sent(self) -> int:
        return self._exporter.sent

    def add(self, trace: RequestTrace) -> None:
        for span in spans_of(trace, self._resource):
            self._processor.on_end(span)

    def push_metrics(self, *, are_last: bool = False) -> None:
        """The counters as they are now, to be called in the thread that counts. None while others are still on their
        way, but for the last ones."""
        if self._pusher is not None and (are_last or not self._pusher.is_busy):
            times = (self._metrics.began_ns, time.time_ns())
            self._pusher.push(metrics_data(self._metrics.collect(), self._metrics.models, self._resource, times))

    def close(self) -> None:
        """Send what waits, for as long as that takes: `abort`, in another thread, cuts it short."""
        if self._pusher is not None:
            self._pusher.end()
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # theirs says none
        if self._pusher is not None:
            self._pusher.wait()
        for logger, rarely in self._quiet:
            logger.removeFilter(rarely)

    def abort(self) -> None:
        self._exporter.shutdown()
        if self._pusher is not None:
            self._pusher.abort()


def _resource(settings: TelemetrySettings) -> Resource:
    own = {names.SERVICE_VERSION: __version__}
    return Resource.create({**own, names.SERVICE_NAME: settings.service_name} if settings.service_name else own)


class _Counted(SpanExporter):
    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._is_shut = False
        self.sent = self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE if self._is_shut else self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.lost += len(spans)
        return result

    def shutdown(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            self._inner.shutdown()


class _Pusher:
    """Sends metrics, one set after the other."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self._exporter = OTLPMetricExporter(settings.url("metrics"), headers=settings.headers)
        self._waiting: queue.SimpleQueue[MetricsData | None] = queue.SimpleQueue()
        self._is_sending = self._is_aborted = False
        self._thread = threading.Thread(target=self._work, name="metrics to OTLP", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        return self._is_sending or not self._waiting.empty()

    def push(self, data: MetricsData) -> None:
        self._waiting.put(data)

    def _work(self) -> None:
        while (data := self._waiting.get()) is not None:
            self._is_sending = True
            self._send(data)
            self._is_sending = False

    def _send(self, data: MetricsData) -> None:
        if self._is_aborted:
            return
        try:
            self._exporter.export(data)  # says what fails, and the next set says more
        except Exception:
            logging.getLogger(LOGGERS[1]).exception("metrics could not be exported")

    def end(self) -> None:
        self._waiting.put(None)

    def wait(self) -> None:
        self._thread.join()
        self.abort()

    def abort(self) -> None:
        if not self._is_aborted:
            self._is_aborted = True
            self._exporter.shutdown()


class _NowAndThen(logging.Filter):
    """At most one line in a while: a collector that is away must not fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._last < EVERY_S:
            return False
        self._last = now
        return True
