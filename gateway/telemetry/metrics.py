"""Counts, latencies and path lengths of requests, as plain numbers; Prometheus text is made when somebody asks.

A bound prometheus counter costs 0.5 us an increment, a plain one 0.07: the hot path takes the plain ones.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.telemetry.counts import Counts, Kept
from gateway.telemetry.histogram import Histogram
from gateway.telemetry.models import ModelCounts, ModelMetrics, counter
from gateway.telemetry.names import CHAT, OPERATIONS
from gateway.telemetry.residency import ResidencyMetrics
from gateway.telemetry.sampling import is_escalated
from gateway.telemetry.spending import SpendingMetrics
from gateway.trace import CACHE, RequestTrace

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
PATH_BUCKETS = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0)


class Addressed(Protocol):
    """A model with several addresses, of which so many are `up`."""

    @property
    def name(self) -> str: ...
    @property
    def up(self) -> int: ...


class Answers(Protocol):
    """Cached ones."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def evicted(self) -> int: ...


@dataclass(frozen=True)
class Counted:
    """Of the requests of a while, as `Metrics` counts them."""

    counts: tuple[Counts, ...]
    times: tuple[Kept[Histogram], ...]
    path_length: Histogram
    models: Kept[ModelCounts]


class Metrics(Collector):
    """`gauges` gives name -> (help, value) of things read at the moment of asking; `residency` counts what becomes of
    local models. `addressed`: what balances between the addresses of a model, by what it was made from, for as long as
    somebody uses it. `models` counts what their calls come to; `answers`: the cache of answers; `began_ns`: since when
    it counts, in unix time."""

    def __init__(self, gauges: Callable[[], Mapping[str, tuple[str, float]]], residency: ResidencyMetrics) -> None:
        self._gauges = gauges
        self.began_ns = time.time_ns()
        self.addressed: WeakValueDictionary[Hashable, Addressed] = WeakValueDictionary()
        self.up_elsewhere: Mapping[str, int] = {}  # as processes find it that ask them in place of this one
        self.residency = residency
        self.answers: Answers | None = None
        self.models = ModelMetrics()
        self._begin()
        self.in_flight = 0
        self.spending = SpendingMetrics()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def _begin(self) -> None:
        self.models.by_labels = Kept(ModelCounts)
        self._requests = Counts()
        self._left = Counts()
        self._escalations = Counts()
        self._failed_checks = Counts()
        self._broken = Counts()
        self._latency: Kept[Histogram] = Kept(partial(Histogram, LATENCY_BUCKETS_S))
        self._first_chunk: Kept[Histogram] = Kept(partial(Histogram, LATENCY_BUCKETS_S))
        self._cached = Counts()
        self._path_length = Histogram(PATH_BUCKETS)

    def hand_over(self) -> Counted | None:
        """What was counted since the last time, for another process to `take`; None where that is nothing."""
        if not self._requests:
            return None
        counts = (self._requests, self._left, self._escalations, self._failed_checks, self._broken, self._cached)
        counted = Counted(counts, (self._latency, self._first_chunk), self._path_length, self.models.by_labels)
        self._begin()
        return counted

    def take(self, counted: Counted) -> None:
        """What another process has counted."""
        counts = (self._requests, self._left, self._escalations, self._failed_checks, self._broken, self._cached)
        for own, more in zip(counts, counted.counts, strict=True):
            own.merge(more)
        for times, others in zip((self._latency, self._first_chunk), counted.times, strict=True):
            times.merge(others, Histogram.merge)
        self._path_length.merge(counted.path_length)
        self.models.by_labels.merge(counted.models, ModelCounts.merge)

    def record(self, trace: RequestTrace) -> None:
        """Count one finished request."""
        policy, route = trace.policy or "", trace.route or ""
        self._requests.add((policy, route, trace.answered_by or "", str(trace.status)))
        ended = trace.ended if trace.ended is not None else time.monotonic()
        self._latency[(policy,)].add(ended - trace.started)
        if trace.first_chunk is not None:
            self._first_chunk[(policy,)].add(trace.first_chunk - trace.started)
        if trace.error is not None and trace.status == 200:
            self._broken.add((policy, route))
        totals = trace.totals()
        asked = totals.asked
        operation = OPERATIONS.get(trace.endpoint, CHAT)
        models, has_sizes, was_left = self.models.by_labels, self.models.has_sizes, False
        for hop in (*asked, *totals.consulted) if totals.consulted else asked:
            models[(hop.name, operation)].add(hop, has_sizes)
            if hop.left:
                was_left = True
                self._left.add((hop.name, hop.left))
        if totals.cached is not None and CACHE in totals.cached:
            self._cached.add((policy, totals.cached[CACHE]))
        if asked:
            self._path_length.add(len(asked))
        if was_left:
            self._count_failed_checks(trace)
            if is_escalated(trace):
                self._escalations.add((policy, route))

    def _count_failed_checks(self, trace: RequestTrace) -> None:
        for hop in trace.walk(checks=False):
            if hop.kind == "tier" and hop.left and hop.facts is not None and hop.facts.get("judged"):
                self._failed_checks.add((hop.left, hop.name))

    def render(self, *, as_openmetrics: bool = False) -> bytes:
        """Prometheus text, or OpenMetrics'."""
        return (openmetrics if as_openmetrics else generate_latest)(self._registry)

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("gateway_build_info", "1; what runs here.", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
        labels = ("policy", "route", "model", "status")
        yield counter("gateway_requests", "Finished chat requests.", labels, self._requests)
        yield from self.models.collect()
        yield counter("gateway_models_left", "Answers not taken, and why.", ("model", "reason"), self._left)
        text = "Requests for which another model was asked, for the answer of one would not do."
        yield counter("gateway_escalations", text, ("policy", "route"), self._escalations)
        text = "Drafts that failed a check, by the first that they failed."
        yield counter("gateway_check_failures", text, ("check", "tier"), self._failed_checks)
        text = "Streams that had begun, and ended with an error."
        yield counter("gateway_streams_broken", text, ("policy", "route"), self._broken)
        yield from self._of_cache()
        for name, text, histograms in (
            ("gateway_request_seconds", "Time to the whole answer.", self._latency),
            ("gateway_first_chunk_seconds", "Time to the first chunk of a stream.", self._first_chunk),
        ):
            family = HistogramMetricFamily(name, text, labels=("policy",))
            for policy, histogram in histograms.items():
                family.add_metric(policy, histogram.buckets(), histogram.total)
            yield family
        paths = HistogramMetricFamily("gateway_path_length", "Models asked for one request.")
        paths.add_metric((), self._path_length.buckets(), self._path_length.total)
        yield paths
        yield GaugeMetricFamily("gateway_requests_in_flight", "Chat requests being answered.", value=self.in_flight)
        up = GaugeMetricFamily("gateway_addresses_up", "Addresses of a model that answer.", labels=("model",))
        addresses = {found.name: found.up for found in self.addressed.values()} | dict(self.up_elsewhere)
        for name, count in addresses.items():
            up.add_metric((name,), count)
        yield up
        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(name, text, value=value)
        yield from self.spending.collect()
        yield from self.residency.collect()

    def _of_cache(self) -> Iterator[Metric]:
        text = "Requests of routes with a cache, by what came of it: hit, hit; semantic, miss or bypass."
        yield counter("gateway_cache_requests", text, ("policy", "cache"), self._cached)
        if self.answers is not None:
            yield GaugeMetricFamily("gateway_cache_bytes", "Cached answers in memory.", value=self.answers.size_bytes)
            yield GaugeMetricFamily("gateway_cache_entries", "Cached answers in memory.", value=self.answers.entries)
            text = "Cached answers that had to make room before they were too old."
            yield CounterMetricFamily("gateway_cache_evictions", text, value=self.answers.evicted)
