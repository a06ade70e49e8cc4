"""What is in memory, read from the pool at the moment of asking, and what became of models, as plain numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.telemetry.histogram import Histogram

LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
LEAVES = ("idle", "room", "crash", "stop")  # steps by which a loaded model begins to go
KINDS = ("ram", "gpu")

Limits = tuple[int | None, int | None]  # bytes by kind; None: without


class Bytes(Protocol):
    @property
    def ram_bytes(self) -> int: ...
    @property
    def gpu_bytes(self) -> int: ...


class State(Protocol):
    @property
    def stage(self) -> str: ...
    @property
    def busy(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def footprint(self) -> Bytes: ...


class Models(Protocol):
    """The pool, as far as it is asked."""

    @property
    def taken(self) -> Bytes: ...

    def states(self) -> Mapping[str, State]: ...


class ResidencyMetrics:
    """Args: `stages` are all there are; `limits` tells the budget. `loads`: that went well, by model."""

    def __init__(self, models: Models, stages: Sequence[str], limits: Callable[[], Limits]) -> None:
        self.loads: dict[str, int] = defaultdict(int)
        self._models, self._stages, self._limits = models, stages, limits
        self._unloads: dict[tuple[str, str], int] = defaultdict(int)
        self._load_s: dict[str, Histogram] = defaultdict(lambda: Histogram(LOAD_BUCKETS_S))
        # a changed entry and the one before have one name, and are both there for a while
        self._loaded: Counter[str] = Counter()
        self._taking: Counter[str] = Counter()  # memory: also while it loads or sleeps, and until its server is gone
        self._asleep: set[str] = set()

    def note(self, model: str, step: str, seconds: float | None) -> None:
        """Count one step; its names are those of the pool's `Reason`."""
        if step == "loaded":
            self.loads[model] += 1
            self._loaded[model] += 1
            self._load_s[model].add(seconds or 0.0)
        elif step in LEAVES and self._loaded[model]:
            self._loaded[model] -= 1
            self._unloads[(model, step)] += 1
        elif step == "asleep":
            self._asleep.add(model)
        elif step == "load":
            self._taking[model] += model not in self._asleep
            self._asleep.discard(model)
        elif step == "gone":
            self._taking[model] -= 1
            self._asleep.discard(model)

    def collect(self) -> Iterator[Metric]:
        yield from self._now()
        text = "Loads of local models that went well, and wakings."
        loads = CounterMetricFamily("gateway_model_loads", text, labels=("model",))
        for model, count in self.loads.items():
            loads.add_metric((model,), count)
        yield loads
        unloads = CounterMetricFamily(
            "gateway_model_unloads", "Loaded models that went, and why.", labels=("model", "reason")
        )
        for labels, count in self._unloads.items():
            unloads.add_metric(labels, count)
        yield unloads
        seconds = HistogramMetricFamily("gateway_model_load_seconds", "Time that loads took.", labels=("model",))
        for model, histogram in self._load_s.items():
            seconds.add_metric((model,), histogram.buckets(), histogram.total)
        yield seconds

    def _now(self) -> Iterator[Metric]:
        stage = GaugeMetricFamily("gateway_model_stage", "1 for the stage it is in.", labels=("model", "stage"))
        memory = GaugeMetricFamily(
            "gateway_model_memory_bytes",
            "What a local model takes, measured once it is loaded.",
            labels=("model", "kind"),
        )
        waiting = GaugeMetricFamily("gateway_model_waiting", "Requests that wait for the model.", labels=("model",))
        busy = GaugeMetricFamily("gateway_model_busy", "Requests that it works on.", labels=("model",))
        for name, state in self._models.states().items():
            for one in self._stages:
                stage.add_metric((name, one), float(one == state.stage))
            takes = _by_kind(state.footprint) if self._taking[name] > 0 else (0, 0)
            for kind, size in zip(KINDS, takes, strict=True):
                memory.add_metric((name, kind), size)
            waiting.add_metric((name,), state.waiting)
            busy.add_metric((name,), state.busy)
        yield from (stage, memory, waiting, busy)
        limits, taken = self._limits(), _by_kind(self._models.taken)
        yield _family("gateway_memory_budget_bytes", "What local models may take together.", limits)
        yield _family("gateway_memory_taken_bytes", "What local models take together.", taken)


def _by_kind(size: Bytes) -> tuple[int, int]:
    return size.ram_bytes, size.gpu_bytes


def _family(name: str, text: str, sizes: Limits) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("kind",))
    for kind, size in zip(KINDS, sizes, strict=True):
        if size is not None:
            family.add_metric((kind,), size)
    return family
