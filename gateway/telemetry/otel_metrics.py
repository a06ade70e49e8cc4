"""The counters of /metrics, and those of the conventions for generative AI, as OpenTelemetry's metrics.

Imported only where they are exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as OtelHistogram
from opentelemetry.sdk.resources import Resource
from prometheus_client.core import Metric as Family

from gateway.telemetry import names
from gateway.telemetry.histogram import Histogram
from gateway.telemetry.models import ModelCounts, ModelMetrics
from gateway.telemetry.spans import SCOPE, upstream_attributes

Attributes = dict[str, str | int]
Times = tuple[int, int]  # since when it is counted, and now, in unix nanoseconds
CUMULATIVE = AggregationTemporality.CUMULATIVE


def metrics_data(families: Iterable[Family], models: ModelMetrics, resource: Resource, times: Times) -> MetricsData:
    """All of them as they stand now."""
    metrics = [_of_family(family, times) for family in families if family.samples]
    metrics += _of_models(models, times)
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, metrics, "")], "")])


def _of_family(family: Family, times: Times) -> Metric:
    unit = "s" if family.name.endswith("_seconds") else "By" if family.name.endswith("_bytes") else ""
    if family.type == "histogram":
        points = [
            _point(attributes, bounds, counts, total, times) for attributes, bounds, counts, total in _rows(family)
        ]
        return Metric(family.name, family.documentation, unit, OtelHistogram(points, CUMULATIVE))
    numbers = [NumberDataPoint(one.labels, *times, float(one.value)) for one in family.samples]
    if family.type == "counter":
        return Metric(family.name, family.documentation, unit, Sum(numbers, CUMULATIVE, is_monotonic=True))
    return Metric(family.name, family.documentation, unit, Gauge(numbers))


def _rows(family: Family) -> Iterator[tuple[Attributes, list[float], list[int], float]]:
    """Labels, bounds, counts of each bucket and sum: Prometheus has each bucket as a sample of its own, and counts in
    those below with it."""
    rows: dict[tuple[tuple[str, str], ...], tuple[list[float], list[int]]] = {}
    for sample in family.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        bounds, counts = rows.setdefault(labels, ([], []))
        if sample.name.endswith("_bucket"):
            counts.append(int(sample.value) - sum(counts))
            bounds += [float(sample.labels["le"])] if sample.labels["le"] != "+Inf" else []
        elif sample.name.endswith("_sum"):
            yield dict(labels), bounds, counts, sample.value


def _of_models(models: ModelMetrics, times: Times) -> list[Metric]:
    tokens: list[HistogramDataPoint] = []
    durations: list[HistogramDataPoint] = []
    first: list[HistogramDataPoint] = []
    for (model, operation), counts in models.by_labels.items():
        about: Attributes = {
            names.OPERATION: operation,
            names.MODEL: model,
            **upstream_attributes(model, counts.upstream),
        }
        for direction, histogram in (("input", counts.input_sizes), ("output", counts.output_sizes)):
            tokens += _points({**about, names.TOKEN_TYPE: direction}, histogram, times)
        for attributes, histogram in _durations(about, counts):
            durations += _points(attributes, histogram, times)
        first += _points(about, counts.first_token, times)
    found = (
        (names.TOKEN_USAGE, "Number of input and output tokens used.", "{token}", tokens),
        (names.DURATION, "GenAI operation duration.", "s", durations),
        (names.TIME_TO_FIRST_CHUNK, "Time to receive the first chunk.", "s", first),
    )
    return [Metric(name, text, unit, OtelHistogram(points, CUMULATIVE)) for name, text, unit, points in found if points]


def _durations(about: Attributes, counts: ModelCounts) -> Iterator[tuple[Attributes, Histogram]]:
    yield about, counts.seconds
    for (kind,), histogram in counts.failed.items():
        yield {**about, names.ERROR_TYPE: kind}, histogram


def _points(attributes: Attributes, histogram: Histogram, times: Times) -> list[HistogramDataPoint]:
    if not any(histogram.counts):
        return []
    return [_point(attributes, histogram.bounds, list(histogram.counts), histogram.total, times)]


def _point(
    attributes: Mapping[str, str | int], bounds: Sequence[float], counts: Sequence[int], total: float, times: Times
) -> HistogramDataPoint:
    unknown: float = None  # type: ignore[assignment]  # the protocol lets them be left out, the SDK's types do not
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=times[0],
        time_unix_nano=times[1],
        count=sum(counts),
        sum=total,
        bucket_counts=counts,
        explicit_bounds=bounds,
        min=unknown,
        max=unknown,
    )
