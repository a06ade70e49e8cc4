"""What was spent by policies and keys, what it took of energy, and what was saved, for /metrics: as the journal has
written it, so about a second late."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.costs.ledger import Ledger, RivalSums, UsageSums, add_sums
from gateway.costs.savings import BEST_SINGLE, LARGEST, OVERHEAD, PolicySums, savings_of

MOST_KEYS = 100
OTHER = "other"


class SpendingMetrics:
    """Sums since the start."""

    def __init__(self) -> None:
        self._by_policy: dict[str, float] = defaultdict(float)
        self._by_key: dict[str, float] = defaultdict(float)
        self._unknown: dict[str, int] = defaultdict(int)  # calls, by model
        self._joules: dict[tuple[str, str], float] = defaultdict(float)
        self._overheads: dict[str, UsageSums] = defaultdict(UsageSums)
        self._sides: dict[str, dict[tuple[str, bool], RivalSums]] = defaultdict(lambda: defaultdict(RivalSums))

    def take(self, spent: Ledger) -> None:
        for (_, key, policy, _, model, _, purpose), sums in spent.usage.items():
            if purpose in OVERHEAD:
                add_sums(self._overheads[policy], sums)
            if not sums.calls:
                continue
            self._by_policy[policy] += sums.cost_usd
            self._by_key[self._named(key)] += sums.cost_usd
            self._unknown[model] += sums.unknown_cost
            for source, joules in (("measured", sums.measured_j), ("modelled", sums.modelled_j)):
                if joules:
                    self._joules[model, source] += joules
        for (_, _, policy, model, is_largest), rival in spent.rivals.items():
            add_sums(self._sides[policy][model, is_largest], rival)

    def _named(self, key: str) -> str:
        """Series are for ever: there are no more of them than so many keys."""
        return key if key in self._by_key or len(self._by_key) < MOST_KEYS else OTHER

    def collect(self) -> Iterator[Metric]:
        for label, sums in (("policy", self._by_policy), ("key", self._by_key)):
            text = f"Known cost in US dollars, by the {label} of the request."
            costs = CounterMetricFamily(f"gateway_{label}_cost_usd", text, labels=(label,))
            for name, dollars in sums.items():
                costs.add_metric((name,), dollars)
            yield costs
        unknown = CounterMetricFamily("gateway_unknown_cost_calls", "Calls of unknown cost.", labels=("model",))
        for name, calls in self._unknown.items():
            unknown.add_metric((name,), calls)
        yield unknown
        energy = CounterMetricFamily("gateway_energy_joules", "Energy of model calls.", labels=("model", "source"))
        for labels, joules in self._joules.items():
            energy.add_metric(labels, joules)
        yield energy
        yield self._saved()

    def _saved(self) -> Metric:
        """No counter: it falls when a policy is dearer than the model alone would have been."""
        text = "US dollars that one model alone would have cost beyond what was spent."
        saved = GaugeMetricFamily("gateway_saved_usd_total", text, labels=("baseline",))
        totals = {LARGEST: 0.0, BEST_SINGLE: 0.0}
        for policy, sides in self._sides.items():
            others = {side: sums for side, sums in sides.items() if side[0]}
            found = savings_of(policy, PolicySums(sides["", False], others, self._overheads[policy]))
            for name, against in ((LARGEST, found.largest), (BEST_SINGLE, found.best_single)):
                totals[name] += (against.saved_usd or 0.0) if against is not None else 0.0
        for name, dollars in totals.items() if self._sides else ():
            saved.add_metric((name,), dollars)
        return saved
