"""Counts, latencies and path lengths of requests, as plain numbers; Prometheus text is made when somebody asks.

A bound prometheus counter costs 0.5 us an increment, a plain one 0.07: the hot path takes the plain ones.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Protocol
from weakref import WeakValueDictionary

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.telemetry.histogram import Histogram
from gateway.telemetry.residency import ResidencyMetrics
from gateway.telemetry.spending import SpendingMetrics
from gateway.trace import RequestTrace

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
PATH_BUCKETS = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0)


class Addressed(Protocol):
    """A model with several addresses, of which so many are `up`."""

    @property
    def name(self) -> str: ...
    @property
    def up(self) -> int: ...


class Metrics(Collector):
    """`gauges` gives name -> (help, value) of things read at the moment of asking; `residency` counts what becomes of
    local models. `addressed`: what balances between the addresses of a model, by what it was made from, for as long as
    somebody uses it."""

    def __init__(self, gauges: Callable[[], Mapping[str, tuple[str, float]]], residency: ResidencyMetrics) -> None:
        self._gauges = gauges
        self.addressed: WeakValueDictionary[Hashable, Addressed] = WeakValueDictionary()
        self.residency = residency
        self._requests: dict[tuple[str, str, str, str], int] = defaultdict(int)
        self._tokens: dict[tuple[str, str], int] = defaultdict(int)
        self._cost_usd: dict[str, float] = defaultdict(float)
        self._left: dict[tuple[str, str], int] = defaultdict(int)
        self._latency: dict[str, Histogram] = defaultdict(lambda: Histogram(LATENCY_BUCKETS_S))
        self._first_chunk: dict[str, Histogram] = defaultdict(lambda: Histogram(LATENCY_BUCKETS_S))
        self._path_length = Histogram(PATH_BUCKETS)
        self.in_flight = 0
        self.spending = SpendingMetrics()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def record(self, trace: RequestTrace) -> None:
        """Count one finished request."""
        policy, route = trace.policy or "", trace.route or ""
        self._requests[(policy, route, trace.answered_by or "", str(trace.status))] += 1
        ended = trace.ended if trace.ended is not None else time.monotonic()
        self._latency[policy].add(ended - trace.started)
        if trace.first_chunk is not None:
            self._first_chunk[policy].add(trace.first_chunk - trace.started)
        totals = trace.totals()
        asked = totals.asked
        for hop in (*asked, *totals.consulted):
            if hop.left:
                self._left[(hop.name, hop.left)] += 1
            if hop.spend is not None:
                usage = hop.spend.usage
                self._tokens[(hop.name, "input")] += usage.input_tokens
                self._tokens[(hop.name, "output")] += usage.output_tokens
                self._cost_usd[hop.name] += hop.spend.cost_usd or 0.0
        if asked:
            self._path_length.add(len(asked))

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "gateway_requests", "Finished chat requests.", labels=("policy", "route", "model", "status")
        )
        for request_labels, count in self._requests.items():
            requests.add_metric(request_labels, count)
        yield requests
        tokens = CounterMetricFamily(
            "gateway_tokens", "Tokens read and written by models.", labels=("model", "direction")
        )
        for token_labels, count in self._tokens.items():
            tokens.add_metric(token_labels, count)
        yield tokens
        cost = CounterMetricFamily("gateway_cost_usd", "Known cost in US dollars.", labels=("model",))
        for model, dollars in self._cost_usd.items():
            cost.add_metric((model,), dollars)
        yield cost
        left = CounterMetricFamily("gateway_models_left", "Answers not taken, and why.", labels=("model", "reason"))
        for left_labels, count in self._left.items():
            left.add_metric(left_labels, count)
        yield left
        for name, text, histograms in (
            ("gateway_request_seconds", "Time to the whole answer.", self._latency),
            ("gateway_first_chunk_seconds", "Time to the first chunk of a stream.", self._first_chunk),
        ):
            family = HistogramMetricFamily(name, text, labels=("policy",))
            for policy, histogram in histograms.items():
                family.add_metric((policy,), histogram.buckets(), histogram.total)
            yield family
        paths = HistogramMetricFamily("gateway_path_length", "Models asked for one request.")
        paths.add_metric((), self._path_length.buckets(), self._path_length.total)
        yield paths
        yield GaugeMetricFamily("gateway_requests_in_flight", "Chat requests being answered.", value=self.in_flight)
        up = GaugeMetricFamily("gateway_addresses_up", "Addresses of a model that answer.", labels=("model",))
        for name, count in {found.name: found.up for found in self.addressed.values()}.items():
            up.add_metric((name,), count)
        yield up
        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(name, text, value=value)
        yield from self.spending.collect()
        yield from self.residency.collect()
