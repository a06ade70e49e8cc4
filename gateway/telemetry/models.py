"""What the calls of each model came to: tokens, cost, times, errors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from gateway.telemetry.counts import Counts, Kept
from gateway.telemetry.histogram import Histogram
from gateway.telemetry.names import DURATION_BUCKETS_S, TOKEN_BUCKETS
from gateway.trace import BROKEN_OFF, Trace, Upstream

TOKEN_PAUSE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
MOST_KINDS = 64  # of errors of one model; statuses are an upstream's


class ModelCounts:
    """Of one model and one operation. `upstream`: who was asked last.

    `input` and `output`: tokens, and `…_sizes` those of each call where `ModelMetrics.has_sizes`. `seconds`: of calls
    that ended well, in all, `failed` of the others by kind of error; `first_token` since the call was made, `per_token`
    between the first and the last, both of streams.
    """

    __slots__ = (
        "cost_usd",
        "failed",
        "first_token",
        "input",
        "input_sizes",
        "output",
        "output_sizes",
        "per_token",
        "seconds",
        "upstream",
    )

    def __init__(self) -> None:
        self.upstream: Upstream | None = None
        self.input = self.output = 0
        self.input_sizes, self.output_sizes = Histogram(TOKEN_BUCKETS), Histogram(TOKEN_BUCKETS)
        self.cost_usd = 0.0
        self.seconds = Histogram(DURATION_BUCKETS_S)
        self.first_token = Histogram(DURATION_BUCKETS_S)
        self.per_token = Histogram(TOKEN_PAUSE_BUCKETS_S)
        self.failed: Kept[Histogram] = Kept(partial(Histogram, DURATION_BUCKETS_S), MOST_KINDS)

    def merge(self, other: ModelCounts) -> None:
        self.upstream = other.upstream or self.upstream
        self.input += other.input
        self.output += other.output
        self.cost_usd += other.cost_usd
        for name in ("input_sizes", "output_sizes", "seconds", "first_token", "per_token"):
            getattr(self, name).merge(getattr(other, name))
        self.failed.merge(other.failed, Histogram.merge)

    def add(self, hop: Trace, has_sizes: bool) -> None:
        """Count one call."""
        if hop.upstream is not None:
            self.upstream = hop.upstream
        if hop.ended is not None and hop.failure != BROKEN_OFF:
            seconds = self.seconds if hop.failure is None else self.failed[(hop.failure,)]
            seconds.add(hop.ended - hop.started)
        spend = hop.spend
        if spend is None:
            return
        usage = spend.usage
        self.input += usage.input_tokens
        self.output += usage.output_tokens
        if has_sizes:
            self.input_sizes.add(usage.input_tokens)
            self.output_sizes.add(usage.output_tokens)
        self.cost_usd += spend.cost_usd or 0.0
        first_ms = hop.facts.get("first_token_ms") if hop.facts is not None else None
        if first_ms is not None:
            first_s = first_ms / 1e3
            self.first_token.add(first_s)
            if usage.output_tokens > 1 and spend.busy_s > first_s:
                self.per_token.add((spend.busy_s - first_s) / (usage.output_tokens - 1))


class ModelMetrics:
    """`by_labels`: (model, operation). `has_sizes`: how many calls have had how many tokens is counted too, which only
    OpenTelemetry's metrics tell."""

    def __init__(self) -> None:
        self.by_labels: Kept[ModelCounts] = Kept(ModelCounts)
        self.has_sizes = False

    def collect(self) -> Iterator[Metric]:
        tokens, cost, errors = Counts(), Counts(), Counts()
        for (model, _), counts in self.by_labels.items():
            tokens.add((model, "input"), counts.input)
            tokens.add((model, "output"), counts.output)
            cost.add((model,), counts.cost_usd)
            for (kind,), failed in counts.failed.items():
                errors.add((model, kind), sum(failed.counts))
        yield counter("gateway_tokens", "Tokens read and written by models.", ("model", "direction"), tokens)
        yield counter("gateway_cost_usd", "Known cost in US dollars.", ("model",), cost)
        yield counter("gateway_model_errors", "Calls of models that failed.", ("model", "kind"), errors)
        for name, text, histograms in (
            ("gateway_model_seconds", "Time of calls that ended well.", self._histograms("seconds")),
            ("gateway_first_token_seconds", "Time from a call to its first token.", self._histograms("first_token")),
            ("gateway_inter_token_seconds", "Mean time between tokens of a stream.", self._histograms("per_token")),
        ):
            family = HistogramMetricFamily(name, text, labels=("model", "operation"))
            for labels, histogram in histograms:
                family.add_metric(labels, histogram.buckets(), histogram.total)
            yield family

    def _histograms(self, which: str) -> Iterator[tuple[tuple[str, ...], Histogram]]:
        """Those that have counted something: nobody streams embeddings."""
        for labels, counts in self.by_labels.items():
            histogram: Histogram = getattr(counts, which)
            if any(histogram.counts):
                yield labels, histogram


def counter(name: str, text: str, labels: tuple[str, ...], counts: Counts) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family
